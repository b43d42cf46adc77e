"""Gradients that compiled functions leave: their memory, who else holds them, what traces again."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

import flamec
from flamec import nn


def test_a_gradient_that_nobody_holds_keeps_its_memory() -> None:
    w = flamec.ones(3, requires_grad=True)

    @flamec.compile
    def step(x: flamec.Tensor) -> None:
        w.grad = None
        (w * x).sum().backward()

    addresses = []
    for _ in range(3):
        step(flamec.ones(3))
        addresses.append(w.grad.data_ptr())
    assert len(set(addresses)) == 1
    view = w.grad[1:]
    step(flamec.full((3,), 5.0))
    assert w.grad.data_ptr() != addresses[0]
    assert view.tolist() == [1.0, 1.0]
    array = w.grad.numpy()
    step(flamec.full((3,), 6.0))
    assert array.tolist() == [5.0] * 3


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_gradient_that_is_deleted_is_none(compiled: bool) -> None:
    w = flamec.ones(3, requires_grad=True)

    def step(x: flamec.Tensor) -> None:
        del w.grad
        (w * x).sum().backward()

    run = flamec.compile(step) if compiled else step
    for n in (1.0, 2.0):
        run(flamec.full((3,), n))
        assert w.grad.tolist() == [n] * 3
    del w.grad
    assert w.grad is None
    del w.grad  # as often as one likes


def test_a_gradient_is_not_overwritten_while_a_numpy_view_of_it_lives() -> None:
    weight = flamec.ones(512, 512, requires_grad=True)

    @flamec.compile
    def step(x: flamec.Tensor) -> None:
        weight.grad = None
        (weight * x).sum().backward()

    step(flamec.ones(512, 512))
    part = weight.grad.numpy()[1:3]
    step(flamec.full((512, 512), 2.0))
    assert part[0, 0] == 1.0 and weight.grad[0, 0].item() == 2.0


def test_gradients_that_were_dropped_between_are_no_reason_to_trace_again() -> None:
    """Accumulation: one program for the first gradients, one for those that are added."""
    layer = nn.Linear(3, 2)

    def micro(x: flamec.Tensor) -> None:
        layer(x).square().sum().backward()

    compiled = flamec.compile(micro)
    kept = []
    for _ in range(4):
        layer.zero_grad()
        xs = [flamec.randn(4, 3) for _ in range(3)]
        for x in xs:
            compiled(x)
        assert layer.weight.grad is not None
        kept.append(layer.weight.grad)  # which nobody changes
        found = layer.weight.grad.clone()
        layer.zero_grad()
        for x in xs:
            micro(x)
        np.testing.assert_allclose(found.numpy(), layer.weight.grad.numpy(), rtol=1e-6)
    assert compiled.stats.traces == 2
    assert len({g.data_ptr() for g in kept}) == 4


def test_a_compiled_optimizer_step_takes_gradients_of_an_eager_backward() -> None:
    layers = [nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [flamec.optim.Adam(layer.parameters(), lr=0.1) for layer in layers]
    second = flamec.compile(lambda: optimizers[1].step())
    steps = [optimizers[0].step, second]
    for _ in range(4):
        x = flamec.randn(4, 3)
        for layer, optimizer, step in zip(layers, optimizers, steps, strict=True):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            step()
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5)
    assert second.stats.traces <= 2


def test_a_gradient_that_is_known_otherwise_is_that_very_tensor() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = first = flamec.ones(1, 2)
    both = {"kept": first}
    queue = deque([first])

    @flamec.compile
    def together() -> flamec.Tensor:
        assert layer.weight.grad is not None
        return layer.weight.grad + both["kept"] * 10

    @flamec.compile
    def summed() -> flamec.Tensor:
        assert layer.weight.grad is not None
        return layer.weight.grad + sum(queue)

    @flamec.compile
    def given() -> flamec.Tensor | None:
        return layer.weight.grad

    assert together().tolist() == [[11.0, 11.0]]
    assert summed().tolist() == [[2.0, 2.0]]
    assert given() is first
    layer.weight.grad = second = flamec.full((1, 2), 2.0)
    assert together().tolist() == [[12.0, 12.0]]
    assert summed().tolist() == [[3.0, 3.0]]
    assert given() is second
    layer.weight.grad = flamec.full((1, 2), 3.0, dtype=flamec.float32).requires_grad_()
    assert together().requires_grad
    layer.weight.grad = None
    with pytest.raises(AssertionError):
        together()
