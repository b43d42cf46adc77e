"""polygamma and frexp against PyTorch and SciPy: special values, dtypes, errors, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special

import flamec

torch = pytest.importorskip("torch")

MODES = {"eager": lambda f: f, "compiled": flamec.compile}
X = np.array([0.3, 0.5, 1.0, 2.5, 7.0, 40.0, 1e6, 0.0, -1.0, -7.0, np.nan, -np.inf])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 7, 20])
def test_polygamma_of_positive_numbers_and_poles(n: int, mode: str) -> None:
    found = MODES[mode](lambda x: flamec.polygamma(n, x))(flamec.tensor(X)).numpy()
    np.testing.assert_allclose(found[:7], scipy.special.polygamma(n, X[:7]), rtol=2e-13)
    wanted = torch.polygamma(n, torch.tensor(X)).numpy()
    if n == 1:  # PyTorch's trigamma at a pole is a large number
        wanted[7:] = [np.inf, np.inf, np.inf, np.nan, np.nan]
    np.testing.assert_array_equal(found[7:], wanted[7:])


@pytest.mark.parametrize("dtype", ["bool", "int64", "float16", "bfloat16", "float32"])
def test_polygamma_of_other_dtypes(dtype: str) -> None:
    for n in range(5):
        mine = flamec.tensor([1, 1]).to(getattr(flamec, dtype)).polygamma(n)
        theirs = torch.tensor([1, 1]).to(getattr(torch, dtype)).polygamma(n)
        assert str(mine.dtype).replace("flamec", "torch") == str(theirs.dtype)
        # PyTorch computes factors in 16 bits
        wanted = torch.polygamma(n, torch.ones(2, dtype=torch.float64)).to(theirs.dtype)
        np.testing.assert_allclose(mine.float().numpy(), wanted.float().numpy(), rtol=1e-6)


def test_polygamma_refuses_what_pytorch_refuses() -> None:
    with pytest.raises(RuntimeError, match="does not support negative n"):
        flamec.polygamma(-1, flamec.ones(2))
    for n in (1.5, flamec.ones(2)):
        with pytest.raises(TypeError, match="argument 'n' must be int"):
            flamec.polygamma(n, flamec.ones(2))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_frexp(dtype: str, mode: str) -> None:
    values = np.random.default_rng(2).standard_normal(200)
    values = values * 2.0 ** np.arange(-1080, 920, 10)
    values = np.array(
        [
            *values,
            0.0,
            -0.0,
            np.inf,
            -np.inf,
            np.nan,
            1,
            -1,
            0.5,
            0.75,
            2,
            2**-149,
            5e-324,
            -(2**-24),
        ]
    )
    theirs = torch.tensor(values).to(getattr(torch, dtype))
    mine = flamec.tensor(values).to(getattr(flamec, dtype))
    wanted, found = torch.frexp(theirs), MODES[mode](lambda x: flamec.frexp(x))(mine)
    assert found[0].dtype is mine.dtype and found[1].dtype is flamec.int32
    for name, m, t in zip(("mantissa", "exponent"), found, wanted, strict=True):
        m, t = (a.double().numpy() for a in (m, t))
        np.testing.assert_array_equal(m, t, err_msg=name)
        np.testing.assert_array_equal(np.signbit(m), np.signbit(t), err_msg=name)


def test_names_and_gradient_of_frexp() -> None:
    values = [3.0, -0.3, 0.0, 1e30, 1e-30]

    def run(package: Any) -> Any:
        x = package.tensor(values, dtype=package.float64, requires_grad=True)
        parts = x.frexp()
        (parts.mantissa * package.arange(1.0, 6.0)).sum().backward()
        return x.grad.numpy(), parts.exponent.numpy()

    for mine, theirs in zip(run(flamec), run(torch), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(RuntimeError, match="only supports floating-point"):
        flamec.frexp(flamec.ones(2, dtype=flamec.int32))
