"""Decide which memory every kernel parameter means.

In: kernels in execution order with the values their parameters stand for. Out: the
plan's buffers and, for each kernel, buffer numbers. A new value of an input is
written straight into the input's buffer if nobody reads the old value later and the
kernel that writes it reads each element before it overwrites it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard
from weakref import WeakKeyDictionary

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import Memory, PartialResults
from flamec.codegen.lower.lanes import MEMORY_DTYPES
from flamec.ir.graph import Value
from flamec.ir.kernel import Kernel, Load, Place, RowProgram, Statement, Store
from flamec.ir.plan import Buffer, dense_elements
from flamec.ir.shape import Dim, product, structurally_equal
from flamec.ir.tasks import TaskGraph
from flamec.ir.types import DType, TensorType


@dataclass
class BufferTable:
    """The plan's buffers and where each value lives. ``copies`` are (source, target) buffers
    that must be copied when all kernels are done."""

    buffers: list[Buffer] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    _of: dict[Memory, int] = field(default_factory=dict)

    def number(self, memory: Memory) -> int:
        """The buffer of a value; a temporary unless it was placed before."""
        if memory not in self._of:
            if isinstance(memory, PartialResults):
                dtype = MEMORY_DTYPES[memory.memory]
                self._new(memory, "temporary", "partial", dtype, memory.elements)
            else:
                self.new_value(memory, "temporary")
        return self._of[memory]

    def is_placed(self, value: Memory) -> bool:
        return value in self._of

    def is_temporary(self, value: Value) -> bool:
        return self.is_placed(value) and self.buffers[self._of[value]].kind == "temporary"

    def share(self, value: Value, buffer: int) -> None:
        """Let a value live in an existing buffer."""
        self._of[value] = buffer

    def new_temporary(self, name: str, type: TensorType) -> int:
        """A buffer that stands for no value."""
        self.buffers.append(
            Buffer(f"{name}{len(self.buffers)}", "temporary", type.dtype, dense_elements(type))
        )
        return len(self.buffers) - 1

    def _new(self, memory: Memory, kind: str, name: str, dtype: DType, elements: Dim) -> int:
        self._of[memory] = len(self.buffers)
        self.buffers.append(Buffer(f"{name}{len(self.buffers)}", kind, dtype, elements))
        return self._of[memory]

    def new_value(self, value: Value, kind: str) -> int:
        name = value.name or (value.node.op.name if value.node else kind)
        return self._new(value, kind, name, value.type.dtype, dense_elements(value.type))


def assign_buffers(
    context: TaskGraph, kernels: Sequence[LoweredKernel], writers_last: bool = False
) -> BufferTable:
    """Place inputs, outputs and updates; everything else becomes a temporary on demand.

    ``writers_last``: a part of a kernel that overwrites what other parts read comes after them; no
    kernel has two such parts, because one might overwrite what the other reads.
    """
    table = BufferTable()
    for value in context.graph.inputs:
        table.inputs.append(table.new_value(value, "input"))
    for value in context.outputs:
        table.outputs.append(table.new_value(value, "output"))
    touching = _touching(kernels)
    last: dict[int, int] | None = {} if writers_last else None
    for position, value in context.updates.items():
        target = table.inputs[position]
        old = context.graph.inputs[position]
        if not table.is_placed(value) and _may_overwrite(kernels, touching, old, value, last):
            table.share(value, target)
        else:
            table.copies.append((table.number(value), target))
    return table


Touching = dict[Memory, dict[int, int]]  # for each value: kernels, and which parameter it is


def _touching(kernels: Sequence[LoweredKernel]) -> Touching:
    found: Touching = {}
    for position, lowered in enumerate(kernels):
        for number, buffer in enumerate(lowered.buffers):
            found.setdefault(buffer, {}).setdefault(position, number)
    return found


def _may_overwrite(
    kernels: Sequence[LoweredKernel],
    touching: Touching,
    old: Value,
    new: Value,
    last: dict[int, int] | None,
) -> bool:
    """Whether ``new`` may be written into the memory of ``old``.

    ``last``: the parts that come last in their kernels, where parts may; one may be added."""
    parameters, readers = touching.get(new, {}), touching.get(old, {})
    writers = (
        i
        for i, number in parameters.items()
        if kernels[i].kernel.parameters[number].written
        and not _stores_what_is_there(kernels[i], _with_shared(kernels[i].buffers, old, new))
    )
    first = next(writers, None)
    if first is None or any(i > first for i in readers):
        return False
    if first not in readers:
        return True
    read, written = readers[first], parameters[first]
    if may_share(kernels[first], read, written):
        return True
    if last is None or not may_share(kernels[first], read, written, writers_last=True):
        return False
    (part,) = kernels[first].users[written]
    return last.setdefault(first, part) == part


def _with_shared(buffers: Sequence[Memory], old: Value, new: Value) -> list[Memory]:
    """The buffers of a kernel if ``new`` is in the memory of ``old``."""
    return [old if buffer == new else buffer for buffer in buffers]


def reads_before_writing(lowered: LoweredKernel, old: Memory, new: Memory) -> bool:
    """``may_share`` of two buffers."""
    return may_share(lowered, lowered.buffers.index(old), lowered.buffers.index(new))


def may_share(lowered: LoweredKernel, read: int, written: int, writers_last: bool = False) -> bool:
    """Whether every element of the parameter ``read`` is read, and for the last time, before the
    element of ``written`` at the same place is written, and no other thread reads it.

    Asked once for all kernels that do the same. ``writers_last``: see ``assign_buffers``."""
    form = lowered.form
    known = _sharing.get(form)
    if known is None:
        known = _sharing[form] = {}
    key = read, written, writers_last
    found = known.get(key)
    if found is None:
        found = known[key] = _may_share(form, *key)
    return found


def _may_share(lowered: LoweredKernel, read: int, written: int, writers_last: bool) -> bool:
    if lowered.control is not None or lowered.user is not None:
        return False
    kernel = lowered.kernel
    if kernel.attention is not None or kernel.sort is not None:
        return False  # blocks read what others write
    if kernel.parameters[read].memory != kernel.parameters[written].memory:
        return False
    users = lowered.users
    reading = [kernel.parts[i] for i in users.get(read, ())]
    writing = [kernel.parts[i] for i in users.get(written, ())]
    if not _finish_allows(kernel, read, written, bool(writing) or written in lowered.stored_once):
        return False
    if written in lowered.stored_once:
        return not reading  # uniform stores precede the rows
    if not writing:
        return True  # stored when the rows are done
    if len(writing) > 1:
        return False
    if any(p is not writing[0] for p in reading) and not (
        writers_last and _may_come_last(lowered, *users[written])
    ):
        return False
    known = _known.setdefault(lowered.form, {})
    for way in writing[0].ways:
        arguments, program = way.arguments, way.program
        if written not in arguments:
            continue
        source = arguments.index(read) if read in arguments else -1
        target = arguments.index(written)
        key = id(program), source, target  # parts of a kernel share programs
        if key not in known:
            known[key] = _program_allows(program, source, target)
        if not known[key]:
            return False
    return True


def _may_come_last(lowered: LoweredKernel, position: int) -> bool:
    """Whether a part does the same after all others: what it writes they neither read nor write,
    and it reads nothing that they write."""
    kernel, users = lowered.kernel, lowered.users
    for number, parameter in enumerate(kernel.parameters):
        own = users.get(number, [])
        if parameter.written and position in own and len(own) > 1:
            return False
    programs = [part.program for part in kernel.parts]
    return not kernel.finish and not any(
        p.kind in ("scatter", "tables") or p.contraction is not None or p.after for p in programs
    )


_known: WeakKeyDictionary[LoweredKernel, dict[tuple[int, int, int], bool]] = WeakKeyDictionary()
_sharing: WeakKeyDictionary[LoweredKernel, dict[tuple[int, int, bool], bool]] = WeakKeyDictionary()


def working_kernels(kernels: Sequence[LoweredKernel], table: BufferTable) -> list[int]:
    """The positions of kernels that do something: a copy may have been given the same memory for
    what it reads and what it writes."""
    return [
        i
        for i, kernel in enumerate(kernels)
        if not all(map(table.is_placed, kernel.buffers))
        or not _stores_what_is_there(kernel, [table.number(b) for b in kernel.buffers])
    ]


def _stores_what_is_there(lowered: LoweredKernel, buffers: Sequence[Hashable]) -> bool:
    """Whether a kernel copies elements to where they are; ``buffers``: the same for the same
    memory."""
    kernel = lowered.kernel
    if lowered.control or lowered.user or lowered.host or kernel.attention or kernel.sort:
        return False
    if not kernel.parts or kernel.uniform or kernel.finish:
        return False
    if len(set(buffers)) == len(buffers):
        return False
    return all(
        _program_stores_what_is_there(way.program, [buffers[a] for a in way.arguments])
        for part in kernel.parts
        for way in part.ways
    )


def _program_stores_what_is_there(program: RowProgram, buffers: Sequence[Hashable]) -> bool:
    if program.contraction is not None or program.after:
        return False
    loads: dict[str, Load] = {}
    for s in program.statements():
        if isinstance(s, Load):
            loads[s.name] = s
            continue
        if not isinstance(s, Store) or s.combine:
            return False
        source = loads.get(s.operand)
        if source is None or source.memory != s.memory or not _same(source.place, s.place):
            return False
        if buffers[source.place.parameter] != buffers[s.place.parameter]:
            return False
    return True


def _finish_allows(kernel: Kernel, read: int, written: int, earlier: bool) -> bool:
    """Whether what is read when the rows are done is then still there; ``earlier``: ``written``
    is stored before that."""
    loads = [i for i, s in enumerate(kernel.finish) if _is_load(s, read)]
    stores = [i for i, s in enumerate(kernel.finish) if _is_store(s, written)]
    return not loads or (not earlier and all(max(loads) < i for i in stores))


def _program_allows(program: RowProgram, source: int, target: int) -> bool:
    contraction = program.contraction
    if contraction is not None:
        read = {contraction.left.parameter, contraction.right.parameter}
        for prologue in (contraction.left.prologue, contraction.right.prologue):
            read |= {load.place.parameter for load in (prologue.loads() if prologue else ())}
        if source in read or contraction.result in (source, target):
            return False
    stores: list[tuple[int, Place]] = []
    loads: list[tuple[int, Place]] = []
    for number, block in enumerate(program.passes):
        for order, statements in ((2 * number, block.row), (2 * number + 1, block.element)):
            for s in statements:
                if isinstance(s, Store) and s.place.parameter == target:
                    stores.append((order, s.place))
                if isinstance(s, Load) and s.place.parameter == source:
                    loads.append((order, s.place))
    loads += [(1 << 30, s.place) for s in program.after if _is_load(s, source)]
    stores += [(1 << 30, s.place) for s in program.after if _is_store(s, target)]
    if not stores or any(not _same(place, stores[0][1]) for _, place in stores):
        return not loads
    first, stored = min(order for order, _ in stores), stores[0][1]
    width = product(loop.size for loop in program.inner)
    return all(
        order <= first
        and (_same(place, stored) or (order < first and _picks(place, stored, width)))
        for order, place in loads
    )


def _is_load(s: Statement, parameter: int) -> TypeGuard[Load]:
    return isinstance(s, Load) and s.place.parameter == parameter


def _is_store(s: Statement, parameter: int) -> TypeGuard[Store]:
    return isinstance(s, Store) and s.place.parameter == parameter


def _same(a: Place, b: Place) -> bool:
    plain = not (a.indices or b.indices or a.guards or b.guards)
    return plain and a.at == b.at


def _picks(place: Place, stored: Place, width: Dim) -> bool:
    """Whether an element is taken, by a computed index, from the row that is stored."""
    if len(place.indices) != 1 or place.guards or stored.indices or stored.guards:
        return False
    (index,) = place.indices
    whole = structurally_equal(index.size, width) and (stored.at.inner, index.stride) == ((1,), 1)
    inside = all(structurally_equal(stride, 0) for stride in place.at.inner)
    beginning = (place.at.rows, place.at.offset) == (stored.at.rows, stored.at.offset)
    return whole and inside and beginning


def in_place_pairs(
    lowered: LoweredKernel, numbers: Sequence[int], table: BufferTable
) -> list[tuple[int, int]]:
    """(written, read) temporaries of one kernel that may share memory."""
    parameters = lowered.kernel.parameters
    movable = [i for i, n in enumerate(numbers) if table.buffers[n].kind == "temporary"]
    pairs = []
    for w in (i for i in movable if parameters[i].written):
        for r in (i for i in movable if not parameters[i].written and numbers[i] != numbers[w]):
            if may_share(lowered, r, w):
                pairs.append((numbers[w], numbers[r]))
    return pairs
