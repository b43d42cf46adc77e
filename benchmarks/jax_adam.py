"""Adam and AdamW for JAX's contenders, as pure functions over lists of arrays.

Kingma & Ba, "Adam", algorithm 1; Loshchilov & Hutter, "Decoupled weight decay", algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

State = tuple[Any, Any, Any, Any]  # parameters, first moments, second moments, step count


def start(jax: Any, parameters: Any) -> State:
    """The state before the first step."""
    first, second = (jax.tree.map(jax.numpy.zeros_like, parameters) for _ in range(2))
    return parameters, first, second, jax.numpy.zeros((), "int32")


def training_step(
    jax: Any, loss: Callable[..., Any], rate: float = 1e-3, weight_decay: float = 0.0
) -> Callable[..., tuple[State, Any]]:
    """``step(state, *inputs) -> (state, loss)`` for ``loss(parameters, *inputs)``."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-8

    def step(state: State, *inputs: Any) -> tuple[State, Any]:
        parameters, first, second, count = state
        value, gradients = jax.value_and_grad(loss)(parameters, *inputs)
        count = count + 1
        first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradients)
        scale = rate / (1 - beta1**count)
        root = (1 - beta2**count) ** 0.5

        def updated(p: Any, m: Any, v: Any) -> Any:
            return p * (1 - rate * weight_decay) - scale * m / (jax.numpy.sqrt(v) / root + epsilon)

        parameters = jax.tree.map(updated, parameters, first, second)
        return (parameters, first, second, count), value

    return step


def stepper(jax: Any, step: Callable[..., Any], state: State, *inputs: Any) -> Callable[[], Any]:
    """A function without arguments that makes one compiled step and gives the loss."""
    compiled = jax.jit(step, donate_argnums=0)

    def run() -> Any:
        nonlocal state
        state, loss = compiled(state, *inputs)
        jax.block_until_ready(state)
        return loss

    return run
