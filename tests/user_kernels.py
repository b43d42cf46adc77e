"""Kernels as a user would write them, with forms for all devices; Triton is not imported.

Run as a program with TRITON_INTERPRET=1: a line of JSON for each case with what was wrong.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

import flamec
from flamec.ir.types import TensorType

if TYPE_CHECKING:  # Triton compiles the kernels; this file does not load it
    import triton.language as tl

STEP = 4


# elementwise: one launch, any number of dimensions -------------------------------------------
@flamec.kernel(batching="leading")
def squared_relu(x: TensorType, *, scale: float = 1.0) -> TensorType:
    """scale * max(x, 0) ** 2."""
    return x


@squared_relu.numpy
def _(x: np.ndarray, *, scale: float) -> np.ndarray:
    return (np.maximum(x, 0) ** 2 * scale).astype(x.dtype)


def positive(v):  # type: ignore[no-untyped-def]
    return tl.where(v > 0, v, 0.0)


def squared_relu_kernel(x, y, n, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = positive(tl.load(x + at, mask=at < n).to(tl.float32))
    tl.store(y + at, v * v * scale, mask=at < n)


@squared_relu.triton(squared_relu_kernel)
def _(kernel: Any, x: Any, y: Any, *, scale: float) -> None:
    def grid(meta: dict[str, Any]) -> tuple[Any]:
        return (flamec.cdiv(x.numel(), meta["BLOCK"]),)

    kernel[grid](x, y, x.numel(), scale, BLOCK=256, num_warps=4)


@squared_relu.derivative(saves_inputs=(0,), saves_outputs=())
def _(ctx: Any, g: flamec.Tensor) -> flamec.Tensor:
    (x,) = ctx.inputs
    return 2 * ctx.attributes["scale"] * flamec.relu(x) * g


# only C, its work divided among threads -----------------------------------------------------
@flamec.kernel
def cube(x: TensorType) -> TensorType:
    return x


@cube.c(
    """
#define CUBE(name, type)                                                                    \\
    static void name(int64_t begin, int64_t end, const type *x, type *y, int64_t n, double one) { \\
        for (int64_t i = begin * 4; i < end * 4 && i < n; i++) y[i] = x[i] * x[i] * x[i] * one;   \\
    }
CUBE(cube_float32, float)
CUBE(cube_float64, double)
"""
)
def _(program: Any, x: Any, y: Any) -> None:
    function = getattr(program, f"cube_{x.dtype.name}")
    function[flamec.cdiv(x.numel(), STEP)](x, y, x.numel(), 1.0)


@cube.derivative
def _(ctx: Any, g: flamec.Tensor) -> flamec.Tensor:
    (x,) = ctx.inputs
    return 3 * x * x * g


# rows: two operands, two results, two launches, a size as meta-parameter ----------------------
@flamec.kernel
def scaled_rows(x: TensorType, w: TensorType) -> tuple[TensorType, TensorType]:
    """Each row of x by the element of w, and the sums of the rows then."""
    if len(x.shape) != 2 or len(w.shape) != 1:
        raise ValueError(f"scaled_rows needs a matrix and a vector, not {x} and {w}")
    return x, w


@scaled_rows.numpy
def _(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = x * w[:, None]
    return y, y.sum(1)


def scale_kernel(x, w, y, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    v = tl.load(x + row * columns + at, mask=at < columns, other=0.0)
    tl.store(y + row * columns + at, v * tl.load(w + row), mask=at < columns)


def sum_kernel(y, s, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    v = tl.load(y + row * columns + at, mask=at < columns, other=0.0)
    tl.store(s + row, tl.sum(v, axis=0))


@scaled_rows.triton(scale_kernel, sum_kernel)
def _(scale: Any, total: Any, x: Any, w: Any, y: Any, s: Any) -> None:
    block = flamec.next_power_of_2(x.size(1))
    scale[(x.size(0),)](x, w, y, x.size(1), BLOCK=block)
    total[(x.size(0),)](y, s, x.size(1), BLOCK=block, num_warps=1)


@scaled_rows.c(
    """
static void scaled_rows(const float *x, const float *w, float *y, float *s, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++) {
        s[i] = 0;
        for (int64_t j = 0; j < n; j++) s[i] += y[i * n + j] = x[i * n + j] * w[i];
    }
}
"""
)
def _(program: Any, x: Any, w: Any, y: Any, s: Any) -> None:
    assert (x.stride(0), x.stride(1), x.ndim) == (x.size(1), 1, 2)
    program.scaled_rows(x, w, y, s, *x.shape)


@scaled_rows.derivative
def _(ctx: Any, g: flamec.Tensor, h: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
    x, w = ctx.inputs
    both = g + h[:, None]
    return both * w[:, None], (both * x).sum(1)


@scaled_rows.batching
def _(size: Any, batched: tuple[bool, ...], x: Any, w: Any) -> tuple[Any, Any]:
    x, w = (t if b else t.expand(size, *t.shape) for t, b in zip((x, w), batched, strict=True))
    y, s = scaled_rows(x.reshape(-1, x.shape[-1]), w.reshape(-1))
    return y.reshape(x.shape), s.reshape(w.shape)


# as a program --------------------------------------------------------------------------------


def cases() -> dict[str, Any]:
    """Functions of tensors, and their arguments."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((5, 70)).astype(np.float32)
    w = generator.standard_normal(5).astype(np.float32)
    return {
        "squared_relu": (lambda x: squared_relu(x, scale=0.5), (x,)),
        "neighbours": (lambda x: (squared_relu(x * 2 + 1) - 3).exp().sum(1), (x / 4,)),
        "transposed": (lambda x: squared_relu(x.T), (x,)),
        "rows": (scaled_rows, (x, w)),
        "rows around": (lambda x, w: scaled_rows(x + 1, w * w)[1].tanh(), (x, w)),
    }


def main() -> None:
    from triton_interpreter import run_plan

    from flamec.codegen.triton.compile_graph import compile_graph
    from flamec.debugging.call_recording import record_call
    from flamec.ir.evaluate import evaluate_graph
    from flamec.ir.passes.manager import run_passes
    from flamec.ir.passes.pipeline import pipeline

    for name, (function, arrays) in cases().items():
        # traced on the CPU, whose forms do not ask for the number of columns
        for dynamic in (False,) if name.startswith("rows") else (False, True):
            tensors = tuple(flamec.tensor(a) for a in arrays)
            f = flamec.compile(function, dynamic=dynamic, backend="evaluate")
            ((_, found),) = record_call(f, tensors, {})
            graph = run_passes(found.graph, pipeline(), check=True)[0]
            plan = compile_graph(graph).plan
            outputs, _ = run_plan(plan, found.inputs(), found.bindings)
            expected, _ = evaluate_graph(found.graph, found.inputs(), found.bindings)
            gap = max(
                float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
                for a, b in zip(outputs, expected, strict=True)
            )
            facts = {"case": name, "dynamic": dynamic, "symbols": list(plan.symbols)}
            print(json.dumps({**facts, "gap": gap if math.isfinite(gap) else "not a number"}))


if __name__ == "__main__":
    main()
