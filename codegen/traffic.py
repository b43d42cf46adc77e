"""How many bytes a kernel moves and how much it computes, by its own text.

Each distinct tensor counts once, with the elements that are touched (a slice or a
gather does not count the whole tensor). What stays in cache inside a kernel (panels,
kept rows, partial results) does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from weakref import WeakKeyDictionary

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import PartialResults
from flamec.ir.kernel import (
    Attention,
    CheckedIndex,
    Compute,
    Contraction,
    Fold,
    Kernel,
    Linear,
    Load,
    Part,
    Place,
    RandomBits,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.shape import Dim, product, structural_key, structurally_equal, substitute

_known: WeakKeyDictionary[LoweredKernel, tuple[Dim, Dim, Dim]] = WeakKeyDictionary()


def traffic(lowered: LoweredKernel) -> tuple[Dim, Dim, Dim]:
    """Bytes read, bytes written, arithmetic operations; once for all kernels that do the same."""
    form = lowered.form
    known = _known.get(form)
    if known is None:
        known = _known[form] = *_moved(form), flops(form.kernel)
    return known


def flops(kernel: Kernel) -> Dim:
    """Arithmetic operations: two for each multiplication of a matrix product."""
    total: Dim = 0 if kernel.attention is None else _attention_flops(kernel.attention)
    for part in kernel.parts:
        program = part.program
        elements = product(_actual_sizes(part))
        for block in program.passes:
            count = sum(isinstance(s, (Compute, Fold)) for s in block.element)
            total = total + elements * count
        if program.contraction is not None:
            c = program.contraction
            total = total + 2 * c.batch * c.rows * c.columns * c.depth
    return total


def index_sizes(kernel: Kernel) -> Iterator[Dim]:
    """The sizes of what the kernel looks up by computed indices."""
    statements = [*kernel.uniform, *kernel.finish]
    for part in kernel.parts:
        statements += [*part.program.statements(), *part.program.after]
    for s in statements:
        if isinstance(s, CheckedIndex):
            yield s.size
        elif isinstance(s, (Load, Store)):
            yield from (index.size for index in s.place.indices)


def _attention_flops(a: Attention) -> Dim:
    """Of the products; a mask that leaves half of the scores out halves them."""
    numbers = 3 * a.depth + 2 * a.width if a.is_backward else a.depth + a.width
    total = 2 * a.batch * a.rows * a.columns * numbers
    return total if a.upper is None else total // 2


def _actual_sizes(part: Part) -> tuple[Dim, ...]:
    """The sizes of a part's loops, its own sizes filled in."""
    own = dict(zip(part.program.sizes, part.sizes, strict=True))
    return tuple(substitute(l.size, own) for l in (*part.program.rows, *part.program.inner))


def _moved(lowered: LoweredKernel) -> tuple[Dim, Dim]:
    """Bytes of all tensors that the kernel loads, and of those that it stores."""
    kernel = lowered.kernel
    alone = lowered.host is not None or lowered.user is not None
    if alone or kernel.attention is not None or kernel.sort is not None:
        return _whole_buffers(lowered, False), _whole_buffers(lowered, True)
    touched: tuple[_Touched, _Touched] = ({}, {})
    for arguments, place, elements, is_store in _accesses(kernel):
        number = arguments[place.parameter] if arguments is not None else place.parameter
        touched[is_store].setdefault(number, {})[(arguments, place)] = elements
    return _total(lowered, touched[False]), _total(lowered, touched[True])


_Touched = dict[int, dict[object, Dim]]  # by parameter: places, and how many elements each is


def _total(lowered: LoweredKernel, touched: _Touched) -> Dim:
    total: Dim = 0
    for number, accesses in touched.items():
        buffer = lowered.buffers[number]
        if isinstance(buffer, PartialResults):
            continue
        whole = product(buffer.type.shape)
        total = total + _capped(list(accesses.values()), whole) * buffer.type.dtype.itemsize
    return total


def _whole_buffers(lowered: LoweredKernel, written: bool) -> Dim:
    total: Dim = 0
    for buffer, parameter in zip(lowered.buffers, lowered.kernel.parameters, strict=True):
        if parameter.written == written and not isinstance(buffer, PartialResults):
            total = total + product(buffer.type.shape) * buffer.type.dtype.itemsize
    return total


def _capped(parts: Sequence[Dim], whole: Dim) -> Dim:
    """The sum of the parts, at most the whole where that can be told."""
    if any(structurally_equal(part, whole) for part in parts):
        return whole
    total: Dim = 0
    for part in parts:
        total = total + part
    if isinstance(total, int) and isinstance(whole, int):
        return min(total, whole)
    return total if len(parts) == 1 else whole


Access = tuple[tuple[int, ...] | None, Place, Dim, bool]


def _accesses(kernel: Kernel) -> Iterator[Access]:
    for statement in (*kernel.uniform, *kernel.finish):
        yield from _statement_access(statement, None, ())
    known: dict[object, list[Access]] = {}  # of the first part with a program, for these sizes
    for part in kernel.parts:
        program = part.program
        key = id(program), structural_key(part.sizes)
        if key not in known:
            known[key] = list(_part_accesses(part))
        for _, place, elements, is_store in known[key]:
            yield part.arguments, place, elements, is_store


def _part_accesses(part: Part) -> Iterator[Access]:
    program, sizes = part.program, _actual_sizes(part)
    for statement in (*program.statements(), *program.after):
        yield from _statement_access(statement, part, sizes)
    if program.contraction is not None:
        yield from _product_accesses(program.contraction, program, part.arguments)


def _statement_access(
    statement: Statement, part: Part | None, sizes: tuple[Dim, ...]
) -> Iterator[Access]:
    arguments = part.arguments if part is not None else None
    if isinstance(statement, RandomBits):
        yield arguments, statement.state, 2, False
        return
    if not isinstance(statement, (Load, Store)) or statement.place.parameter < 0:
        return
    place = statement.place
    elements: Dim = 1
    if part is not None:
        written = part.program.parameters[place.parameter].written
        if isinstance(statement, Load) and written and not place.indices:
            return  # what the kernel itself has put there
        strides = zip(sizes, (*place.at.rows, *place.at.inner), strict=True)
        moving = place.indices or place.guards
        elements = product(n for n, s in strides if moving or not structurally_equal(s, 0))
    yield arguments, place, elements, isinstance(statement, Store)


def _product_accesses(
    c: Contraction, program: RowProgram, arguments: tuple[int, ...]
) -> Iterator[Access]:
    def access(parameter: int, elements: Dim, stored: bool) -> Access:
        return arguments, Place(parameter, Linear(0, (), ())), elements, stored

    for operand, free in ((c.left, c.rows), (c.right, c.columns)):
        if operand.prologue is None:
            yield access(operand.parameter, c.batch * free * c.depth, False)
            continue
        loops = (*operand.prologue.rows, *operand.prologue.inner)
        for s in operand.prologue.loads():
            strides = zip(loops, (*s.place.at.rows, *s.place.at.inner), strict=True)
            moving = [l.size for l, stride in strides if not structurally_equal(stride, 0)]
            yield arguments, s.place, product(moving), False
    stores = (s for s in program.statements() if isinstance(s, Store))
    is_stored = any(s.place.parameter == c.result for s in stores)
    if c.result >= 0 and not is_stored:
        yield access(c.result, c.batch * c.rows * c.columns, True)
