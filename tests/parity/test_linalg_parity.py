"""Linear algebra against PyTorch, errors included. Vectors are compared up to their sign."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from parity_expressions import check_expression, expressions

torch = pytest.importorskip("torch")


def operands() -> dict[str, Any]:
    """a: regular, spd: positive definite, bad: not, sing: one singular, r: wide, tall, p: not
    contiguous, e: no rows, none: no matrices, v: a vector, i: integers."""
    rng = np.random.default_rng(11)
    a = torch.tensor(rng.normal(size=(2, 4, 4)).astype(np.float32))
    spd = a @ a.mT + torch.eye(4)
    bad = spd.clone()
    bad[1, 2, 2] = -1
    sing = a.clone()
    sing[1, 3] = 0
    return {
        "a": a,
        "b": torch.tensor(rng.normal(size=(2, 4, 3)).astype(np.float32)),
        "spd": spd,
        "bad": bad,
        "sing": sing,
        "r": torch.tensor(rng.normal(size=(2, 3, 5)).astype(np.float32)),
        "tall": torch.tensor(rng.normal(size=(2, 5, 3)).astype(np.float32)),
        "p": torch.tensor(rng.normal(size=(4, 4, 2)).astype(np.float32)).permute(2, 1, 0),
        "e": torch.ones(2, 0, 0),
        "none": torch.ones(0, 3, 3),
        "v": torch.tensor([1.0, -2.0, 0.5, 3.0]),
        "i": torch.arange(4).reshape(2, 2),
    }


@pytest.mark.parametrize("expression", expressions("linalg"))
def test_expression(expression: str) -> None:
    check_expression(expression, operands, 50)


def test_errors_name_the_matrix() -> None:
    import flamec

    names = operands()
    for name, function in (("bad", "cholesky"), ("sing", "inv")):
        with pytest.raises(torch.linalg.LinAlgError, match="Batch element 1"):
            getattr(torch.linalg, function)(names[name])
        mine, own = flamec.tensor(names[name].numpy()), getattr(flamec.linalg, function)
        message = rf"linalg\.{function}: .*Batch element 1.*test_linalg_parity\.py:\d+"
        for call in (own, flamec.compile(own)):
            with pytest.raises(flamec.linalg.LinAlgError, match=message):
                call(mine)


@pytest.mark.parametrize("triangle", ["L", "U"])
@pytest.mark.parametrize("name", ["eigvalsh", "eigh", "pinv"])
def test_gradients_of_symmetric_matrices(name: str, triangle: str) -> None:
    """Element by element: gradients keep a symmetric matrix symmetric, as PyTorch's do."""
    import flamec

    raw = np.random.default_rng(5).normal(size=(2, 4, 4))
    array = raw + raw.swapaxes(1, 2)
    weights = np.random.default_rng(6).normal(size=(2, 4, 4))

    def derivatives(package: Any, wrap: Any) -> list[np.ndarray]:
        w = package.from_numpy(weights)

        def function(x: Any) -> Any:
            if name == "pinv":
                return package.linalg.pinv(x, hermitian=True) * w
            if name == "eigvalsh":
                return package.linalg.eigvalsh(x, triangle) ** 2
            values, vectors = package.linalg.eigh(x, triangle)
            return vectors**2 * w + values[..., None] ** 3

        x = package.from_numpy(array.copy()).requires_grad_()
        y = wrap(function)(x)
        (first,) = package.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = package.autograd.grad((first * w).sum(), x)
        return [t.detach().numpy() for t in (y, first, second)]

    wanted = derivatives(torch, lambda f: f)
    for wrap in (lambda f: f, flamec.compile):
        for found, value in zip(derivatives(flamec, wrap), wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (2, 4, 2), (1, 1)])
def test_gradients_of_reflections(shape: tuple[int, ...]) -> None:
    """PyTorch's geqrf has none; the product of its reflections is LAPACK's orthogonal factor."""
    import flamec

    array = np.random.default_rng(3).normal(size=shape)
    seed = np.random.default_rng(4).normal(size=shape)

    def derivatives(package: Any, orthogonal: Any) -> list[np.ndarray]:
        x = package.from_numpy(array.copy()).requires_grad_()
        q = orthogonal(x)
        (first,) = package.autograd.grad(q, x, package.from_numpy(seed), create_graph=True)
        (second,) = package.autograd.grad((first**2).sum(), x)
        return [t.detach().numpy() for t in (q, first, second)]

    def ours(x: Any) -> Any:
        return flamec.linalg.householder_product(*flamec.geqrf(x))

    wanted = derivatives(torch, lambda x: torch.linalg.qr(x).Q)
    for way in (ours, flamec.compile(ours)):
        for found, value in zip(derivatives(flamec, way), wanted, strict=True):
            np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-9)
