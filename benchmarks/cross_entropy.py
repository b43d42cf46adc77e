"""Cross-entropy of 2048 rows over 32000 classes: the loss and the gradient of the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import Arrays, jitted, torch_like
from benchmarks.harness import Step, Workload

ROWS, CLASSES = 2048, 32000


def _arrays() -> Arrays:
    random = np.random.default_rng(0)
    return random.standard_normal((ROWS, CLASSES), np.float32), random.integers(0, CLASSES, ROWS)


def _build(framework: Any, compile: Callable[[Any], Any]) -> Step:
    logits, target = (framework.from_numpy(array) for array in _arrays())
    logits.requires_grad_()

    def loss_and_gradient(logits: Any, target: Any) -> Any:
        logits.grad = None
        loss = framework.nn.functional.cross_entropy(logits, target)
        loss.backward()
        return loss

    compiled = compile(loss_and_gradient)

    def step() -> Any:
        loss = compiled(logits, target)
        return loss, logits.grad

    return step


def _in_jax(jax: Any) -> Callable[..., Any]:
    def loss(logits: Any, target: Any) -> Any:
        logarithms = jax.nn.log_softmax(logits, axis=1)
        return -jax.numpy.take_along_axis(logarithms, target[:, None], 1).mean()

    return jax.value_and_grad(loss)  # type: ignore[no-any-return]


WORKLOADS = (
    Workload(
        "cross_entropy",
        "loss and gradient, 2048x32000 float32",
        [*torch_like(_build), jitted(_arrays, _in_jax)],
        goal=60e-3,
        check_after=2,
    ),
)
