"""The names under which the C vector library knows element types.

A memory type is what lies in a buffer (``f32``, ``bf16``, ``bool`` …), a lane type
is what a register lane holds: 16-bit floats are computed as ``f32``, bools are
masks ``b``.
"""

from __future__ import annotations

from flamec.ir.types import DType, bool_, dtype_named

_MEMORY = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "i16",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
}
_LANES = {"f16": "f32", "bf16": "f32", "bool": "b"}
LANE_BYTES = {"f64": 8, "f32": 4, "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "b": 4}


def memory_type(dtype: DType) -> str:
    return _MEMORY[dtype.name]


def lane_type(dtype: DType) -> str:
    memory = _MEMORY[dtype.name]
    return _LANES.get(memory, memory)


def spill_type(lane: str) -> str:
    """The memory type in which a lane is kept unchanged."""
    return "i32" if lane == "b" else lane


MEMORY_DTYPES = {memory: dtype_named(name) for name, memory in _MEMORY.items()}
# what a lane's values are computed as
LANE_DTYPES = {lane: bool_ if lane == "b" else MEMORY_DTYPES[lane] for lane in LANE_BYTES}
MEMORY_BYTES = {memory: dtype.itemsize for memory, dtype in MEMORY_DTYPES.items()}
