"""Give lowered kernels the form that a GPU runs.

In: a kernel as lowered for any machine. Out: the kernel whose parts are single launches (a
matrix product stands alone unless what follows is elementwise), without kept values that do not
fit in registers, with room for as many partial results as there are blocks; and a tile for each
part (None: a matrix product).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.lower.group import LoweredKernel
from flamec.codegen.lower.kernel_builder import Memory, PartialResults
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.product_writer import can_fuse, parted, product_elements
from flamec.codegen.triton.recompute import without_keeps
from flamec.codegen.triton.tiling import Tile, propose
from flamec.ir.kernel import Loop, Parameter, Part, RowProgram
from flamec.ir.shape import Dim, product, substitute


@dataclass(frozen=True)
class GpuKernel:
    lowered: LoweredKernel
    tiles: tuple[Tile | None, ...]


def gpu_form(lowered: LoweredKernel, options: CodegenOptions) -> GpuKernel:
    """See the module's docstring."""
    kernel = lowered.kernel
    parameters, buffers = list(kernel.parameters), list(lowered.buffers)
    parts: list[Part] = []
    tiles: list[Tile | None] = []
    for part in kernel.parts:
        rest: Part | None = part
        if part.program.contraction is not None:
            alone, rest = _products(part, parameters, buffers)
            parts.append(alone)
            tiles.append(None)
        if rest is not None:
            tile = propose(actual(rest), options)
            program = without_keeps(rest.program) if tile.looped else rest.program
            parts.append(replace(rest, program=program))
            tiles.append(tile)
            _make_room(rest, tile, buffers)
    kernel = replace(kernel, parameters=tuple(parameters), parts=tuple(parts))
    return GpuKernel(LoweredKernel(kernel, tuple(buffers)), tuple(tiles))


def own_sizes(part: Part) -> dict[str, Dim]:
    return dict(zip(part.program.sizes, part.sizes, strict=True))


def actual(part: Part) -> RowProgram:
    """A part's program with the sizes of its loops filled in, to choose a tile by."""
    own = own_sizes(part)
    program = part.program
    rows = tuple(Loop(l.name, substitute(l.size, own)) for l in program.rows)
    inner = tuple(Loop(l.name, substitute(l.size, own)) for l in program.inner)
    return replace(program, rows=rows, inner=inner)


def _products(
    part: Part, parameters: list[Parameter], buffers: list[Memory]
) -> tuple[Part, Part | None]:
    """The launch of a product, and what must follow it in a launch of its own."""
    program = part.program
    if can_fuse(program):
        return part, None
    c = program.contraction
    assert c is not None
    arguments, result = part.arguments, c.result
    if result < 0:
        result = len(program.parameters)
        arguments = (*arguments, len(parameters))
        program = replace(program, parameters=(*program.parameters, Parameter(c.memory, True)))
        parameters.append(Parameter(c.memory, True))
        buffers.append(PartialResults(c.memory, product_elements(c)))
    alone, rest = parted(program, result)
    first = Part(alone, arguments, (), (), part.sizes)
    if rest is None:
        return first, None
    return first, replace(part, program=rest, arguments=arguments)


def _make_room(part: Part, tile: Tile, buffers: list[Memory]) -> None:
    inner = product(loop.size for loop in actual(part).inner)
    for fold in part.program.folds("column"):
        number = part.arguments[fold.target]
        partial = buffers[number]
        assert isinstance(partial, PartialResults)
        buffers[number] = PartialResults(partial.memory, tile.chunks * inner)
