"""Layer normalization of a 2048x4096 float32 matrix, forward, and backward alone.

Backward is timed by asking for the gradients of a kept forward pass again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, functions, jax, torch_like
from benchmarks.harness import Contender, Step, Workload

ROWS, COLUMNS = 2048, 4096


def _arrays() -> Arrays:
    random = np.random.default_rng(0)
    x, gradient = (random.standard_normal((ROWS, COLUMNS), np.float32) for _ in range(2))
    weight, bias = (random.standard_normal(COLUMNS, np.float32) for _ in range(2))
    return x, weight, bias, gradient


def _forward_arrays() -> Arrays:
    return _arrays()[:3]


def _layer_norm(framework: Any, x: Any, weight: Any, bias: Any) -> Any:
    return framework.nn.functional.layer_norm(x, (COLUMNS,), weight, bias)


def _in_jax(jax: Any) -> Callable[..., Any]:
    def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
        centred = x - x.mean(1, keepdims=True)
        variance = (centred * centred).mean(1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + 1e-5) * weight + bias

    return layer_norm


def _in_numpy(x: Any, weight: Any, bias: Any) -> Any:
    centred = x - x.mean(1, keepdims=True)
    variance = (centred * centred).mean(1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(1e-5)) * weight + bias


def _backward(framework: Any, compile: Callable[[Any], Any]) -> Step:
    *inputs, gradient = (framework.from_numpy(array) for array in _arrays())
    for tensor in inputs:
        tensor.requires_grad_()
    function = compile(lambda x, weight, bias: _layer_norm(framework, x, weight, bias))
    result = function(*inputs)
    return lambda: framework.autograd.grad(result, inputs, gradient, retain_graph=True)


def _backward_in_jax() -> Step:
    module = jax()
    *inputs, gradient = (module.numpy.asarray(array) for array in _arrays())
    _, pull_back = module.jit(lambda *a: module.vjp(_in_jax(module), *a))(*inputs)
    function = module.jit(lambda pull, g: pull(g))
    return lambda: module.block_until_ready(function(pull_back, gradient))


WORKLOADS = (
    Workload(
        "layer_norm_forward",
        "layer_norm with weight and bias, 2048x4096 float32",
        functions(_forward_arrays, _layer_norm, _in_jax, _in_numpy),
        goal=4e-3,
    ),
    Workload(
        "layer_norm_backward",
        "its gradients for input, weight and bias",
        [*torch_like(_backward), Contender("jax", _backward_in_jax)],
        goal=5.5e-3,
        tolerance=1e-3,
    ),
)
