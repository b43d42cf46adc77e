"""Compile the vector header into a library of array functions, for tests.

In: lists of functions and compiler flags. Out: ``VectorLibrary``, which calls ``v{name}_{t}`` on
whole NumPy arrays.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Sequence

import ml_dtypes
import numpy as np

from flamec.runtime.cpu.compiler import Compiler, compile_library, library_key, processor_features
from flamec.runtime.kernel_cache import KernelCache

LANES = {
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "i8": np.dtype(np.int8),
    "i16": np.dtype(np.int16),
    "i32": np.dtype(np.int32),
    "i64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "b": np.dtype(np.bool_),
}
MEMORY = {
    **{name: dtype for name, dtype in LANES.items() if name != "b"},
    "bool": np.dtype(np.bool_),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
FLOATS = ("f32", "f64")
INTEGERS = ("i8", "i16", "i32", "i64", "u8")
FLOAT_UNARY = (
    *("abs", "sign", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh"),
    *("atanh", "erf", "erfc", "erfinv", "lgamma", "digamma", "polygamma1", "sigmoid"),
    *("floor", "ceil", "round", "trunc"),
)
FLOAT_BINARY = (
    *("pow", "maximum", "minimum", "fmod", "remainder", "floor_divide"),
    *("atan2", "copysign", "nextafter"),
)
INTEGER_UNARY = ("abs", "sign", "floor", "ceil", "round", "trunc")
INTEGER_BINARY = (
    *("pow", "maximum", "minimum", "fmod", "remainder", "floor_divide"),
    *("gcd", "shift_left", "shift_right"),
)
RELATIONS = ("eq", "ne", "lt", "le", "gt", "ge")

# The plain build has 16 lanes; the others as many as a register of an older machine holds.
BUILDS: dict[str, list[str]] = {"native": []}
if platform.machine() == "x86_64":
    BUILDS["sse"] = ["-march=x86-64", "-DFLAMEC_NATIVE_LANES"]
    if " avx2 " in processor_features():
        BUILDS["avx2"] = ["-march=x86-64-v3", "-DFLAMEC_NATIVE_LANES"]


def memory_name(lane: str) -> str:
    return "bool" if lane == "b" else lane


class VectorLibrary:
    """The header's functions over arrays, compiled with ``flags``, or from the cache."""

    def __init__(self, compiler: Compiler, flags: Sequence[str], cache: KernelCache) -> None:
        source, flags = _source(), [*flags, "-O2", "-Werror"]
        self._library, _ = cache.load(
            library_key(compiler, source, flags),
            "so",
            lambda: compile_library(compiler, source, flags),
            {"file": "vectors"},
            use=lambda path: ctypes.CDLL(str(path)),
        )

    def call(self, name: str, result: np.dtype, *arrays: np.ndarray) -> np.ndarray:
        """``name`` applied along flat contiguous arrays of one length."""
        out = np.empty(arrays[0].shape, result)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, out)]
        getattr(self._library, name)(*pointers, ctypes.c_int64(arrays[0].size))
        return out

    def run(self, name: str, *arguments: object) -> None:
        """A function with its own argument list: arrays by address, integers as int64."""
        getattr(self._library, name)(
            *(
                ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int64(a)
                for a in arguments
            )
        )

    def unary(self, name: str, lane: str, x: np.ndarray) -> np.ndarray:
        result = LANES["b"] if name == "signbit" else LANES[lane]
        return self.call(f"{name}_{lane}", result, x.astype(LANES[lane]))

    def binary(self, name: str, lane: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        result = LANES["b"] if name in RELATIONS else LANES[lane]
        return self.call(f"{name}_{lane}", result, x.astype(LANES[lane]), y.astype(LANES[lane]))

    def cast(self, source: str, target: str, x: np.ndarray) -> np.ndarray:
        return self.call(f"cast_{source}_{target}", LANES[target], x)

    def fold(self, name: str, lane: str, x: np.ndarray) -> object:
        """A horizontal reduction of one vector."""
        out = np.empty(1, np.int32 if lane == "b" else LANES[lane])
        self.run(f"h{name}_{lane}", x.astype(LANES[lane]), out)
        return out[0]

    @property
    def lanes(self) -> int:
        out = np.empty(1, np.int64)
        self.run("lanes", out)
        return int(out[0])


def _source() -> str:
    parts = ['#include "flamec_vector.h"', "void lanes(int64_t *r) { *r = FLAMEC_LANES; }"]
    for lane in LANES:
        unary = ["abs", "sign", "signbit"]
        binary = ["maximum", "minimum"]
        if lane in FLOATS:
            unary, binary = [*FLOAT_UNARY, "signbit"], [*FLOAT_BINARY]
        elif lane in INTEGERS:
            unary, binary = [*INTEGER_UNARY, "signbit"], [*INTEGER_BINARY]
        for name in unary:
            parts.append(_loop(name, lane, 1, "b" if name == "signbit" else lane))
        for name in binary:
            parts.append(_loop(name, lane, 2, lane))
        for name in RELATIONS:
            parts.append(_loop(name, lane, 2, "b"))
        for target in LANES:
            parts.append(_loop(f"cast_{lane}", target, 1, target, source=lane))
        parts.append(_select(lane))
        for name in ("max", "min") if lane == "b" else ("sum", "prod", "max", "min"):
            parts.append(
                f"void h{name}_{lane}(const void *p, c_{lane} *r) "
                f"{{ *r = vh{name}_{lane}(vload_{memory_name(lane)}(p)); }}"
            )
    for name in MEMORY:
        parts.append(_memory(name))
    for name in ("f16", "bf16"):
        parts.append(_loop("round", name, 1, "f32", source="f32"))
    parts.append(_PHILOX)
    return "\n".join(parts)


def _loop(name: str, lane: str, inputs: int, result: str, source: str | None = None) -> str:
    source = memory_name(source or lane)
    names = "xyz"[:inputs]
    loads = ", ".join(f"vload_n_{source}((const c_{_raw(source)} *){v} + i, n - i)" for v in names)
    return (
        f"void {name}_{lane}({', '.join(f'const void *{v}' for v in names)}, void *r, int64_t n) {{"
        f" for (int64_t i = 0; i < n; i += FLAMEC_LANES)"
        f" vstore_n_{memory_name(result)}((c_{_raw(memory_name(result))} *)r + i,"
        f" v{name}_{lane}({loads}), n - i); }}"
    )


def _select(lane: str) -> str:
    memory = memory_name(lane)
    element = f"c_{_raw(memory)}"
    return (
        f"void sel_{lane}(const uint8_t *m, const {element} *x, const {element} *y, {element} *r,"
        f" int64_t n) {{ for (int64_t i = 0; i < n; i += FLAMEC_LANES)"
        f" vstore_n_{memory}(r + i, vsel_{lane}(vload_n_bool(m + i, n - i),"
        f" vload_n_{memory}(x + i, n - i), vload_n_{memory}(y + i, n - i)), n - i); }}"
    )


def _memory(name: str) -> str:
    """Every load and store of one memory type, each copying from ``p`` to ``q``."""
    return f"""
void copy_{name}(const void *p, void *q) {{ vstore_{name}(q, vload_{name}(p)); }}
void copy_n_{name}(const void *p, void *q, int64_t n) {{
    vstore_n_{name}(q, vload_n_{name}(p, n), n); }}
void pad_{name}(const void *p, void *q, int64_t n) {{ vstore_{name}(q, vload_n_{name}(p, n)); }}
void inside_{name}(const void *p, void *q, int64_t first, int64_t end) {{
    vstore_{name}(q, vload_lanes_{name}((const c_{_raw(name)} *)p - first,
        flamec_lanes(-first, end - first, FLAMEC_LANES), vload_{name}(q))); }}
void strided_{name}(const void *p, void *q, int64_t s, int64_t t) {{
    vstores_{name}(q, t, vloads_{name}(p, s)); }}
void strided_n_{name}(const void *p, void *q, int64_t s, int64_t t, int64_t n) {{
    vstores_n_{name}(q, t, vloads_n_{name}(p, s, n), n); }}
void gather_{name}(const void *p, const void *o, void *q) {{
    vstore_{name}(q, vgather_{name}(p, vload_i64(o))); }}
void gather_n_{name}(const void *p, const void *o, void *q, int64_t n) {{
    vstore_{name}(q, vgather_n_{name}(p, vload_i64(o), n)); }}
"""


def _raw(memory: str) -> str:
    return {"bool": "u8", "f16": "u16", "bf16": "u16"}.get(memory, memory)


_PHILOX = """
void philox(int64_t seed, int64_t offset, int64_t start, int32_t *r, int64_t n) {
    for (int64_t i = 0; i < n; i += FLAMEC_LANES)
        vstore_n_i32(r + i, vphilox_i32(viota_i64(start + i), seed, offset), n - i);
}
void philox_run(int64_t seed, int64_t offset, int64_t start, int32_t *r, int64_t n) {
    FlamecWords words;
    words.start = FLAMEC_NO_WORDS;
    for (int64_t i = 0; i < n; i += FLAMEC_LANES)
        vstore_n_i32(r + i, vphilox_run_i32(&words, start + i, seed, offset), n - i);
}
void iota(int64_t start, int64_t *wide, int32_t *narrow) {
    vstore_i64(wide, viota_i64(start));
    vstore_i32(narrow, viota_i32((int32_t)start));
}
"""
