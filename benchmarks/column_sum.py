"""The sum over axis 0 of a 4096x4096 float32 matrix: a reduction across rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, functions
from benchmarks.harness import Workload

SIDE = 4096


def _arrays() -> Arrays:
    return (np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32),)


def _column_sum(framework: Any, x: Any) -> Any:
    return framework.sum(x, 0)


def _in_jax(jax: Any) -> Callable[..., Any]:
    return lambda x: x.sum(0)


def _in_numpy(x: Any) -> Any:
    return x.sum(0)


WORKLOADS = (
    Workload(
        "column_sum",
        "sum over axis 0, 4096x4096 float32",
        functions(_arrays, _column_sum, _in_jax, _in_numpy),
        goal=3e-3,
    ),
)
