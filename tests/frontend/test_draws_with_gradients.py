"""Draws of ``flamec.distributions`` follow their parameters: slopes against SciPy's quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from distribution_cases import FOLLOWING, scope

import flamec
from flamec.distributions.implicit_gradients import following_gamma, following_shares

# draws by the quantile at which they lie, with SciPy: a function of the concentration
CONCENTRATIONS = (0.02, 0.4, 1.0, 1.7, 9.0, 300.0)


@pytest.mark.parametrize("c", CONCENTRATIONS)
def test_gamma_numbers_stay_at_their_quantiles(c: float) -> None:
    special = pytest.importorskip("scipy.special")
    quantiles = np.array([0.05, 0.2, 0.5, 0.8, 0.999])
    x = special.gammaincinv(c, quantiles)
    steps = c * 1e-3 * np.arange(-3, 4)
    moved = special.gammaincinv(c + steps[:, None], quantiles)
    check_slopes(
        lambda t: following_gamma(t.expand(5), flamec.tensor(np.log(x))), c, x, moved, steps
    )


@pytest.mark.parametrize("c", CONCENTRATIONS)
@pytest.mark.parametrize("other", CONCENTRATIONS[::2])
def test_beta_numbers_stay_at_their_quantiles(c: float, other: float) -> None:
    special = pytest.importorskip("scipy.special")
    quantiles = np.array([0.01, 0.3, 0.6, 0.99])
    x, rest = special.betaincinv(c, other, quantiles), special.betaincinv(other, c, 1 - quantiles)
    inside = (x > 1e-10) & (rest > 1e-3)  # where SciPy's numbers are exact
    x, rest, quantiles = x[inside], rest[inside], quantiles[inside]
    steps = c * 1e-3 * np.arange(-3, 4)
    moved = special.betaincinv(c + steps[:, None], other, quantiles)

    def draws(t: Any) -> Any:
        both = flamec.stack([t, flamec.tensor(other, dtype=flamec.float64)])
        logarithms = flamec.tensor(np.log(np.stack([x, rest], -1)))
        return following_shares(both.expand(len(x), 2), logarithms)[:, 0]

    check_slopes(draws, c, x, moved, steps)


def check_slopes(draws: Any, c: float, x: Any, moved: Any, steps: Any) -> None:
    """The first two derivatives of the logarithms against differences of sixth order."""
    leaf = flamec.tensor(c, dtype=flamec.float64, requires_grad=True)
    value = draws(leaf)
    np.testing.assert_allclose(value.detach().numpy(), x, rtol=1e-12)
    h, moved = steps[-1] / 3, np.log(moved)
    wanted = np.array([-1, 9, -45, 0, 45, -9, 1]) @ moved / (60 * h)
    wanted_second = np.array([2, -27, 270, -490, 270, -27, 2]) @ moved / (180 * h * h)
    for k in range(len(x)):
        (slope,) = flamec.autograd.grad(draws(leaf)[k].log(), leaf, create_graph=True)
        np.testing.assert_allclose(slope.item(), wanted[k], rtol=1e-6)
        (second,) = flamec.autograd.grad(slope, leaf)
        assert abs(second.item() - wanted_second[k]) < 1e-4 * abs(wanted[k]) / c


@pytest.mark.parametrize("case", FOLLOWING)
def test_draws_with_gradients_are_the_same_compiled(case: str) -> None:
    names = scope(flamec)
    leaves = [names[n] for n in ("a", "b", "r", "w")]

    def step() -> Any:
        drawn = eval(case, names).rsample((5,))
        return drawn, flamec.autograd.grad(drawn.square().sum(), leaves, allow_unused=True)

    compiled = flamec.compile(step, fullgraph=True)
    flamec.manual_seed(8)
    value, gradients = step()
    flamec.manual_seed(8)
    other, others = compiled()
    flamec.testing.assert_close(value, other, rtol=1e-10, atol=1e-12)
    for mine, again in zip(gradients, others, strict=True):
        assert (mine is None) == (again is None)
        if mine is not None:
            flamec.testing.assert_close(mine, again, rtol=1e-8, atol=1e-10)


def test_draws_at_corners_have_finite_gradients_of_their_logarithms() -> None:
    d = flamec.distributions
    flamec.manual_seed(5)
    c = flamec.full((50, 3), 0.005, requires_grad=True)
    for made in (d.Gamma(c, 1.0), d.Dirichlet(c)):
        drawn = made.rsample()
        assert (drawn > 0).all() and (drawn < flamec.inf).all()
        for loss in (drawn.log().sum(), made.log_prob(drawn).sum()):
            (gradient,) = flamec.autograd.grad(loss, c, retain_graph=True)
            assert gradient.isfinite().all()
    # the logarithm of a small gamma number is log(u) / c
    c = flamec.tensor([0.005], requires_grad=True)
    drawn = d.Gamma(c, 1.0).rsample((2000,))
    (gradient,) = flamec.autograd.grad(drawn.log().mean(), c)
    assert abs(gradient.item() - 200**2) < 5 * 200**2 / 2000**0.5
