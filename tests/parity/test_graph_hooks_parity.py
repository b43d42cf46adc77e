"""Hooks on several gradients, and regions that refuse hooks on saved tensors, as PyTorch's."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

import flamec

torch = pytest.importorskip("torch")
FRAMEWORKS = [flamec, torch]


def leaves(framework: Any, count: int) -> list[Any]:
    return [framework.tensor([float(i), 2.0], requires_grad=True) for i in range(count)]


def graph_of(framework: Any) -> Any:
    return import_module(f"{framework.__name__}.autograd.graph")


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=["flamec", "torch"])
def test_all_gradients_of_a_pass_come_together(framework: Any) -> None:
    a, b, c = leaves(framework, 3)
    product = a * b
    calls: list[Any] = []

    def hook(gradients: Any) -> None:
        calls.append([None if g is None else g.tolist() for g in gradients])

    handle = graph_of(framework).register_multi_grad_hook((a, product, c), hook)
    (product.sum() * 2).backward()
    assert calls == [[[2, 4], [2, 2], None]]
    (a * b + c).sum().backward()
    assert calls[1] == [[1, 2], None, [1, 1]]
    handle.remove()
    (a * c).sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=["flamec", "torch"])
def test_the_first_gradient_of_a_pass(framework: Any) -> None:
    a, b, c = leaves(framework, 3)
    calls: list[Any] = []
    register = graph_of(framework).register_multi_grad_hook
    with register((a, b), lambda g: calls.append(g.tolist()), mode="any"):
        for _ in range(2):
            ((a + b) * 3).sum().backward()
        c.sum().backward()
    ((a + b) * 3).sum().backward()
    assert calls == [[3, 3], [3, 3]]
    with pytest.raises(ValueError, match="mode"):
        register((a,), print, mode="some")
    with pytest.raises((RuntimeError, AssertionError), match="gradient"):
        register((framework.ones(2),), print)


def test_hooks_are_called_in_compiled_steps_as_in_eager_ones() -> None:
    def run(step: Any) -> list[Any]:
        a, b = leaves(flamec, 2)
        seen: list[Any] = []
        total = flamec.zeros(2)

        def hook(gradients: Any) -> None:
            total.add_(gradients[0] + gradients[1])
            seen.append(len(gradients))

        graph_of(flamec).register_multi_grad_hook([a, b], hook)
        for _ in range(3):
            step(a, b)
        assert seen
        return total.tolist()

    def step(a: Any, b: Any) -> None:
        (a * b).sum().backward()

    assert run(flamec.compile(step)) == run(step) == [3, 12]


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=["flamec", "torch"])
def test_hooks_on_saved_tensors_are_refused_in_a_region(framework: Any) -> None:
    graph = graph_of(framework)
    hooks = (lambda t: t, lambda t: t)
    with (
        graph.disable_saved_tensors_hooks("not here"),
        pytest.raises(RuntimeError, match="not here"),
        graph.saved_tensors_hooks(*hooks),
    ):
        pass
    with (
        graph.saved_tensors_hooks(*hooks),
        pytest.raises(RuntimeError, match="not here"),
        graph.disable_saved_tensors_hooks("not here"),
    ):
        pass
    with graph.saved_tensors_hooks(*hooks):
        x = framework.ones(2, requires_grad=True)
        (x * x).sum().backward()
    assert x.grad.tolist() == [2, 2]
