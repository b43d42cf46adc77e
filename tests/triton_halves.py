"""Cheaper functions of what is rounded to bfloat16, for every bfloat16 there is.

Run as a program with TRITON_INTERPRET=1: a line of JSON for each function, with how far results
are from float64 in units in the last place, beyond the half that rounding takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import scipy.special
from triton_interpreter import run_plan

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.ir.builder import GraphBuilder
from flamec.ir.types import TensorType, bfloat16, float32

ROWS = 512
SMALLEST = 2.0**-126  # what is smaller may be flushed to zero


def quotient(b: GraphBuilder, x: Any) -> Any:
    """Each row divided by its first element, which may be subnormal or infinite."""
    first = b.slice(x, starts=(0, 0), sizes=(ROWS, 1), steps=(1, 1))
    return b.div(x, first)


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray], np.ndarray]]] = {
    "exp": (lambda b, x: b.exp(x), np.exp),
    "sigmoid": (lambda b, x: b.sigmoid(x), scipy.special.expit),
    "tanh": (lambda b, x: b.tanh(x), np.tanh),
    "erf": (lambda b, x: b.erf(x), scipy.special.erf),
    "quotient": (quotient, lambda x: x / x[:, :1]),
}


def excess(found: np.ndarray, wanted: np.ndarray) -> float:
    """Errors in units in the last place of bfloat16, less a half."""
    exact = np.abs(wanted)
    with np.errstate(all="ignore"):
        unit = 2.0 ** (np.floor(np.log2(np.maximum(exact, SMALLEST))) - 7)
        off = np.abs(found - wanted) / unit - 0.5
    largest = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    alike = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    alike |= (exact > largest) & (np.abs(found) >= largest)  # rounded to infinity or not
    alike |= (exact < SMALLEST) & (np.abs(found) <= SMALLEST)
    return float(np.max(np.where(alike, -0.5, np.where(np.isfinite(off), off, np.inf))))


def main() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).reshape(ROWS, -1)
    mixed = np.random.default_rng(0).permutation(every.reshape(-1)).reshape(ROWS, -1)
    for name, (make, exact) in FUNCTIONS.items():
        b = GraphBuilder()
        x = b.input(TensorType(every.shape, bfloat16))
        graph = b.build([b.cast(make(b, b.cast(x, float32)), bfloat16)])
        plan = compile_graph(graph).plan
        given = mixed if name == "quotient" else every
        (found,), _ = run_plan(plan, [given], {})
        with np.errstate(all="ignore"):
            wanted = exact(given.astype(np.float64))
        result = excess(found.astype(np.float64), wanted)
        print(json.dumps({"row": name, "excess": result, "fast": "flamec_fast" in plan.source}))


if __name__ == "__main__":
    main()
