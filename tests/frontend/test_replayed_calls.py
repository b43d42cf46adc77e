"""Second derivatives from outside through compiled functions, which are replayed for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Tensor, autograd, nn

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)),
    "counted batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, momentum=None)),
    "dropout": lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5)),
    "spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 5)),
}


def penalised(compiled: bool, layer: str) -> list[Any]:
    """Two steps of a critic with a gradient penalty: its gradients, buffers and the next draw."""
    flamec.manual_seed(7)
    critic = nn.Sequential(LAYERS[layer](), nn.Tanh(), nn.Linear(5, 1))
    call = flamec.compile(critic) if compiled else critic
    optimizer = flamec.optim.SGD(critic.parameters(), lr=0.1)
    real, fake = flamec.randn(6, 4), flamec.randn(6, 4)
    for _ in range(2):
        optimizer.zero_grad()
        loss = call(fake).mean() - call(real).mean()
        mixed = (0.3 * real + 0.7 * fake).requires_grad_()
        (slope,) = autograd.grad(call(mixed).sum(), mixed, create_graph=True)
        (loss + 10 * ((slope.norm(2, dim=1) - 1) ** 2).mean()).backward()
        optimizer.step()
    grads = [p.grad.tolist() for p in critic.parameters()]
    return [*grads, *(b.tolist() for b in critic.buffers()), flamec.rand(2).tolist()]


@pytest.mark.parametrize("layer", LAYERS)
def test_gradient_penalties_of_compiled_critics(layer: str) -> None:
    for ours, wanted in zip(penalised(True, layer), penalised(False, layer), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)


def derivatives(function: Callable[[Tensor, Tensor], Tensor]) -> list[float]:
    """Three orders of them, of a function of a tensor that is no leaf, and of the leaf."""
    x = flamec.tensor([1.0, 2.0, -1.5], requires_grad=True)
    (first,) = autograd.grad(function(x * 3, x), x, create_graph=True)
    (second,) = autograd.grad(first.sum(), x, create_graph=True)
    (third,) = autograd.grad(second.sum(), x)
    return [*first.tolist(), *second.tolist(), *third.tolist()]


def test_arguments_that_were_computed_from_one_another() -> None:
    def both(hidden: Tensor, x: Tensor) -> Tensor:
        return (x**3 + hidden**2).sum()

    assert derivatives(flamec.compile(both)) == derivatives(both)


def test_an_argument_with_a_history_that_the_call_changes() -> None:
    def scaled(hidden: Tensor, x: Tensor) -> Tensor:
        return (x**3).sum() + hidden.mul_(2).sum()

    assert derivatives(flamec.compile(scaled)) == derivatives(scaled)


def test_values_that_the_call_leaves_in_a_buffer_are_read_there() -> None:
    buffer = flamec.tensor([1.0, 2.0, 3.0])

    def counted(hidden: Tensor, x: Tensor) -> Tensor:
        buffer.mul_(2)
        return (hidden**3 * buffer).sum()

    wanted = derivatives(counted)
    buffer.mul_(0.5)
    compiled = flamec.compile(counted)
    assert derivatives(compiled) == wanted
    x = flamec.ones(3, requires_grad=True)
    loss = compiled(x, x)
    buffer.mul_(2)
    with pytest.raises(RuntimeError, match=r"counted that its gradient needs was changed in place"):
        autograd.grad(loss, x, create_graph=True)


def test_what_a_buffer_held_before_the_change_is_saved_or_not_guessed() -> None:
    buffer = flamec.tensor([1.0, 2.0, 3.0])

    def known(hidden: Tensor, x: Tensor) -> Tensor:
        result = (hidden**3 * (buffer + 1)).sum()
        buffer.mul_(2)
        return result

    wanted = derivatives(known)
    buffer.mul_(0.5)
    assert derivatives(flamec.compile(known)) == wanted

    @flamec.compile
    def lost(hidden: Tensor, x: Tensor) -> Tensor:
        result = (hidden**4).sum()
        hidden.mul_(2)
        return result

    with pytest.raises(RuntimeError, match=r"lost: a second derivative needs what.*float32\[3\]"):
        derivatives(lost)
