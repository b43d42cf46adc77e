"""``.grad`` of arguments in a compiled function: read, added to, and the captured tensor's."""

from __future__ import annotations

from typing import Any

import pytest

import flamec
from flamec import Tensor

BACKENDS = ("evaluate", "auto")


def leaf(*gradient: float) -> Tensor:
    tensor = flamec.tensor([1.0, 2.0, 3.0]).requires_grad_()
    tensor.grad = flamec.tensor(gradient, dtype=flamec.float32) if gradient else None
    return tensor


def gradient(tensor: Tensor) -> Any:
    assert tensor.grad is not None
    return tensor.grad.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_added_to_what_an_argument_has(backend: str) -> None:
    @flamec.compile(backend=backend)
    def step(x: Tensor) -> None:
        (x * 4).sum().backward()

    first, second = leaf(1, 2, 3), leaf()
    for calls in (1, 2, 3):
        step(first)
        assert gradient(first) == [4 * calls + 1, 4 * calls + 2, 4 * calls + 3]
    assert step.stats.traces == 1
    for calls in (1, 2):
        step(second)
        assert gradient(second) == [4 * calls] * 3
    step(first)
    assert gradient(first) == [17, 18, 19]
    first.grad = None
    step(first)
    assert gradient(first) == [4, 4, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gradient_of_an_argument_is_an_operand(backend: str) -> None:
    @flamec.compile(backend=backend)
    def total(x: Tensor) -> Tensor:
        return x.detach() if x.grad is None else x.detach() + x.grad

    x = leaf()
    assert total(x).tolist() == [1, 2, 3]
    x.grad = flamec.tensor([10.0, 20.0, 30.0])
    assert total(x).tolist() == [11, 22, 33]
    x.grad.mul_(2)
    assert total(x).tolist() == [21, 42, 63]
    assert total(leaf()).tolist() == [1, 2, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_captured_tensor_that_is_an_argument_has_one_gradient(backend: str) -> None:
    captured, other = leaf(), leaf()

    @flamec.compile(backend=backend)
    def step(x: Tensor) -> Tensor:
        (x * 2).sum().backward()
        return flamec.zeros(3) if captured.grad is None else captured.grad + 0

    assert step(other).tolist() == [0, 0, 0]
    assert step(captured).tolist() == [2, 2, 2]
    assert step(captured).tolist() == [4, 4, 4]
    assert step(other).tolist() == [4, 4, 4]
    assert gradient(other) == [4, 4, 4] and gradient(captured) == [4, 4, 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_written_gradient_of_an_argument_is_that_of_the_captured_tensor(backend: str) -> None:
    captured, other = leaf(1, 1, 1), leaf(1, 1, 1)

    @flamec.compile(backend=backend)
    def step(x: Tensor) -> None:
        captured.grad = None
        (x * 2).sum().backward()

    step(other)
    assert captured.grad is None and gradient(other) == [3, 3, 3]
    step(captured)
    assert gradient(captured) == [2, 2, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_tensor_given_twice_has_the_sum(backend: str) -> None:
    @flamec.compile(backend=backend)
    def step(a: Tensor, b: Tensor) -> None:
        (a * 2 + b * 3).sum().backward()

    x, y = leaf(), leaf()
    step(x, x)
    step(x, x)
    assert gradient(x) == [10, 10, 10]
    step(x, y)
    assert gradient(x) == [12, 12, 12] and gradient(y) == [3, 3, 3]
    twin = x.detach().requires_grad_()  # in the memory of x
    step(x, twin)
    assert gradient(x) == [14, 14, 14] and gradient(twin) == [3, 3, 3]


@pytest.mark.parametrize("wrong", [3.0, flamec.ones(2), flamec.ones(3, dtype=flamec.float64)])
def test_what_cannot_be_a_gradient(wrong: Any) -> None:
    x = leaf(1, 1, 1)
    with pytest.raises((TypeError, RuntimeError), match="assigned grad"):
        x.grad = wrong
    assert gradient(x) == [1, 1, 1]


def test_a_leaf_that_is_an_argument_twice_gets_its_whole_gradient() -> None:
    leaf = flamec.tensor([1.0, 2.0]).requires_grad_()
    compiled = flamec.compile(lambda a, b: (a.sum() * 2 + (b[0] * b).sum(), a * 3))
    for _ in range(2):
        leaf.grad = None
        total, product = compiled(leaf, [leaf][0])
        assert total.requires_grad and product.requires_grad
        (total + product.sum()).backward()
        assert leaf.grad is not None
        assert leaf.grad.tolist() == [2 + 3 + 3 + 1, 2 + 3 + 1]
    assert compiled.stats.traces == 1
