"""Give lowered kernels the form that a GPU runs.

In: a kernel as lowered for any machine. Out: the kernel whose parts are single launches (a
matrix product stands alone unless what follows is elementwise), without kept values that do not
fit in registers, with room for as many partial results as there are blocks; and a tile or a
``ProductSchedule`` for each part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import Memory, PartialResults
from flamec.codegen.lower.lanes import spill_type
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.attention_choice import attention_launches
from flamec.codegen.triton.choice import Choice, choose_schedule
from flamec.codegen.triton.narrow_rows import with_narrow_rows_joined
from flamec.codegen.triton.own_places import own_places
from flamec.codegen.triton.packed_groups import with_packed_groups
from flamec.codegen.triton.part_key import actual, part_key
from flamec.codegen.triton.product_parts import (
    can_fuse,
    joined,
    parted,
    product_elements,
    with_joined_rows,
)
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.codegen.triton.product_writer import accumulator, is_one_block_of_rows, row_blocks
from flamec.codegen.triton.recompute import without_keeps
from flamec.codegen.triton.scatter_phases import scatter_phases
from flamec.codegen.triton.split_rows import split_rows
from flamec.codegen.triton.table_scatter import shared_places
from flamec.codegen.triton.tiling import Tile, lanes_are_rows
from flamec.codegen.triton.unroll_rows import with_shared_loads
from flamec.ir.kernel import Parameter, Part, RowProgram
from flamec.ir.shape import Dim, product

ChooseTile = Callable[[RowProgram, CodegenOptions], Tile]


@dataclass(frozen=True)
class GpuKernel:
    """``joins``: positions of parts whose rows need what blocks of the part before have left."""

    lowered: LoweredKernel
    tiles: tuple[Tile | ProductSchedule, ...]
    choices: tuple[Choice, ...] = ()
    joins: frozenset[int] = frozenset()


def gpu_forms(
    kernels: Iterable[LoweredKernel], options: CodegenOptions, choose: ChooseTile | None = None
) -> dict[LoweredKernel, GpuKernel]:
    """``gpu_form`` of each kernel; those of one model differ in names and buffers only."""
    forms: dict[LoweredKernel, GpuKernel] = {}
    for lowered in kernels:
        model = forms.get(lowered.form)
        forms[lowered] = (
            gpu_form(lowered, options, choose) if model is None else _repeated(model, lowered)
        )
    return forms


def _repeated(model: GpuKernel, lowered: LoweredKernel) -> GpuKernel:
    """The form of a kernel whose model has one."""
    own = model.lowered
    named = lowered.kernel
    kernel = replace(
        own.kernel,
        name=named.name,
        locations=named.locations,
        modules=named.modules,
        checks=named.checks,
    )
    added = own.buffers[len(lowered.buffers) :]
    buffers = (*lowered.buffers, *added)
    fresh = tuple(
        PartialResults(like.memory, like.elements) if isinstance(like, PartialResults) else buffer
        for like, buffer in zip(own.buffers, buffers, strict=True)
    )
    form = replace(lowered, kernel=kernel, buffers=fresh, model=own)
    return GpuKernel(form, model.tiles, model.choices, model.joins)


def gpu_form(
    lowered: LoweredKernel, options: CodegenOptions, choose: ChooseTile | None = None
) -> GpuKernel:
    """See the module's docstring. ``choose`` gives row programs' tiles, whatever options say."""
    kernel = lowered.kernel
    memory = _Parameters(list(kernel.parameters), list(lowered.buffers))
    parts: list[Part] = []
    tiles: list[Tile | ProductSchedule] = []
    joins: set[int] = set()
    choices = [choose_schedule(launch, options) for launch in attention_launches(kernel)]
    known = _RowChoices(options, choose)
    for part in kernel.parts:
        if part.program.contraction is not None:
            part = replace(part, program=with_packed_groups(part.program))
            choice = choose_schedule(part, options)
            choices.append(choice)
            assert isinstance(choice.schedule, ProductSchedule)
            product_part, following = _products(part, choice.schedule, memory)
            parts.append(product_part)
            tiles.append(choice.schedule)
        else:
            following = [part]
        for rest, joining in (one for whole in following for one in _split(whole, memory, options)):
            rest, choice = known.choice(rest)
            choices.append(choice)
            tile = choice.schedule
            assert isinstance(tile, Tile)
            if joining:  # a block for the rows of a block before, which may be their last one
                before = tiles[-1]
                assert isinstance(before, Tile)
                strips = lanes_are_rows(rest.program, 0)
                tile = replace(tile, rows=before.rows if strips else 1)
                joins.add(len(parts))
            program = without_keeps(rest.program) if tile.looped else rest.program
            parts.append(replace(rest, program=program))
            tiles.append(tile)
            _make_room(rest, tile, memory.buffers)
    kernel = replace(kernel, parameters=tuple(memory.parameters), parts=tuple(parts))
    form = replace(lowered, kernel=kernel, buffers=tuple(memory.buffers), model=None)
    return GpuKernel(form, tuple(tiles), tuple(choices), frozenset(joins))


class _RowChoices:
    """The schedules of parts without products; made once for parts that run one program."""

    def __init__(self, options: CodegenOptions, choose: ChooseTile | None) -> None:
        self._options = options
        self._choose = choose
        self._known: dict[object, tuple[RowProgram, RowProgram, Choice]] = {}

    def choice(self, part: Part) -> tuple[Part, Choice]:
        """The part as it is written, and its schedule."""
        key = id(part.program), part.sizes
        if key not in self._known:
            program = with_narrow_rows_joined(with_shared_loads(part.program))
            self._known[key] = part.program, program, self._made(replace(part, program=program))
        _, program, like = self._known[key]
        part = replace(part, program=program)
        return part, replace(like, part=part)

    def _made(self, part: Part) -> Choice:
        options = self._options
        if self._choose is None:
            return choose_schedule(part, options)
        return Choice(part_key(part, options), self._choose(actual(part), options), part)


@dataclass
class _Parameters:
    """The parameters of a kernel, and what they are."""

    parameters: list[Parameter]
    buffers: list[Memory]

    def add(self, memory: str, elements: Dim) -> int:
        self.parameters.append(Parameter(memory, True))
        self.buffers.append(PartialResults(memory, elements))
        return len(self.parameters) - 1


def _split(part: Part, memory: _Parameters, options: CodegenOptions) -> list[tuple[Part, bool]]:
    """A part, or the two of one with few long rows, the second of which joins results, or the
    launches of a scatter."""
    if part.program.kind == "scatter":
        return [(launch, False) for launch in _scattered(part, memory, options)]
    split = split_rows(part.program, options) if part.program.contraction is None else None
    if split is None:
        return [(part, False)]
    numbers = []
    for _, lane in split.results:
        part, number = _with_parameter(part, spill_type(lane), split.rows * split.pieces, memory)
        numbers.append(number)
    split = replace(split, program=part.program)
    first, second = split.first(tuple(numbers)), split.second(tuple(numbers))
    return [(replace(part, program=first), False), (replace(part, program=second), True)]


def _scattered(part: Part, memory: _Parameters, options: CodegenOptions) -> list[Part]:
    """The launches of a scatter."""
    own = own_places(part.program, options)
    if own is not None:
        return [replace(part, program=own)]
    launches, phases = [part], scatter_phases(part.program, options)
    if phases is not None:
        for kind, elements, _ in phases.scratch:
            part, _ = _with_parameter(part, kind, elements, memory)
        launches = phases.parts(part)
    tables = [shared_places(launch.program, options) for launch in launches]
    return [
        launch if program is None else replace(launch, program=program)
        for launch, program in zip(launches, tables, strict=True)
    ]


def _products(
    part: Part, schedule: ProductSchedule, memory: _Parameters
) -> tuple[Part, list[Part]]:
    """The launch of a product, and what must follow it in launches of its own."""
    c = part.program.contraction
    assert c is not None
    fits = can_fuse(part.program)
    if fits and schedule.split_k == 1:
        return _with_joined_rows(part, schedule, memory)
    if schedule.split_k == 1:
        part, result = _with_result(part, memory)
        alone, rest = parted(part.program, result)
        following = [] if rest is None else [replace(part, program=rest)]
        return _alone(part, alone), following
    lane = accumulator(c, schedule)
    following = []
    if not fits:
        part, result = _with_result(part, memory)
        alone, rest = parted(part.program, result)
        assert rest is not None
        following.append(replace(part, program=rest))
        part = _alone(part, alone)
    part, sums = _with_parameter(part, lane, product_elements(c) * schedule.split_k, memory)
    program = part.program
    assert program.contraction is not None
    wide = replace(program.contraction, memory=lane, lane=lane, result=sums)
    alone = replace(program, passes=(), after=(), contraction=wide)
    total = joined(program, sums, lane, schedule.split_k)
    return _alone(part, alone), [replace(part, program=total), *following]


def _with_joined_rows(
    part: Part, schedule: ProductSchedule, memory: _Parameters
) -> tuple[Part, list[Part]]:
    """A product that folds its rows, and the launch that joins what its blocks leave."""
    folds = part.program.folds("column")
    if not folds or is_one_block_of_rows(part.program, schedule):
        return part, []
    c = part.program.contraction
    assert c is not None
    blocks = row_blocks(c, schedule)
    targets = []
    for fold in folds:
        left = part.arguments[fold.target]
        memory.buffers[left] = PartialResults(fold.lane, blocks * c.columns)
        part, target = _with_parameter(part, fold.lane, c.columns, memory)
        targets.append(target)
    first, join = with_joined_rows(part.program, blocks, targets)
    return replace(part, program=first, results=()), [replace(part, program=join)]


def _alone(part: Part, program: RowProgram) -> Part:
    """The part of a product without what follows it; uniform values only if operands need them."""
    c = program.contraction
    assert c is not None
    if c.left.prologue is None and c.right.prologue is None:
        return replace(part, program=replace(program, imports=()), imports=(), results=())
    return replace(part, program=program, results=())


def _with_result(part: Part, memory: _Parameters) -> tuple[Part, int]:
    """The part with a parameter for its product, and the number of that."""
    c = part.program.contraction
    assert c is not None
    if c.result >= 0:
        return part, c.result
    return _with_parameter(part, c.memory, product_elements(c), memory)


def _with_parameter(part: Part, kind: str, elements: Dim, memory: _Parameters) -> tuple[Part, int]:
    arguments = (*part.arguments, memory.add(kind, elements))
    parameters = (*part.program.parameters, Parameter(kind, True))
    program = replace(part.program, parameters=parameters)
    return replace(part, program=program, arguments=arguments), len(parameters) - 1


def _make_room(part: Part, tile: Tile, buffers: list[Memory]) -> None:
    inner = product(loop.size for loop in actual(part).inner)
    for fold in part.program.folds("column"):
        number = part.arguments[fold.target]
        partial = buffers[number]
        assert isinstance(partial, PartialResults)
        buffers[number] = PartialResults(partial.memory, tile.chunks * inner)
