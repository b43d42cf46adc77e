"""C text of sizes, numbers and operations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flamec.codegen.lower.lanes import LANE_DTYPES
from flamec.ir.op import Op, lookup
from flamec.ir.shape import Dim, SymbolicDim, format_dim

_FUNCTIONS = {"//": "flamec_floor", "min": "flamec_min"}  # of sizes
C_TYPES = {
    "f32": "float",
    "f64": "double",
    "f16": "uint16_t",
    "bf16": "uint16_t",
    "i8": "int8_t",
    "i16": "int16_t",
    "i32": "int32_t",
    "i64": "int64_t",
    "u8": "uint8_t",
    "bool": "uint8_t",
}


def dim(size: Dim) -> str:
    """A size; symbols are C variables."""
    return format_dim(size, lambda f, a, b: f"{_FUNCTIONS[f]}({a}, {b})")


def factor(size: Dim) -> str:
    """A size that can stand next to ``*``."""
    return f"({dim(size)})" if isinstance(size, SymbolicDim) else dim(size)


def number(lane: str, value: bool | int | float | Dim) -> str:
    """A scalar expression of the C type of a lane."""
    if isinstance(value, SymbolicDim):
        cast = C_TYPES.get(lane, "int")
        return f"({cast})({dim(value)})"
    if lane == "b":
        return str(int(bool(value)))
    if lane in ("f32", "f64"):
        return _float(lane, float(value))
    return _integer(int(value))


def _float(lane: str, value: float) -> str:
    suffix = "f" if lane == "f32" else ""
    if lane == "f32":
        with np.errstate(over="ignore"):
            value = float(np.float32(value))
    if math.isnan(value):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(value):
        return f"{'-' if value < 0 else ''}__builtin_inf{suffix}()"
    return repr(value) + suffix


def _integer(value: int) -> str:
    if value == -(2**63):
        return "(-9223372036854775807LL - 1)"
    return f"{value}LL" if abs(value) >= 2**31 else str(value)


def splat(lane: str, value: bool | int | float | Dim) -> str:
    return f"vsplat_{lane}({number(lane, value)})"


def operation(op: Op, lanes: tuple[str, ...], result: str, operands: tuple[str, ...]) -> str:
    """The op's own text over vectors; LookupError if the op has none for the lane type."""
    lane = lanes[0] if lanes else result
    text = op.c
    if isinstance(text, Mapping):
        text = text.get(lane)
    if text is None:
        raise LookupError(f"{op.name} has no C text for {lane} lanes")
    return text.format(*operands, t=lane, r=result)


def combine(op_name: str, lane: str, a: str, b: str) -> str:
    """Two partial results of a reduction joined (or, of argmax, whether ``a`` beats ``b``)."""
    return operation(lookup(op_name), (lane, lane), lane, (a, b))


def identity(op_name: str, lane: str) -> str:
    """The vector that a reduction starts from."""
    start = lookup(op_name).identity
    value = start(LANE_DTYPES[lane]) if callable(start) else 0
    return splat(lane, value)
