"""C text of matrix products: a call of the BLAS, or small loops."""

from __future__ import annotations

from typing import Any

from flamec.codegen.c.text import MEMORY_BYTES, dim, factor
from flamec.codegen.schedule import Schedule
from flamec.ir.kernel import Contraction, MatrixOperand, RowProgram
from flamec.ir.shape import Dim, structurally_equal

SMALL_PRODUCT = 1 << 15  # multiplications up to which our own loops win
_BLAS = {"f32": ("sgemm", "FlamecSgemm"), "f64": ("dgemm", "FlamecDgemm")}


def may_call_blas(c: Contraction) -> bool:
    """Whether a product is, or at run time may be, too large for our own loops."""
    work = c.rows * c.columns * c.depth
    return c.memory in _BLAS and not (isinstance(work, int) and work <= SMALL_PRODUCT)


def product_holes(program: RowProgram, schedule: Schedule) -> dict[str, str] | None:
    """What the rows template needs to compute panels of a product; None without a product."""
    c = program.contraction
    if c is None:
        return None
    rows = "(panel_end - panel_begin)"
    lines = [
        f"const int64_t product_row = panel_begin - matrix * ({dim(c.rows)});",
        f"const {_pointer_type(c)}left = p{c.left.parameter} + ({_batch_offset(c.left)}"
        f" + product_row * {factor(c.left.free)});",
        f"const {_pointer_type(c)}right = p{c.right.parameter} + ({_batch_offset(c.right)});",
    ]
    if c.result < 0:
        lines.append("void *result = panel_memory;")
        lines.append(
            f"const {_pointer_type(c)}panel = panel_memory - panel_begin * {factor(c.columns)};"
        )
    else:
        lines.append(f"void *result = p{c.result} + panel_begin * {factor(c.columns)};")
    small = (
        f"flamec_matrix_{c.memory}({rows}, {dim(c.columns)}, {dim(c.depth)}, left, "
        f"{dim(c.left.free)}, {dim(c.left.contracted)}, right, {dim(c.right.contracted)}, "
        f"{dim(c.right.free)}, result, {dim(c.columns)}, {MEMORY_BYTES[c.memory]});"
    )
    if c.memory in _BLAS:
        work = f"{rows} * {factor(c.columns)} * {factor(c.depth)}"
        lines.append(f"if ({work} <= {SMALL_PRODUCT})")
        lines.append(f"    {small}")
        lines.append("else")
        lines.append(f"    {_blas_call(c, rows)}")
    else:
        lines.append(small)
    return {"rows": dim(c.rows), "panel": str(schedule.panel), "call": "\n".join(lines)}


def _pointer_type(c: Contraction) -> str:
    from flamec.codegen.c.text import C_TYPES

    return f"{C_TYPES[c.memory]} *"


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


def _blas_call(c: Contraction, rows: str) -> str:
    function, kind = _BLAS[c.memory]
    left_plain = _is_one(c.left.contracted) or _is_none(c.depth)
    right_plain = _is_one(c.right.free) or _is_none(c.columns)
    left_step = c.left.free if left_plain else c.left.contracted
    right_step = c.right.contracted if right_plain else c.right.free
    arguments: list[Any] = [
        "FLAMEC_ROW_MAJOR",
        "FLAMEC_PLAIN" if left_plain else "FLAMEC_TRANSPOSED",
        "FLAMEC_PLAIN" if right_plain else "FLAMEC_TRANSPOSED",
        rows,
        dim(c.columns),
        dim(c.depth),
        "1",
        "left",
        f"flamec_max({dim(left_step)}, {dim(c.depth) if left_plain else rows})",
        "right",
        f"flamec_max({dim(right_step)}, {dim(c.columns) if right_plain else dim(c.depth)})",
        "0",
        "result",
        dim(c.columns),
    ]
    return f"(({kind})frame->call->runtime->{function})({', '.join(arguments)});"


def _is_one(stride: Dim) -> bool:
    return structurally_equal(stride, 1)


def _is_none(size: Dim) -> bool:
    return structurally_equal(size, 1)
