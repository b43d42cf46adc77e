"""``flamec.distributions`` by SciPy: what draws are distributed by, exact densities; checks."""

from __future__ import annotations

import re
from typing import Any

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


def test_a_pair_without_a_rule_is_refused_and_rules_can_be_added() -> None:
    d = flamec.distributions
    with pytest.raises(NotImplementedError, match="p type Gumbel and q type Poisson: define it"):
        d.kl_divergence(d.Gumbel(0.0, 1.0), d.Poisson(1.0))

    class Mine(d.Normal):
        pass

    assert d.kl_divergence(Mine(0.0, 1.0), d.Normal(0.0, 1.0)).item() == 0

    @d.register_kl(Mine, Mine)
    def rule(p: Any, q: Any) -> Any:
        return p.loc + 7

    assert d.kl_divergence(Mine(0.0, 1.0), Mine(0.0, 1.0)).item() == 7


def test_a_policy_gradient_step_is_one_program() -> None:
    """Draws, log_prob and entropy of a policy whose width varies, at varying batch sizes."""
    d = flamec.distributions
    net = flamec.nn.Linear(3, 2)
    optimizer = flamec.optim.SGD(net.parameters(), lr=0.1)

    @flamec.compile(fullgraph=True)
    def step(x: Any, width: float) -> Any:
        policy = d.Independent(d.Normal(net(x), width), 1)
        action = policy.sample()
        loss = -(policy.log_prob(action) * action.sum(-1)).mean() - 0.1 * policy.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss, action

    for k, batch in enumerate((4, 7, 5, 1, 9)):
        loss, action = step(flamec.ones(batch, 3), 1.0 / (k + 1))
        assert action.shape == (batch, 2) and loss.isfinite()
    assert step.stats.traces <= 3

    @flamec.compile(fullgraph=True)
    def choose(logits: Any) -> Any:
        policy = d.Categorical(logits=logits)
        action = policy.sample((2,))
        return action, policy.log_prob(action), policy.entropy()

    logits = flamec.randn(6, 4)
    flamec.manual_seed(1)
    eager = choose.function(logits)
    flamec.manual_seed(1)
    for mine, other in zip(choose(logits), eager, strict=True):
        flamec.testing.assert_close(mine, other)


def test_values_are_checked() -> None:
    d = flamec.distributions
    with pytest.raises(ValueError, match=re.escape("constraint GreaterThan(lower_bound=0.0)")):
        d.Normal(0.0, flamec.tensor([-1.0]))
    mapped = flamec.vmap(lambda s: d.Normal(0.0, s).log_prob(s))(flamec.tensor([1.0, 2.0]))
    expected = d.Normal(0.0, flamec.tensor([1.0, 2.0])).log_prob(flamec.tensor([1.0, 2.0]))
    flamec.testing.assert_close(mapped, expected)
    d.Distribution.set_default_validate_args(False)
    try:
        assert d.Normal(0.0, -1.0).log_prob(flamec.ones(1)).isnan().all()
    finally:
        d.Distribution.set_default_validate_args(True)
