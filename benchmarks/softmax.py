"""Softmax over the rows of a 2048x4096 float32 matrix: one kernel, each row read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, functions
from benchmarks.harness import Workload

SHAPE = (2048, 4096)


def _arrays() -> Arrays:
    return (np.random.default_rng(0).standard_normal(SHAPE, np.float32),)


def _softmax(framework: Any, x: Any) -> Any:
    return framework.softmax(x, 1)


def _in_jax(jax: Any) -> Callable[..., Any]:
    return lambda x: jax.nn.softmax(x, axis=1)


def _in_numpy(x: Any) -> Any:
    weights = np.exp(x - x.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


WORKLOADS = (
    Workload(
        "softmax",
        "softmax over rows, 2048x4096 float32",
        functions(_arrays, _softmax, _in_jax, _in_numpy),
        goal=4.5e-3,
    ),
)
