"""gelu(x·W+b) with x 1024x1024 and W 1024x4096: a matrix product with a heavy epilogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, functions, scipy_special
from benchmarks.harness import Workload

ROWS, INNER, COLUMNS = 1024, 1024, 4096


def _arrays() -> Arrays:
    random = np.random.default_rng(0)
    return (
        random.standard_normal((ROWS, INNER), np.float32),
        random.standard_normal((COLUMNS, INNER), np.float32) / np.float32(INNER**0.5),
        random.standard_normal(COLUMNS, np.float32),
    )


def _linear_gelu(framework: Any, x: Any, weight: Any, bias: Any) -> Any:
    return framework.nn.functional.gelu(framework.nn.functional.linear(x, weight, bias))


def _in_jax(jax: Any) -> Callable[..., Any]:
    return lambda x, weight, bias: jax.nn.gelu(x @ weight.T + bias, approximate=False)


def _in_numpy(x: Any, weight: Any, bias: Any) -> Any:
    t = x @ weight.T + bias
    return t * (0.5 * (1 + scipy_special().erf(t * np.float32(2**-0.5))))


WORKLOADS = (
    Workload(
        "matmul_epilogue",
        "gelu(linear(x)), 1024x1024x4096 float32",
        functions(_arrays, _linear_gelu, _in_jax, _in_numpy),
        goal=60e-3,
    ),
)
