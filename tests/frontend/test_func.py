"""flamec.func: derivatives of functions, nested, of structures, eager and compiled."""

from __future__ import annotations

import numpy as np
import pytest

import flamec
from flamec.func import grad, hessian, jacrev, value_and_grad, vjp

X = np.array([0.3, -1.2, 2.0])


def tensor(values: np.ndarray) -> flamec.Tensor:
    return flamec.tensor(values, dtype=flamec.float64)


def cubes(x: flamec.Tensor) -> flamec.Tensor:
    return (x**3).sum()


@pytest.mark.parametrize("wrap", [lambda f: f, flamec.compile], ids=["eager", "compiled"])
def test_gradients_of_any_order(wrap: object) -> None:
    f = lambda t: t**4  # noqa: E731
    x = flamec.tensor(2.0, dtype=flamec.float64)
    for expected in (32.0, 48.0, 48.0, 24.0):
        f = grad(f)
        assert wrap(f)(x).item() == pytest.approx(expected)  # type: ignore[operator]


@pytest.mark.parametrize("wrap", [lambda f: f, flamec.compile], ids=["eager", "compiled"])
def test_hessian_and_jacobian(wrap: object) -> None:
    h = wrap(lambda x: hessian(cubes)(x))(tensor(X))  # type: ignore[operator]
    np.testing.assert_allclose(h.numpy(), np.diag(6 * X))
    j = wrap(lambda x: jacrev(lambda v: v * v.sum())(x))(tensor(X))  # type: ignore[operator]
    np.testing.assert_allclose(j.numpy(), np.eye(3) * X.sum() + X[:, None])


def test_hessian_agrees_with_finite_differences() -> None:
    def f(x: flamec.Tensor) -> flamec.Tensor:
        return (flamec.sin(x) * x[0]).sum() + flamec.logsumexp(x, 0)

    step = 1e-5
    gradient = grad(f)
    columns = [
        (gradient(tensor(X + step * e)) - gradient(tensor(X - step * e))).numpy() / (2 * step)
        for e in np.eye(3)
    ]
    np.testing.assert_allclose(hessian(f)(tensor(X)).numpy(), np.stack(columns, 1), atol=1e-8)


def test_results_carry_no_history_of_their_own() -> None:
    assert not grad(cubes)(tensor(X)).requires_grad
    gradient, value = value_and_grad(cubes)(tensor(X))
    assert not gradient.requires_grad and not value.requires_grad
    w = flamec.tensor(2.0, dtype=flamec.float64, requires_grad=True)
    outer = grad(lambda x: (w * x**2).sum())(tensor(X))
    outer.sum().backward()
    assert w.grad is not None and w.grad.item() == pytest.approx(2 * X.sum())


def test_structures_argnums_and_auxiliary_values() -> None:
    def loss(parameters: dict[str, flamec.Tensor], x: flamec.Tensor) -> tuple[flamec.Tensor, str]:
        return (parameters["a"] * x + parameters["b"]).sum(), "aux"

    parameters = {"a": tensor(X), "b": tensor(X)}
    (gradient, (value, auxiliary)) = value_and_grad(loss, has_aux=True)(parameters, tensor(X))
    np.testing.assert_allclose(gradient["a"].numpy(), X)
    assert gradient["b"].tolist() == [1.0, 1.0, 1.0]
    assert auxiliary == "aux" and value.item() == pytest.approx((X * X + X).sum())
    both = grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(tensor(X), tensor(2 * X))
    np.testing.assert_allclose(both[0].numpy(), 2 * X)
    np.testing.assert_allclose(both[1].numpy(), X)


def test_vjp() -> None:
    output, pull_back = vjp(lambda x: x * x, tensor(X))
    np.testing.assert_allclose(output.numpy(), X * X)
    (gradient,) = pull_back(tensor(np.ones(3)))
    np.testing.assert_allclose(gradient.numpy(), 2 * X)


def test_errors() -> None:
    with pytest.raises(RuntimeError, match=r"scalar.*\[3\].*test_func\.py"):
        grad(lambda x: x * 2)(tensor(X))
    with pytest.raises(TypeError, match="int64"):
        grad(cubes)(flamec.tensor([1, 2]))
    with pytest.raises(IndexError, match="argnums"):
        grad(cubes, argnums=2)(tensor(X))
