"""``autograd.functional`` against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

X, W = np.array([[1.0, 2.0, 0.5], [-0.3, 0.2, 1.0]]), np.array([0.4, -0.2])


def values(result: Any) -> list[np.ndarray]:
    if isinstance(result, (list, tuple)):
        return [v for part in result for v in values(part)]
    return [result.detach().numpy()]


def rows(lib: Any) -> Any:
    return lambda x, w: (lib.sin(x).sum(1) * w, (x**2).sum() * w)


def scalar(lib: Any) -> Any:
    return lambda x, w: ((x**3).sum(1) * lib.exp(w)).sum()


CASES = {
    "jacobian": lambda l, F, x, w: F.jacobian(rows(l), (x, w)),
    "jacobian of one": lambda l, F, x, w: F.jacobian(l.sin, x),
    "jacobian forward": lambda l, F, x, w: F.jacobian(
        rows(l), (x, w), vectorize=True, strategy="forward-mode"
    ),
    "hessian": lambda l, F, x, w: F.hessian(scalar(l), (x, w)),
    "hessian of one": lambda l, F, x, w: F.hessian(lambda x: (x**3).sum().reshape(1), x),
    "vjp": lambda l, F, x, w: F.vjp(rows(l), (x, w), (w, w * 2)),
    "vjp without v": lambda l, F, x, w: F.vjp(scalar(l), (x, w)),
    "vjp of an infinite value": lambda l, F, x, w: F.vjp(lambda a: (a * 0 + l.inf).sum(), x),
    "jvp": lambda l, F, x, w: F.jvp(rows(l), (x, w), (x * 2, w)),
    "hvp": lambda l, F, x, w: F.hvp(scalar(l), (x, w), (x.cos(), w)),
    "vhp": lambda l, F, x, w: F.vhp(lambda x: (x**3).prod(), x, x),
    "strict": lambda l, F, x, w: F.jacobian(rows(l), (x, w), strict=True),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_pytorch(case: str) -> None:
    def run(lib: Any) -> Any:
        return values(CASES[case](lib, lib.autograd.functional, lib.tensor(X), lib.tensor(W)))

    for a, b in zip(run(flamec), run(torch), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lib", [torch, flamec], ids=["torch", "flamec"])
def test_graphs_and_errors(lib: Any) -> None:
    functional = lib.autograd.functional
    x, w = lib.tensor(X, requires_grad=True), lib.tensor(W)
    j = functional.jacobian(lambda v: v**3, x, create_graph=True)
    j.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * X)
    assert not functional.jacobian(lambda v: v**3, x).requires_grad
    with pytest.raises(RuntimeError, match="independent"):
        functional.jacobian(lambda a, b: a * 2, (x, w), strict=True)
    with pytest.raises(TypeError, match="must be either a Tensor or a tuple"):
        functional.jacobian(lambda a: a, (3,))
    with pytest.raises(RuntimeError, match="can only be None"):
        functional.vjp(lambda a: a * 2, x)
    with pytest.raises(RuntimeError, match="v has invalid size"):
        functional.jvp(lambda a: a * 2, x, w)
    with pytest.raises(RuntimeError, match=r"[Ss]hould return a single"):
        functional.hessian(lambda a: (a.sum(), a.sum()), x)
