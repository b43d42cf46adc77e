"""C text of matrix products: a call of the BLAS, small loops, or a call of the runtime's product
of operands that are no matrices in memory."""

from __future__ import annotations

from flamec.codegen.c.text import C_TYPES, dim, factor
from flamec.codegen.lower.direct_results import MOST_SUMS
from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.schedule import ROW_UNIT, Schedule
from flamec.ir.kernel import Contraction, MatrixOperand, RowProgram, Steps
from flamec.ir.shape import Dim, structurally_equal

SMALL_PRODUCT = 1 << 15  # multiplications up to which our own loops win
DOT_ROWS = 3  # rows up to which dot products of contiguous rows beat a BLAS, which packs
FEW_ROWS = 64
COLUMN_STRIP = 96  # columns of the smallest piece of a product that is divided along them
# Of a product along runs of its depth (flamec_product_of_runs.h), which are worth it if long.
MOST_ROWS, MOST_COLUMNS = 64, 576
SHORTEST_RUN, DEEP = 16, 256
# Bytes that a product of uneven operands needs (flamec_product.h), and one that is not row-major.
PANELS_MEMORY, PRODUCT_MEMORY = 649 << 10, 1449 << 10
_BLAS = {"f32": ("sgemm", "FlamecSgemm"), "f64": ("dgemm", "FlamecDgemm")}


def may_call_blas(c: Contraction) -> bool:
    """Whether a product is, or at run time may be, too large for our own loops."""
    if c.is_uneven:
        return False
    work = c.rows * c.columns * c.depth
    return c.memory in _BLAS and not (isinstance(work, int) and work <= SMALL_PRODUCT)


def product_holes(program: RowProgram, schedule: Schedule) -> dict[str, str | bool] | None:
    """What the rows template needs to compute panels of a product; None without a product."""
    c = program.contraction
    if c is None:
        return None
    lines = [
        f"const int64_t product_row = panel_begin - matrix * ({dim(c.rows)}), first_column = 0;",
        f"const int64_t rows = panel_end - panel_begin, columns = {dim(c.columns)};",
    ]
    if c.result < 0:
        kind = C_TYPES[c.memory]
        lines.append("void *result = panel_memory;")
        lines.append(f"const {kind} *panel = panel_memory - panel_begin * columns;")
    else:
        lines.append(f"void *result = p{c.result} + panel_begin * columns;")
    lines += _product(c)
    return {
        "rows": dim(c.rows),
        "panel": str(schedule.panel),
        "whole_units": not c.is_uneven,  # the bits of which depend on no unit
        "call": "\n".join(lines),
    }


def lone_product_holes(c: Contraction) -> dict[str, str | bool]:
    """What the template of a product without an epilogue needs."""
    place = f"result_row * {factor(c.columns)} + first_column"
    if c.stored is not None:
        place = dim(c.stored.offset)
    lines = [f"void *result = p{c.result} + ({place});", *_product(c)]
    return {
        "wide": is_wide(c),
        "whole_units": not c.is_uneven,
        "strip": column_unit(c),
        "unit": row_unit(c),
        "matrices": dim(c.batch),
        "rows": dim(c.rows),
        "columns": dim(c.columns),
        "call": "\n".join(lines),
    }


def row_unit(c: Contraction, most: int = 1 << 30) -> str:
    """C text of the rows of a unit of work, which depends on the product's sizes alone."""
    return f"flamec_unit({factor(c.columns)} * {factor(c.depth)}, {ROW_UNIT}, {most})"


def column_unit(c: Contraction) -> str:
    """The same for a product that is divided along its columns."""
    return f"flamec_unit({factor(c.rows)} * {factor(c.depth)}, {COLUMN_STRIP}, 1 << 30)"


def is_wide(c: Contraction) -> str:
    """C text of whether a product is divided along its columns: a row or two for each thread
    would make every thread read all of the right operand."""
    rows = dim(c.batch * c.rows)
    return f"({rows}) < {FEW_ROWS} && {dim(c.columns)} > 4 * ({rows})"


def _operands(c: Contraction) -> list[str]:
    """Pointers to the first elements that are read."""
    kind = C_TYPES[c.memory]
    left = f"{_batch_offset(c.left)} + product_row * {factor(c.left.free)}"
    right = f"{_batch_offset(c.right)} + first_column * {factor(c.right.free)}"
    return [
        f"const {kind} *left = p{c.left.parameter} + ({left});",
        f"const {kind} *right = p{c.right.parameter} + ({right});",
    ]


def _product(c: Contraction) -> list[str]:
    """The product of ``rows`` rows from ``product_row`` on and ``columns`` columns from
    ``first_column`` on into ``result``."""
    if c.is_uneven:
        return _uneven_product(c)
    return [*_operands(c), *_even_product(c)]


def _uneven_product(c: Contraction) -> list[str]:
    """A call of the runtime's product of operands that are no matrices in memory."""
    step = dim(c.columns) if c.stored is None else "0"
    lines = [
        "const FlamecProduct product = {",
        f"    {_uneven_operand(c.left)},",
        f"    {_uneven_operand(c.right)},",
        f"    product_row, rows, first_column, columns, {dim(c.depth)}, result, {step}, "
        f"{run_along_depth(c)},",
    ]
    if c.stored is not None:
        down, across = _loops(c.stored.down), _loops(c.stored.across)
        lines.append(f"    .down = {down}, .across = {across},")
    if c.left.borders:
        borders = ", ".join(
            f"{{{b.row}, {b.along}, {b.row_step}, {b.step}, {b.low}, {b.high}}}"
            for b in c.left.borders
        )
        lines.append(f"    .borders = {len(c.left.borders)}, .border = {{{borders}}},")
    call = f"frame->call->runtime->product_{c.memory}(&product, product_memory);"
    return [*lines, "};", call]


def product_memory(c: Contraction) -> int:
    """The bytes of private memory that the runtime's product needs."""
    return PANELS_MEMORY if c.stored is None else PRODUCT_MEMORY


def run_along_depth(c: Contraction) -> int:
    """How many elements of both operands of a product of few rows and columns are neighbours along
    the depth, if they fill vectors: then nothing need be copied to panels. 0 for other products;
    the choice rests on the whole product, because bits depend on it."""
    assert c.left.uneven is not None and c.right.uneven is not None
    if c.stored is not None:
        return 0
    first, second = c.left.uneven.contracted, c.right.uneven.contracted
    if not (first and second and isinstance(c.rows, int) and isinstance(c.columns, int)):
        return 0
    run, whole = second[-1][0], first[-1][0]
    if not (isinstance(run, int) and isinstance(whole, int)) or first[-1][1] != 1:
        return 0
    fits = run >= SHORTEST_RUN and whole % run == 0 and second[-1][1] == 1
    tiles = -(-c.rows // 4) * -(-c.columns // 6)  # of 24 sums, or of 3 x 4, which are fewer
    few = c.rows <= MOST_ROWS and c.columns <= MOST_COLUMNS and tiles * 24 <= MOST_SUMS
    deep = not isinstance(c.depth, int) or c.depth >= DEEP
    return run if fits and few and deep else 0


def _uneven_operand(operand: MatrixOperand) -> str:
    assert operand.uneven is not None
    steps = (operand.uneven.free, operand.uneven.contracted)
    loops = ", ".join(map(_loops, steps))
    return f"{{p{operand.parameter} + ({_batch_offset(operand)}), {loops}}}"


def _loops(steps: Steps) -> str:
    sizes, strides = (", ".join(dim(step[i]) for step in steps) or "0" for i in (0, 1))
    return f"{{{len(steps)}, {{{sizes}}}, {{{strides}}}}}"


def _even_product(c: Contraction) -> list[str]:
    small = (
        f"flamec_matrix_{c.memory}(rows, columns, {dim(c.depth)}, left, {dim(c.left.free)}, "
        f"{dim(c.left.contracted)}, right, {dim(c.right.contracted)}, {dim(c.right.free)}, "
        f"result, {dim(c.columns)}, {MEMORY_BYTES[c.memory]});"
    )
    if not may_call_blas(c):
        return [small]
    condition = f"rows * columns * {factor(c.depth)} <= {SMALL_PRODUCT}"
    if _is_one(c.left.contracted) and _is_one(c.right.contracted):
        condition += f" || (rows <= {DOT_ROWS} && {dim(c.depth)} > FLAMEC_PACKED_DEPTH)"
    return [f"if ({condition})", f"    {small}", "else", f"    {_blas_call(c)}"]


def _batch_offset(operand: MatrixOperand) -> str:
    """Where the matrix number ``matrix`` starts."""
    terms = [dim(operand.offset)]
    rest = "matrix"
    for position, (size, stride) in enumerate(reversed(operand.batch)):
        outermost = position == len(operand.batch) - 1
        index = rest if outermost else f"({rest} % ({dim(size)}))"
        if not structurally_equal(stride, 0):
            terms.append(f"{index} * {factor(stride)}")
        rest = f"({rest} / ({dim(size)}))"
    return " + ".join(terms)


def _blas_call(c: Contraction) -> str:
    function, kind = _BLAS[c.memory]
    left_plain = _is_one(c.left.contracted) or _is_one(c.depth)
    right_plain = _is_one(c.right.free) or _is_one(c.columns)
    left_step = c.left.free if left_plain else c.left.contracted
    right_step = c.right.contracted if right_plain else c.right.free
    arguments = [
        "FLAMEC_ROW_MAJOR",
        "FLAMEC_PLAIN" if left_plain else "FLAMEC_TRANSPOSED",
        "FLAMEC_PLAIN" if right_plain else "FLAMEC_TRANSPOSED",
        "rows",
        "columns",
        dim(c.depth),
        "1",
        "left",
        f"flamec_max({dim(left_step)}, {dim(c.depth) if left_plain else 'rows'})",
        "right",
        f"flamec_max({dim(right_step)}, {'columns' if right_plain else dim(c.depth)})",
        "0",
        "result",
        f"flamec_max({dim(c.columns)}, 1)",
    ]
    return f"(({kind})frame->call->runtime->{function})({', '.join(arguments)});"


def _is_one(size: Dim) -> bool:
    return structurally_equal(size, 1)
