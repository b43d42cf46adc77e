"""The transpose of a 4096x4096 float32 matrix, written out densely."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, functions
from benchmarks.harness import Workload

SIDE = 4096


def _arrays() -> Arrays:
    return (np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32),)


def _transposed(framework: Any, x: Any) -> Any:
    return x.t().contiguous()


def _in_jax(jax: Any) -> Callable[..., Any]:
    return lambda x: x.T.copy()


def _in_numpy(x: Any) -> Any:
    return np.ascontiguousarray(x.T)


WORKLOADS = (
    Workload(
        "transposed_copy",
        "x.t().contiguous(), 4096x4096 float32",
        functions(_arrays, _transposed, _in_jax, _in_numpy),
        goal=20e-3,
    ),
)
