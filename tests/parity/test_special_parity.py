"""``flamec.special`` against PyTorch: dtypes, values at corners, orthogonal polynomials."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")


def call(package: Any, name: str) -> Callable[..., Any]:
    return getattr(package.special, name)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", sorted(flamec.special.__all__))
def test_dtypes_and_names_are_pytorchs(name: str) -> None:
    mine, theirs = call(flamec, name), call(torch, name)
    text = inspect.signature(mine)
    count = sum(p.default is p.empty for p in text.parameters.values() if p.kind != p.VAR_KEYWORD)
    for dtype in ("float32", "float64", "int64", "bool", "float16"):
        if name in ("softmax", "log_softmax", "logsumexp", "polygamma", "round"):
            continue
        arguments = [[2, 2]] * count if name != "multigammaln" else [[2, 2], 1]

        def run(package: Any, function: Any, dtype: str = dtype, given: Any = arguments) -> Any:
            kind = getattr(package, dtype)
            return function(*(package.tensor(a).to(kind) if a != 1 else 1 for a in given))

        try:
            wanted = run(torch, theirs)
        except (RuntimeError, NotImplementedError):
            continue  # bool or 16 bits, not implemented there
        assert str(run(flamec, mine).dtype).endswith(str(wanted.dtype).rpartition(".")[2]), dtype


def test_incomplete_gamma_functions_at_corners() -> None:
    special_a = [0, 0, 1, 1, -1, np.inf, 2, np.inf, 0.5, np.nan, 3]
    special_x = [0, 1, 0, np.inf, 1, 1, -1, np.inf, 1e-30, 1, np.nan]
    for name in ("gammainc", "gammaincc"):
        mine, theirs = (
            call(p, name)(p.tensor(special_a), p.tensor(special_x)).numpy() for p in (flamec, torch)
        )
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_zeta() -> None:
    x = np.array([1.0, 1.1, 2, 3, 5.5, 20, 60, 0.5, 2, 3, 2, 3, 2.5, np.inf, 4, np.nan, 2])
    q = np.array([1, 1, 0.3, 2, 4, 7, 0.5, 1, -0.5, -3.3, -2, 0, -0.5, 1, 1e3, 1, -40.25])
    mine, theirs = (flamec.special.zeta, torch.special.zeta)
    wanted = theirs(torch.tensor(x), torch.tensor(q)).numpy()
    found = mine(flamec.tensor(x), flamec.tensor(q)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-14)
    found, wanted = mine(3, flamec.tensor(q)), theirs(3, torch.tensor(q))
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-14)


POLYNOMIALS = [n for n in sorted(flamec.special.__all__) if "polynomial" in n]


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials(name: str) -> None:
    mine, theirs = call(flamec, name), call(torch, name)
    x = np.linspace(-1.5, 1.5, 7)
    degrees = np.array([-2, 0, 1, 3, 4, 8, 6])
    for n in (-1, 0, 1, 2, 5, 9, 70, 2.9):
        wanted = theirs(torch.tensor(x), n).numpy()
        usual = np.isfinite(wanted)
        found = mine(flamec.tensor(x), n).numpy()
        np.testing.assert_allclose(found[usual], wanted[usual], rtol=1e-10, atol=1e-9)
    wanted = theirs(torch.tensor(x), torch.tensor(degrees)).numpy()
    for form in (mine, flamec.compile(mine, fullgraph=True)):
        found = form(flamec.tensor(x), flamec.tensor(degrees))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-10, atol=1e-9)
    far = [np.inf, -np.inf, np.nan]
    for n in (-1, 0, 1, 2):
        wanted = theirs(torch.tensor(far[:2]), n).tolist()
        assert mine(flamec.tensor(far[:2]), n).tolist() == wanted
        assert mine(flamec.tensor(far[:2]), flamec.tensor(n)).tolist() == wanted
        assert mine(flamec.tensor(far), n).isnan().tolist() == [False, False, n > 0]
    assert mine(flamec.tensor(x[:0]), flamec.tensor(degrees[:0])).shape == (0,)
    found, wanted = mine(2, flamec.tensor([3.7, 1])), theirs(2, torch.tensor([3.7, 1]))
    assert found.tolist() == wanted.tolist()
    leaf = flamec.tensor(x, requires_grad=True)
    (none,) = flamec.autograd.grad(mine(leaf, 0).sum(), leaf)
    assert none.tolist() == [0.0] * 7
    (together,) = flamec.autograd.grad(mine(leaf, flamec.tensor(degrees)).sum(), leaf)
    (single,) = flamec.autograd.grad(sum(mine(leaf[k], int(degrees[k])) for k in range(7)), leaf)
    flamec.testing.assert_close(together, single)
