"""gelu(x·a+b)·sigmoid(y)+z over 4M float32 elements: one kernel bound by memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, functions, scipy_special
from benchmarks.harness import Workload

SIZE = 1 << 22


def _arrays() -> Arrays:
    random = np.random.default_rng(0)
    return tuple(random.standard_normal(SIZE, np.float32) for _ in range(5))


def _chain(framework: Any, x: Any, a: Any, b: Any, y: Any, z: Any) -> Any:
    return framework.nn.functional.gelu(x * a + b) * framework.sigmoid(y) + z


def _in_jax(jax: Any) -> Callable[..., Any]:
    return lambda x, a, b, y, z: jax.nn.gelu(x * a + b, approximate=False) * jax.nn.sigmoid(y) + z


def _in_numpy(x: Any, a: Any, b: Any, y: Any, z: Any) -> Any:
    special = scipy_special()
    t = x * a + b
    return t * (0.5 * (1 + special.erf(t * np.float32(2**-0.5)))) * special.expit(y) + z


WORKLOADS = (
    Workload(
        "elementwise_chain",
        "gelu(x·a+b)·sigmoid(y)+z, 4M float32",
        functions(_arrays, _chain, _in_jax, _in_numpy),
        goal=4e-3,
    ),
)
