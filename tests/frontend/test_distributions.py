"""Draws of ``flamec.distributions`` have the distributions that SciPy knows; exact densities."""

from __future__ import annotations

import numpy as np
import pytest
from distribution_cases import scope

import flamec

KNOWN = [
    "Gamma(a, b)", "Gamma(a + 1, b)", "StudentT(a, r, b)", "Beta(a, b)", "Geometric(p)",
    "Poisson(a)", "VonMises(r, a)", "VonMises(r, a * 30)", "InverseGamma(a, b)", "Weibull(a, b)",
    "Pareto(b, a)", "FisherSnedecor(a, b)", "HalfCauchy(a)", "NegativeBinomial(a, p)",
    "Binomial(7, p)", "RelaxedBernoulli(t, p)",
]  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_draws_have_the_distribution_that_scipy_knows(case: str) -> None:
    stats = pytest.importorskip("scipy.stats")
    names = scope(flamec)
    a, b, r, p = (names[k].detach().numpy() for k in "abrp")
    exact = {
        "Gamma(a, b)": stats.gamma(a, scale=1 / b),
        "Gamma(a + 1, b)": stats.gamma(a + 1, scale=1 / b),
        "StudentT(a, r, b)": stats.t(a, r, b),
        "Beta(a, b)": stats.beta(a, b),
        "Geometric(p)": stats.geom(p, loc=-1),
        "Poisson(a)": stats.poisson(a),
        "VonMises(r, a)": stats.vonmises(a, r),
        "VonMises(r, a * 30)": stats.vonmises(a * 30, r),
        "InverseGamma(a, b)": stats.invgamma(a, scale=b),
        "Weibull(a, b)": stats.weibull_min(b, scale=a),
        "Pareto(b, a)": stats.pareto(a, scale=b),
        "FisherSnedecor(a, b)": stats.f(a, b),
        "HalfCauchy(a)": stats.halfcauchy(scale=a),
        "NegativeBinomial(a, p)": stats.nbinom(a, 1 - p),
        "Binomial(7, p)": stats.binom(7, p),
        "RelaxedBernoulli(t, p)": stats.logistic(np.log(p / (1 - p)) / 0.7, 1 / 0.7),
    }[case]
    flamec.manual_seed(11)
    drawn = np.sort(eval(case, names).sample((4000,)).numpy(), axis=0)
    if case.startswith("Relaxed"):
        drawn = np.log(drawn / (1 - drawn))
    if case.startswith("VonMises"):  # SciPy's are around loc, not between -pi and pi
        assert (np.abs(drawn) <= np.pi).all()
        drawn = np.sort((drawn - r + np.pi) % (2 * np.pi) + r - np.pi, axis=0)
    if case.startswith(("Geo", "Poi", "Neg", "Bin")):
        for k in range(4):
            share = (drawn <= k).mean(0)
            assert (np.abs(share - exact.cdf(k)) < 0.03).all()
    else:  # Kolmogorov-Smirnov, passed by 999 of 1000
        below = np.arange(1, 4001)[:, None] / 4000
        assert (np.abs(exact.cdf(drawn) - below).max(0) * np.sqrt(4000) < 1.95).all()


def test_the_density_of_angles_is_exact() -> None:
    stats = pytest.importorskip("scipy.stats")
    special = pytest.importorskip("scipy.special")
    k, x = np.array([0.01, 0.7, 8.0, 300.0]), np.array([3.0, -1.0, 0.3, 0.05])
    leaf = flamec.tensor(k, requires_grad=True)
    d = flamec.distributions.VonMises(0.2, leaf)
    density = d.log_prob(flamec.tensor(x))
    np.testing.assert_allclose(
        density.detach().numpy(), stats.vonmises.logpdf(x, k, 0.2), rtol=1e-12
    )
    ratio = special.i1e(k) / special.i0e(k)
    np.testing.assert_allclose(d.variance.detach().numpy(), 1 - ratio, rtol=1e-12)
    (slope,) = flamec.autograd.grad(density.sum(), leaf)
    np.testing.assert_allclose(slope.numpy(), np.cos(x - 0.2) - ratio, rtol=1e-10)
    (slope,) = flamec.autograd.grad(d.variance.sum(), leaf)
    np.testing.assert_allclose(slope.numpy(), ratio**2 + ratio / k - 1, rtol=1e-9)


def test_gradients_pass_through_draws() -> None:
    d = flamec.distributions
    loc, scale = (flamec.tensor([v, v + 1.0], requires_grad=True) for v in (0.5, 2.0))
    for cls in (d.Normal, d.Laplace, d.Cauchy, d.Gumbel):
        drawn = cls(loc, scale).rsample((3,))
        by_loc, by_scale = flamec.autograd.grad(drawn.sum(), (loc, scale))
        assert by_loc.tolist() == [3.0, 3.0]
        np.testing.assert_allclose(
            by_scale.numpy(), ((drawn - loc) / scale).sum(0).detach().numpy(), rtol=1e-4, atol=1e-5
        )
    squashed = d.TransformedDistribution(d.Normal(loc, scale), d.TanhTransform(cache_size=1))
    drawn = squashed.rsample()
    assert squashed.log_prob(drawn).isfinite().all() and drawn.requires_grad
    probs = flamec.tensor([0.2, 0.8], requires_grad=True)
    drawn = d.OneHotCategoricalStraightThrough(probs).rsample()
    assert sorted(drawn.tolist()) == [0.0, 1.0] and drawn.requires_grad
    with pytest.raises(NotImplementedError, match=r"rsample: its draws have no gradients"):
        d.Poisson(1.0).rsample()


def test_draws_of_small_concentrations_lie_at_the_corners() -> None:
    """Their gamma numbers are too small for float32, and were all equal."""
    stats = pytest.importorskip("scipy.stats")
    flamec.manual_seed(2)
    beta = flamec.distributions.Beta(0.005, 0.01).sample((20000,))
    dirichlet = flamec.distributions.Dirichlet(flamec.tensor([0.005, 0.02, 0.01])).sample((20000,))
    assert beta.dtype is flamec.float32
    for drawn, first, other in (
        (beta, 0.005, 0.01),
        (dirichlet[:, 0], 0.005, 0.03),
        (dirichlet[:, 1], 0.02, 0.015),
    ):
        exact = stats.beta(first, other)
        for low, high in ((0.0, 0.1), (0.1, 0.9), (0.9, 1.0)):
            share = ((drawn >= low) & (drawn < high)).double().mean().item()
            expected = exact.cdf(high) - exact.cdf(low)
            assert abs(share - expected) < 5 * (expected * (1 - expected) / 20000) ** 0.5
