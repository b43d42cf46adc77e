"""Write a matrix product, with what follows it elementwise, as one Triton kernel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flamec.codegen.triton.program_writer import Uniform, ceil_div, decomposed
from flamec.codegen.triton.source import EmittedLaunch, emit
from flamec.codegen.triton.statements import StatementWriter, stored
from flamec.codegen.triton.text import POINTERS, TYPES, dim, factor, power_of_two
from flamec.ir.kernel import Contraction, Fold, Linear, Load, MatrixOperand, Pass, RowProgram, Store
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim

_GROUP = 8  # blocks of rows that share a stretch of columns, for the L2 cache


@dataclass(frozen=True, slots=True)
class ProductTile:
    """A block of the result; ``depth`` 0: no matrix instructions, one step of depth at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


def propose_product(c: Contraction) -> ProductTile:
    """A tile by rule of thumb: large blocks where they fill the device."""
    rows = power_of_two(c.rows) if isinstance(c.rows, int) else 64
    columns = power_of_two(c.columns) if isinstance(c.columns, int) else 64
    if c.lane != "f32":
        return ProductTile(min(32, max(4, rows)), min(32, max(4, columns)), 0, 4, 1)
    if c.memory == "f32":
        return ProductTile(max(16, min(64, rows)), max(16, min(64, columns)), 16, 4, 2)
    large = min(rows, columns) >= 2048
    block = (128, 256, 64, 8, 3) if large else (128, 128, 64, 8, 3)
    if min(rows, columns) < 256:
        block = (64, 64, 64, 4, 3)
    depth = power_of_two(c.depth) if isinstance(c.depth, int) else 64
    return ProductTile(
        max(16, min(block[0], rows)),
        max(16, min(block[1], columns)),
        max(16, min(block[2], depth)),
        block[3],
        block[4],
    )


def dense_place(program: RowProgram) -> Linear:
    """Where the elements of a row-major array over all loops lie."""
    strides = dense_strides(tuple(loop.size for loop in (*program.rows, *program.inner)))
    return Linear(0, strides[: len(program.rows)], strides[len(program.rows) :])


def can_fuse(program: RowProgram) -> bool:
    """Whether all that follows a product is elementwise in its own place."""
    c = program.contraction
    assert c is not None
    if program.kind not in ("rows", "flat", "along rows") or program.after:
        return False
    place = dense_place(program)
    for s in program.statements():
        if isinstance(s, Fold):
            return False
        if not isinstance(s, Load) or s.place.parameter not in (-1, c.result):
            continue
        if s.place.at != place or s.place.indices or s.place.guards:
            return False
    return not any(isinstance(s, Store) for block in program.passes for s in block.row)


def parted(program: RowProgram, parameter: int) -> tuple[RowProgram, RowProgram | None]:
    """The product alone, left in a parameter, and what follows it (None: nothing)."""
    c = program.contraction
    assert c is not None
    alone = replace(
        program, passes=(), after=(), contraction=replace(c, result=parameter), imports=()
    )
    if not program.passes and not program.after:
        return alone, None

    def moved(block: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(
            replace(s, place=replace(s.place, parameter=parameter))
            if isinstance(s, Load) and s.place.parameter == -1
            else s
            for s in block
        )

    passes = tuple(Pass(moved(p.row), moved(p.element)) for p in program.passes)  # type: ignore[arg-type]
    return alone, replace(program, passes=passes, contraction=None)


def write_product(
    program: RowProgram, name: str, doc: str, uniform: Uniform, own: dict[str, Dim], wide: bool
) -> EmittedLaunch:
    """The launch of a program whose passes ``can_fuse``."""
    c = program.contraction
    assert c is not None
    tile = propose_product(c)
    writer = StatementWriter(
        tuple(loop.name for loop in program.rows),
        tuple(loop.name for loop in program.inner),
        product="product",
        product_parameter=c.result,
        reuse=True,
        written={i for i, p in enumerate(program.parameters) if p.written},
    )
    writer.varying["product"] = "rc"
    lines: list[str] = []
    for block in program.passes:
        for s in block.row:
            lines += writer.write(s, "r")
        for s in block.element:
            lines += writer.write(s, "rc")
    holes: dict[str, object] = {
        "name": name,
        "doc": doc,
        "tile": tile,
        "index": "tl.int64" if wide else "tl.int32",
        "group": _GROUP,
        "uniform": "\n".join(uniform.lines),
        "rows": dim(c.rows),
        "rows_factor": factor(c.rows),
        "columns": dim(c.columns),
        "columns_factor": factor(c.columns),
        "depth": dim(c.depth),
        "depth_block": tile.depth,
        "left": _operand(c.left),
        "right": _operand(c.right),
        "type": TYPES[c.lane],
        "result": f"p{c.result}" if c.result >= 0 else "",
        "stored": stored(c.memory, c.lane, "product"),
        "row_indices": decomposed(program.rows, "row") if lines else "",
        "inner_indices": decomposed(program.inner, "col") if lines else "",
        "body": "\n".join(lines),
    }
    pointers = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(program.parameters)}
    blocks = c.batch * ceil_div(c.rows, tile.rows) * ceil_div(c.columns, tile.columns)
    return emit(
        "product.py.j2",
        holes,
        pointers | uniform.pointers,
        blocks,
        tile.warps,
        stages=tile.stages,
    )


def product_elements(c: Contraction) -> Dim:
    return c.batch * c.rows * c.columns


def _operand(operand: MatrixOperand) -> dict[str, object]:
    """Parameter, strides, and the text of where the matrix of a batch starts."""
    terms, rest = [dim(operand.offset)], "batch"
    for size, stride in reversed(operand.batch):
        terms.append(f"({rest} % {factor(size)}) * {factor(stride)}")
        rest = f"({rest} // {factor(size)})"
    return {
        "parameter": operand.parameter,
        "start": " + ".join(terms),
        "free": factor(operand.free),
        "contracted": factor(operand.contracted),
    }
