"""Triton text of sizes, numbers, types and operations.

In: sizes and operations of the Kernel IR. Out: expressions. A size of the program ``B`` is the
run-time argument ``n_B``, so that it meets no other name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flamec.codegen.lower.lanes import LANE_DTYPES
from flamec.codegen.options import power_of_two as power_of_two
from flamec.ir.op import Op, lookup
from flamec.ir.shape import Dim, SymbolicDim, format_dim, substitute, symbols_of

TYPES = {
    "f32": "tl.float32",
    "f64": "tl.float64",
    "f16": "tl.float16",
    "bf16": "tl.bfloat16",
    "i8": "tl.int8",
    "i16": "tl.int16",
    "i32": "tl.int32",
    "i64": "tl.int64",
    "u8": "tl.uint8",
    "b": "tl.int1",
    "bool": "tl.uint8",
}
POINTERS = {
    "f32": "*fp32",
    "f64": "*fp64",
    "f16": "*fp16",
    "bf16": "*bf16",
    "i8": "*i8",
    "i16": "*i16",
    "i32": "*i32",
    "i64": "*i64",
    "u8": "*u8",
    "bool": "*u8",
}


_FUNCTIONS = {"//": "flamec_floor", "min": "flamec_least"}  # of sizes


def size_name(symbol: str) -> str:
    """The argument that holds a symbolic size."""
    return f"n_{symbol}"


def dim(size: Dim) -> str:
    """A size as an expression."""
    if isinstance(size, SymbolicDim):
        renamed = {s: SymbolicDim.symbol(size_name(s)) for s in symbols_of(size)}
        size = substitute(size, renamed)
    return format_dim(size, lambda f, a, b: f"{_FUNCTIONS[f]}({a}, {b})")


def factor(size: Dim) -> str:
    """A size that can stand next to ``*`` or ``//``."""
    return f"({dim(size)})" if isinstance(size, SymbolicDim) or size < 0 else str(size)


def number(lane: str, value: bool | int | float) -> str:
    """A Python literal of a lane's value."""
    if lane == "b":
        return str(bool(value))
    if lane not in ("f32", "f64"):
        return str(int(value))
    value = float(value)
    if lane == "f32":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    if math.isnan(value) or math.isinf(value):
        return f'float("{value}")'
    return repr(value)


def constant(lane: str, value: bool | int | float | Dim) -> str:
    """A block of one element; it broadcasts."""
    if isinstance(value, SymbolicDim):
        return f"(zero + ({dim(value)})).to({TYPES[lane]})"
    literal = number(lane, value)
    if literal == "-0.0":  # of which Triton makes 0.0, as of every number that equals it
        return f"(tl.full((1, 1), 0.0, {TYPES[lane]}) * -1.0)"
    return f"tl.full((1, 1), {literal}, {TYPES[lane]})"


def fold_lane(lane: str) -> str:
    """The lane type in which a lane is folded and in which partial results are stored."""
    return "i32" if lane == "b" else lane


def operation(
    op: Op,
    lanes: tuple[str, ...],
    result: str,
    operands: tuple[str, ...],
    approximate: bool = False,
) -> str:
    """The op's own text over blocks; LookupError if the op has none for the lane type.

    ``approximate``: the op's cheaper text, where it has one.
    """
    lane = lanes[0] if lanes else result
    text = op.triton
    if approximate and op.triton_approximate and lane in op.triton_approximate:
        text = op.triton_approximate
    if isinstance(text, Mapping):
        text = text.get(lane)
    if text is None:
        raise LookupError(f"{op.name} has no Triton text for {lane} lanes")
    return text.format(*operands, t=lane, r=result)


def combine(op_name: str, lane: str, a: str, b: str) -> str:
    """Two partial results joined (or, where positions are folded, whether ``a`` beats ``b``)."""
    return operation(lookup(op_name), (lane, lane), lane, (a, b))


def identity(op_name: str, lane: str) -> bool | int | float:
    """What a reduction starts from."""
    start = lookup(op_name).identity
    value = start(LANE_DTYPES[lane]) if callable(start) else 0
    return int(value) if lane == "b" else value
