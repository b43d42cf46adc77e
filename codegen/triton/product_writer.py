"""Write a matrix product, with what follows it elementwise, as one Triton kernel.

In: a program whose passes ``can_fuse``, and its schedule. Out: the launch. Where the depth is
split, the kernel leaves one array of sums for each part, which another program adds up in order
(``product_parts``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.triton.fold_text import masked, reduced
from flamec.codegen.triton.product_operands import (
    DescribedOperand,
    dense_result,
    describe_operand,
    described,
    matrix_start,
    operand_memory,
)
from flamec.codegen.triton.product_parts import dense_place
from flamec.codegen.triton.product_prologue import computed_operand, turned
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.codegen.triton.program_writer import Uniform, ceil_div, decomposed
from flamec.codegen.triton.rounded_values import rounding_of
from flamec.codegen.triton.source import Described, EmittedLaunch, emit
from flamec.codegen.triton.statements import StatementWriter, in_lanes, stored
from flamec.codegen.triton.text import POINTERS, TYPES, dim, factor
from flamec.ir.kernel import Contraction, Fold, Linear, Load, MatrixOperand, RowProgram, Store
from flamec.ir.layout import dense_strides
from flamec.ir.shape import Dim, is_multiple, structurally_equal

ACCUMULATORS = {"i8": "i32", "u8": "i32"}  # of lanes that matrix instructions add up wider


def accumulator(c: Contraction, schedule: ProductSchedule) -> str:
    """The lane type in which products are added up."""
    return ACCUMULATORS.get(c.lane, c.lane) if schedule.depth else c.lane


@dataclass
class _ProductStatements(StatementWriter):
    """Statements of an epilogue; results that the copy engine can store go through it.

    ``arrays`` are the descriptors by name, ``dense`` the place of a row-major result, ``block``
    the shape of a block of it.
    """

    arrays: dict[str, Described] = field(default_factory=dict)
    dense: Linear | None = None
    contraction: Contraction | None = None
    block: tuple[int, int] = (0, 0)

    def _store(self, s: Store, at_least: str) -> list[str]:
        plain = s.place.at == self.dense and not (s.place.indices or s.place.guards or s.combine)
        if plain and self.axes(s.operand) == "rc":
            text = stored(s.memory, s.lane, self.name(s.operand))
            line = self.described_store(s.place.parameter, s.memory, text)
            if line:
                return [line]
        return super()._store(s, at_least)

    def _loaded_text(self, s: Load, pointer: str, axes: str, conditions: list[str]) -> str:
        """Blocks that lie like the result come by the copy engine: pointers would be in an order
        of elements of their own, and what is computed with them in both."""
        plain = s.place.at == self.dense and not (s.place.indices or s.place.guards)
        place = self._described(s.place.parameter, s.memory) if plain and axes == "rc" else None
        if place is None or s.memory == "bool":
            return super()._loaded_text(s, pointer, axes, conditions)
        name, at, shape = place
        text = f"{name}.load([{at}])"
        if shape != self.block:
            text = f"tl.reshape({text}, {self.block})"
        return in_lanes(s.memory, text, self._in_pairs(s.place, axes))

    def described_store(self, parameter: int, memory: str, text: str, copies: int = 1) -> str:
        """The store of a whole block by descriptor; "" where that is not possible."""
        place = self._described(parameter, memory, copies)
        if place is None:
            return ""
        name, at, shape = place
        if shape != self.block:
            text = f"tl.reshape({text}, {shape})"
        return f"{name}.store([{at}], {text})"

    def _described(
        self, parameter: int, memory: str, copies: int = 1
    ) -> tuple[str, str, tuple[int, ...]] | None:
        """Descriptor, place and shape of a block of a dense matrix; None if there can be none."""
        c = self.contraction
        shape = None if c is None else dense_result(c, memory, copies)
        if shape is None or self.block[1] * MEMORY_BYTES[memory] < 16:
            return None
        name = f"d{2 + parameter}"
        self.arrays[name] = described(parameter, memory, 0, shape, dense_strides(shape), self.block)
        if len(shape) == 3:
            return name, "matrix, first_row, first_col", (1, *self.block)
        return name, "first_row, first_col", self.block


def write_product(
    program: RowProgram,
    schedule: ProductSchedule,
    precision: str,
    name: str,
    doc: str,
    uniform: Uniform,
    sizes: Mapping[str, Dim],
    wide: bool,
    strict: bool = False,
    one_step: bool = False,
) -> EmittedLaunch:
    """The launch of a program whose passes ``can_fuse``. ``precision`` of float32 products;
    ``one_step``: the depth is at most that of a block."""
    c = program.contraction
    assert c is not None
    arrays: dict[str, Described] = {}
    block = (schedule.rows, schedule.columns // schedule.store_parts)
    lane = accumulator(c, schedule)
    writer = _ProductStatements(
        tuple(loop.name for loop in program.rows),
        tuple(loop.name for loop in program.inner),
        product="product",
        product_parameter=c.result,
        reuse=True,
        rounding=rounding_of(program, strict),
        written={i for i, p in enumerate(program.parameters) if p.written},
        arrays=arrays,
        dense=dense_place(program),
        contraction=c if schedule.tma else None,
        block=block,
    )
    writer.varying["product"] = "rc"
    body: list[str] = []
    if c.result >= 0:
        text = stored(c.memory, c.lane, "product")
        store = writer.described_store(c.result, c.memory, text, schedule.split_k)
        place = f"p{c.result} + (row * {factor(c.columns)} + col)"
        body.append(store or f"tl.store({place}, {text}, mask)")
    at_once = is_one_block_of_rows(program, schedule)
    for part in program.passes:
        for s in part.row:
            body += writer.write(s, "r")
        for s in part.element:
            if isinstance(s, Fold):
                body += _fold(writer, s, c, schedule, at_once)
            else:
                body += writer.write(s, "rc")
    if at_once:
        for s in program.after:
            body += writer.write(s, "c")
    single = structurally_equal(c.batch * schedule.split_k, 1)
    tiles = ceil_div(c.rows, schedule.rows) * ceil_div(c.columns, schedule.columns)
    blocks = c.batch * schedule.split_k * tiles
    height = schedule.rows // schedule.bands
    if schedule.in_registers:
        bands, right = _turned(program, c, schedule, arrays, wide)
        band_shape = (schedule.columns, schedule.rows)
    else:
        bands = _bands(program, c, schedule, arrays, wide)
        right = _operand(program, c, schedule, arrays, wide, left=False)
        band_shape = (height, schedule.columns)
    holes: dict[str, object] = {
        "name": name,
        "doc": doc,
        "tile": schedule,
        "width": block[1],
        "band_shape": str(band_shape),
        "index": "tl.int64" if wide else "tl.int32",
        "wide": wide,
        "single": single,
        "uniform": "\n".join(uniform.lines),
        "batch": factor(c.batch),
        "rows": dim(c.rows),
        "rows_factor": factor(c.rows),
        "columns": dim(c.columns),
        "columns_factor": factor(c.columns),
        "depth": dim(c.depth),
        "depth_end": _depth_end(c, schedule, one_step, (*bands, right)),
        "bands": bands,
        "right": right,
        "type": TYPES[lane],
        "narrows": TYPES[c.lane] if lane != c.lane else "",
        "dot_options": f'input_precision="{precision}"'
        if lane == "f32"
        else f"out_dtype={TYPES[lane]}",
        "row_indices": decomposed(program.rows, "row"),
        "inner_indices": decomposed(program.inner, "col"),
        "body": "\n".join(body),
        "folds": bool(program.folds("column")) and not at_once,
        **_blocks(c),
    }
    pointers = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(program.parameters)}
    return emit(
        "product.py.j2",
        holes,
        pointers | uniform.pointers,
        blocks,
        schedule.warps,
        sizes,
        stages=schedule.stages,
        wide=wide,
        described=arrays,
        persistent=int(schedule.persistent),
        rounded=_rounded(program, c, precision, arrays),
    )


def _depth_end(
    c: Contraction,
    schedule: ProductSchedule,
    one_step: bool,
    operands: Sequence[Mapping[str, object]],
) -> str:
    """Where the loop over the depth ends. One step is no loop, which is known where its length is
    a number; what it loads is masked, unless descriptors do that, of which there are none for
    arrays without elements."""
    if isinstance(c.depth, int):
        return str(c.depth)
    if one_step and not any(operand["block"] for operand in operands):
        return str(schedule.depth)
    return f"({dim(c.depth)}).to(tl.int32)"


def _blocks(c: Contraction) -> dict[str, object]:
    """How many matrices a right one has on its diagonal; elements of each along the last loop of
    its depth, and its columns."""
    if c.blocks == 1:
        return {"blocks": 1}
    assert c.right.prologue is not None and isinstance(c.columns, int)
    depth = c.right.prologue.rows[-1].size
    return {"blocks": c.blocks, "block_depth": depth, "block_columns": c.columns // c.blocks}


def row_blocks(c: Contraction, schedule: ProductSchedule) -> Dim:
    """How many blocks of rows the matrices have together."""
    return c.batch * ceil_div(c.rows, schedule.rows)


def is_one_block_of_rows(program: RowProgram, schedule: ProductSchedule) -> bool:
    """Whether a block has all rows of its columns, and can do what follows them."""
    c = program.contraction
    assert c is not None
    return structurally_equal(c.batch, 1) and isinstance(c.rows, int) and c.rows <= schedule.rows


def _fold(
    writer: StatementWriter, s: Fold, c: Contraction, schedule: ProductSchedule, at_once: bool
) -> list[str]:
    """A fold over the rows of a block; unless they are all, the result is left for others."""
    mask = "" if is_multiple(c.rows, schedule.rows) else "row_mask"
    value = reduced(s, masked(writer, s, mask), 0)
    if at_once:
        writer.varying[s.name] = "c"
        return [f"{s.name} = {value}"]
    place = f"p{s.target} + (row_place * {factor(c.columns)} + col)"
    return [f"tl.store({place}, {value}, col_mask)"]


def _rounded(
    program: RowProgram, c: Contraction, precision: str, arrays: Mapping[str, Described]
) -> tuple[str, ...]:
    """The descriptors of operands that are multiplied as tf32."""
    operands = (("d0", c.left), ("d1", c.right))
    found = [name for name, operand in operands if operand_memory(program, operand) == "f32"]
    return tuple(name for name in found if precision == "tf32" and name in arrays)


def _bands(
    program: RowProgram,
    c: Contraction,
    schedule: ProductSchedule,
    arrays: dict[str, Described],
    wide: bool,
) -> list[dict[str, object]]:
    """The text of the left operand for each band of a tile's rows; what its names end in."""
    found = []
    for number in range(schedule.bands):
        band = str(number) if schedule.bands > 1 else ""
        start = f"first_row + {number * schedule.rows // schedule.bands}" if number else "first_row"
        text = _operand(program, c, schedule, arrays, wide, left=True, band=band, start=start)
        place = {"first": start, "height": schedule.rows // schedule.bands, "end": dim(c.rows)}
        found.append({**text, "name": band, **place})
    return found


def _turned(
    program: RowProgram,
    c: Contraction,
    schedule: ProductSchedule,
    arrays: dict[str, Described],
    wide: bool,
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """The text of the operands of the transposed product, whose rows are the columns."""
    assert c.right.prologue is not None
    left = replace(c.right, prologue=turned(c.right.prologue))
    other = replace(c, left=left, right=c.left, rows=c.columns, columns=c.rows)
    sides = replace(schedule, rows=schedule.columns, columns=schedule.rows)
    band, start = "t", "first_col"
    text = _operand(program, other, sides, arrays, wide, left=True, band=band, start=start)
    place = {"first": start, "height": sides.rows, "end": dim(other.rows)}
    right = _operand(program, other, sides, arrays, wide, left=False, start="first_row")
    return [{**text, "name": band, **place}], right


def _operand(
    program: RowProgram,
    c: Contraction,
    schedule: ProductSchedule,
    arrays: dict[str, Described],
    wide: bool,
    left: bool,
    band: str = "",
    start: str = "",
) -> dict[str, object]:
    """The text of one operand: a block by descriptor, or what pointers are made of. ``start``: its
    first row or column."""
    operand: MatrixOperand = c.left if left else c.right
    memory = operand_memory(program, operand)
    height = schedule.rows // schedule.bands
    free, block = (c.rows, height) if left else (c.columns, schedule.columns)
    unsigned = ".to(tl.int8, bitcast=True)" if memory == "u8" else ""
    found = {
        "parameter": operand.parameter,
        "start": matrix_start(operand),
        "free": factor(operand.free),
        "contracted": factor(operand.contracted),
        "cast": unsigned if schedule.depth else "",
        "whole": isinstance(c.depth, int) and schedule.depth and c.depth % schedule.depth == 0,
        "block": "",
        "before": "",
        "lines": "",
    }
    if operand.prologue is not None:
        found |= computed_operand(operand.prologue, c, schedule, left, wide, band, start)
        if found["cast"]:
            name = f"a{band}" if left else "b"
            found["lines"] = f"{found['lines']}\n{name} = {name}{unsigned}"
    elif schedule.tma:
        seen: DescribedOperand | None = describe_operand(operand, memory, free, c.depth)
        assert seen is not None, "the schedule uses the copy engine where it cannot read"
        name, place = ("d0", start or "first_row") if left else ("d1", start or "first_col")
        arrays[name] = seen.array(operand.parameter, memory, block, schedule.depth)
        sizes = (block, schedule.depth) if left else (schedule.depth, block)
        found["block"] = seen.load(name, place, "first", sizes, left)
    return found
