"""``flamec.distributions`` against PyTorch's: densities, moments, draws, divergences, messages."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np
import pytest
from distribution_cases import scope

import flamec

torch = pytest.importorskip("torch")

# a distribution; values inside its support. a, b: positive, with gradients; r, s: real; p: inside
# (0, 1); m: [2, 3] real; w: [2, 3] positive; spd: [2, 3, 3] positive definite
CASES = {
    "Normal(r, a)": "s",
    "Normal(0.5, 2.0)": "s",
    "HalfNormal(a)": "b",
    "Laplace(r, a)": "s",
    "Cauchy(r, a)": "s",
    "Gumbel(r, a)": "s",
    "LogNormal(r, a)": "b",
    "Uniform(r, r + a)": "r + 0.3 * a",
    "HalfCauchy(a)": "b",
    "Pareto(b, a)": "b + s.abs()",
    "Pareto(b, a + 2)": "b + s.abs()",
    "Weibull(a, b + 1)": "b",
    "InverseGamma(a, b)": "b",
    "InverseGamma(a + 2, b)": "b",
    "FisherSnedecor(a + 2, b + 4)": "a",
    "FisherSnedecor(a, b)": "a",
    "VonMises(r, a)": "s",
    "Binomial(5, p)": "i * 3",
    "Binomial(torch_count, logits=r)": "i * 3",
    "NegativeBinomial(a, p)": "i * 3",
    "NegativeBinomial(a * 4, logits=r)": "i * 3",
    "RelaxedBernoulli(t, p)": "a / 2",
    "RelaxedBernoulli(t, logits=r)": "a / 2",
    "RelaxedOneHotCategorical(t, w)": "w / w.sum(-1, keepdim=True)",
    "RelaxedOneHotCategorical(t, logits=m)": "w / w.sum(-1, keepdim=True)",
    "Exponential(a)": "b",
    "Gamma(a, b)": "b",
    "Gamma(a + 1, b)": "a",
    "Chi2(a)": "b",
    "Beta(a, b)": "p",
    "Beta(a + 1, b + 1)": "p",
    "StudentT(a, r, b)": "s",
    "StudentT(a + 2)": "s",
    "Dirichlet(w)": "w / w.sum(-1, keepdim=True)",
    "Dirichlet(w + 1)": "w / w.sum(-1, keepdim=True)",
    "Bernoulli(p)": "i",
    "Bernoulli(logits=r)": "i",
    "Geometric(p)": "i * 3",
    "Geometric(logits=r)": "i * 3",
    "Poisson(a)": "i * 3",
    "Categorical(w)": "i2",
    "Categorical(logits=m)": "i2",
    "OneHotCategorical(w)": "hot",
    "OneHotCategorical(logits=m)": "hot",
    "OneHotCategoricalStraightThrough(w)": "hot",
    "Multinomial(4, w)": "counts",
    "Multinomial(4, logits=m)": "counts",
    "MultivariateNormal(m, spd)": "w",
    "MultivariateNormal(m, scale_tril=cholesky(spd))": "w",
    "MultivariateNormal(m, precision_matrix=spd)": "w",
    "MultivariateNormal(m[0], spd)": "w",
    "LowRankMultivariateNormal(m, spd[..., :2], w)": "w",
    "LowRankMultivariateNormal(m[0], spd[0, :, :1], w)": "w",
    "LogisticNormal(m, w)": "StickBreakingTransform()(m - w)",
    "LogisticNormal(a[0], b[0])": "StickBreakingTransform()(r[:1])",
    "TransformedDistribution(Dirichlet(w), StickBreakingTransform().inv)": "m[:, :2]",
    "Kumaraswamy(a, b)": "p",
    "Kumaraswamy(a + 1, b + 1)": "p",
    "Independent(Normal(m, w), 1)": "w",
    "Independent(Bernoulli(logits=m), 1)": "hot",
    "MixtureSameFamily(Categorical(w), Normal(m, w))": "w[:, 0]",
    "MixtureSameFamily(Categorical(w), Independent(Normal(vw, vw), 1))": "w[:, :2]",
    "TransformedDistribution(Normal(r, a), TanhTransform())": "p",
    "TransformedDistribution(Normal(r, a), [ExpTransform(), AffineTransform(s, 2.0)])": "s + b",
    "TransformedDistribution(Normal(r, a), [AffineTransform(1.0, b), SigmoidTransform()])": "p",
    "TransformedDistribution(Normal(r, a), [SoftplusTransform(), PowerTransform(2.0)])": "b",
    "TransformedDistribution(Uniform(-p, p), TanhTransform().inv)": "0.5 * p",
    "TransformedDistribution(Normal(m, w), [AffineTransform(m, w, event_dim=1)])": "w",
    "TransformedDistribution(Normal(r[0].detach(), 1.0), AffineTransform(r, a))": "s",
    "TransformedDistribution(Normal(r, a), ComposeTransform([ExpTransform(), ExpTransform()]))": (
        "b + 1.1"
    ),
    "TransformedDistribution(Normal(m, w), IndependentTransform(ExpTransform(), 1))": "w",
    "TransformedDistribution(Exponential(a), AffineTransform(r, -b))": "r - b",
    "TransformedDistribution(Exponential(a), [AffineTransform(0.0, -1.0), ExpTransform()])": "p",
    "TransformedDistribution(Exponential(a), PowerTransform(-2.0))": "b",
    "TransformedDistribution(Exponential(a), AffineTransform(0.5, -1.0).inv)": "0.5 - b",
    "TransformedDistribution(Uniform(0.0, a[0].detach()), PowerTransform(b + 1))": "0.02 * p",
    "TransformedDistribution(Normal(0.0, 1.0), ComposeTransform([AffineTransform(r, a)]))": "s",
}
FACTS = ("mean", "variance", "stddev", "mode", "entropy()", "cdf(v)", "icdf(u)", "perplexity()")
LEAVES = ("a", "b", "r", "s", "p", "m", "w", "spd", "vw")


def facts(package: Any, case: str) -> dict[str, Any]:
    """What a distribution says of itself, with gradients by its parameters."""
    names = scope(package)
    found: dict[str, Any] = {}
    for fact in ("log_prob(v)", *FACTS):

        def value(fact: str = fact) -> Any:
            distribution = eval(case, names)
            inside = eval(CASES[case], names).detach()
            quantile = package.tensor(0.3, dtype=package.float64)
            return eval(f"d.{fact}", {"d": distribution, "v": inside, "u": quantile})

        values_only = fact == "cdf(v)" and case.startswith(
            ("Gamma", "Chi2", "InverseGamma")  # in PyTorch
        )
        try:
            with package.set_grad_enabled(not values_only):
                result = value()
        except NotImplementedError:
            continue
        found[fact] = result.detach().numpy()
        if result.requires_grad and np.isfinite(found[fact]).all():
            leaves = [names[name] for name in LEAVES]
            grads = package.autograd.grad(result.sum(), leaves, allow_unused=True)
            for name, grad in zip(LEAVES, grads, strict=True):
                if grad is not None:
                    found[f"{fact} by {name}"] = grad.numpy()
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_densities_moments_and_their_gradients(case: str) -> None:
    mine, theirs = facts(flamec, case), facts(torch, case)
    if case.startswith("Kumaraswamy"):  # PyTorch's mode is NaN: of log1p of numbers below -1
        assert np.isnan(theirs["mode"]).all()
        mine = {fact: value for fact, value in mine.items() if "mode" not in fact}
        theirs.pop("mode")
    assert {"log_prob(v)"} <= set(mine) <= set(theirs)
    assert {fact for fact in set(theirs) - set(mine) if " by " not in fact} <= {"cdf(v)"}
    for fact, value in mine.items():
        assert value.shape == theirs[fact].shape, fact
        if fact == "mode" and case in ("Beta(a, b)", "Dirichlet(w)"):
            continue  # PyTorch takes the first corner where all are below 1, here the likeliest
        # PyTorch's trigamma is exact to 5e-10, its Bessel functions of angles to 3e-7
        limit = 5e-7 if case.startswith("VonMises") else 1e-8
        if case.startswith("Multinomial") and ("entropy" in fact or "perplexity" in fact):
            limit = 1e-7  # PyTorch takes log n! in float32
        np.testing.assert_allclose(value, theirs[fact], rtol=limit, atol=limit / 10, err_msg=fact)


COMPILED = [
    "Normal(r, a)", "Beta(a, b)", "Categorical(w)", "MultivariateNormal(m, spd)",
    "MixtureSameFamily(Categorical(w), Normal(m, w))",
    "TransformedDistribution(Normal(r, a), TanhTransform())",
]  # fmt: skip


@pytest.mark.parametrize("case", COMPILED)
def test_the_same_compiled(case: str) -> None:
    names = scope(flamec)
    leaves = [names[name] for name in LEAVES]

    def all_facts() -> Any:
        d, v = eval(case, names), eval(CASES[case], names).detach()
        found = [d.log_prob(v)]
        for fact in (lambda: d.mean, lambda: d.variance, lambda: d.entropy()):
            with contextlib.suppress(NotImplementedError):
                found.append(fact())
        total = sum((part * part).sum() for part in found if part.requires_grad)
        return found, flamec.autograd.grad(total, leaves, allow_unused=True)

    compiled = flamec.compile(all_facts, fullgraph=True)
    (found, grads), (expected, expected_grads) = compiled(), all_facts()
    assert len(found) > 1 or "Transformed" in case
    for mine, other in zip([*found, *grads], [*expected, *expected_grads], strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            flamec.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("case", CASES)
def test_draws_have_shape_dtype_and_moments(case: str) -> None:
    names = scope(flamec)
    theirs = eval(case, scope(torch))
    d = eval(case, names)
    assert (d.batch_shape, d.event_shape) == (theirs.batch_shape, theirs.event_shape)
    assert d.has_rsample == theirs.has_rsample
    flamec.manual_seed(3)
    for shape in ((), (2,), (3, 1)):
        drawn, other = d.sample(shape), theirs.sample(shape)
        assert drawn.shape == other.shape and str(drawn.dtype)[7:] == str(other.dtype)[6:]
        assert not drawn.requires_grad
    count = 4000
    drawn = d.sample((count,))
    d.log_prob(drawn)  # raises for a draw outside of the support
    assert d.expand((5, *d.batch_shape)).sample((2,)).shape == (
        2,
        5,
        *d.batch_shape,
        *d.event_shape,
    )
    try:
        mean, spread = d.mean.detach().numpy(), d.stddev.detach().numpy()
    except NotImplementedError:
        return
    known = np.isfinite(mean) & np.isfinite(spread)
    error = np.abs(drawn.numpy().mean(0) - mean) / (spread / np.sqrt(count))
    if not case.startswith(("LogNormal", "InverseGamma", "FisherSnedecor", "VonMises")):
        # the fourth moment of some is too large for so few; moments of angles are others
        assert (error[known] < 5).all(), error


DIVERGENCES = [
    "Normal(r, a)", "LogNormal(r, a)", "Laplace(r, a)", "Exponential(a)", "Gamma(a, b)",
    "Beta(a, b)", "Dirichlet(w)", "Bernoulli(p)", "Categorical(logits=m)",
    "OneHotCategorical(w)", "Poisson(a)", "Uniform(r, r + a)", "MultivariateNormal(m, spd)",
    "Independent(Normal(m, w), 1)", "LowRankMultivariateNormal(m, vw, w)", "HalfNormal(a)",
    "Cauchy(r, a)", "Gumbel(r, a)", "Geometric(p)", "Beta(a, b) | Normal(r, a)",
    "Exponential(a) | Normal(r, b)", "Gamma(a, b) | Normal(r, a)", "Gumbel(r, a) | Normal(r, b)",
    "Laplace(r, a) | Normal(r, b)", "Uniform(r, r + a) | Normal(r, b)",
    "Beta(a, b) | Exponential(a)", "Gamma(a, b) | Exponential(a)",
]  # fmt: skip


@pytest.mark.parametrize("case", DIVERGENCES)
def test_divergences(case: str) -> None:
    def run(package: Any) -> list[np.ndarray]:
        names = scope(package)
        other = {
            **names,
            **{k: names[k].detach() * 1.1 for k in ("a", "b", "m", "w", "spd")},
        }
        other["p"] = names["p"].detach() * 0.9
        left, _, right = case.partition(" | ")
        p, q = eval(left, names), eval(right or left, other)
        result = package.distributions.kl_divergence(p, q)
        leaves = [names[name] for name in LEAVES]
        grads = package.autograd.grad(result.sum(), leaves, allow_unused=True)
        return [result.detach().numpy(), *(g.numpy() for g in grads if g is not None)]

    mine, theirs = run(flamec), run(torch)
    for value, expected in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-10)


def test_divergences_of_normals_of_low_rank_and_others() -> None:
    names = scope(flamec)
    low = eval("LowRankMultivariateNormal(m, vw, w)", names)
    other = eval("MultivariateNormal(m + 1, spd)", names)
    whole = flamec.distributions.MultivariateNormal(low.loc, low.covariance_matrix)
    kl = flamec.distributions.kl_divergence
    for mine, expected in (
        (kl(low, other), kl(whole, other)),
        (kl(other, low), kl(other, whole)),
        (low.precision_matrix, whole.precision_matrix),
        (low.scale_tril, whole.scale_tril),
    ):
        np.testing.assert_allclose(mine.detach().numpy(), expected.detach().numpy(), rtol=1e-9)


def test_the_mode_of_kumaraswamy_is_the_likeliest_number() -> None:
    a, b = flamec.tensor([1.5, 4.0, 2.0]), flamec.tensor([2.0, 3.0, 1.5])
    d = flamec.distributions.Kumaraswamy(a.double(), b.double())
    beside = [d.log_prob(d.mode + shift) for shift in (-1e-3, 0.0, 1e-3)]
    assert bool((beside[1] > beside[0]).all() and (beside[1] > beside[2]).all())
    assert bool(flamec.distributions.Kumaraswamy(0.5, 2.0).mode.isnan())


@pytest.mark.parametrize("package", [flamec, torch], ids=lambda p: p.__name__)
def test_a_transform_of_a_program_says_by_its_domain_what_is_one_event(package: Any) -> None:
    d = package.distributions

    class Reversed(d.Transform):
        bijective = True
        domain = codomain = d.constraints.real_vector

        def _call(self, x: Any) -> Any:
            return x.flip(-1) * 2

        _inverse = _call

        def log_abs_det_jacobian(self, x: Any, y: Any) -> Any:
            return package.full(x.shape[:-1], 3.0)

    for transform in (Reversed(), d.ComposeTransform([d.ExpTransform(), Reversed()])):
        made = d.TransformedDistribution(d.Normal(package.zeros(4, 3), 1.0), transform)
        assert (made.batch_shape, made.event_shape) == ((4,), (3,)) and transform.event_dim == 1
        assert made.log_prob(package.full((4, 3), 0.5)).shape == (4,)
    assert made.support is Reversed.codomain


def test_distributions_can_be_imported_from_the_files_of_pytorch() -> None:
    for name in flamec.distributions.__all__:
        theirs = getattr(torch.distributions, name, None)
        if isinstance(theirs, type):
            file = importlib.import_module(theirs.__module__.replace("torch", "flamec", 1))
            assert getattr(file, name) is getattr(flamec.distributions, name)


SAID = [
    "Normal(0.0, -1.0)",
    "Normal(torch.zeros(2), torch.tensor([1.0, -1.0]))",
    "Normal('a', 1)",
    "Categorical(torch.ones(3)).log_prob(torch.tensor(5))",
    "Normal(0, 1).log_prob(3)",
    "Bernoulli(1.5)",
    "Bernoulli(0.5, 0.5)",
    "Bernoulli()",
    "Uniform(1.0, 0.0)",
    "Normal(torch.zeros(3), 1).log_prob(torch.zeros(2))",
    "Exponential(1.0).log_prob(torch.tensor(-1.0))",
    "MultivariateNormal(torch.zeros(2), -torch.eye(2))",
    "Dirichlet(torch.tensor(1.0))",
    "Categorical(torch.tensor(1.0))",
    "Independent(Normal(0.0, 1.0), 1)",
    "Geometric(0.0)",
    "MixtureSameFamily(Categorical(torch.ones(3)), Normal(torch.zeros(2), 1.0))",
    "MultivariateNormal(torch.zeros(2))",
    "Gamma(0.0, 1.0)",
    "OneHotCategorical(torch.ones(2)).log_prob(torch.ones(2))",
    "Normal(0.0, 1.0)",
    "Normal(torch.zeros(2), 1)",
    "Categorical(logits=torch.zeros(2, 3))",
    "Independent(Normal(torch.zeros(2), 1), 1)",
    "Beta(1.0, 2.0)",
    "Poisson(3.0)",
    "MultivariateNormal(torch.zeros(2), torch.eye(2))",
    "LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))",
    "LogisticNormal(torch.zeros(2), torch.ones(2))",
    "Kumaraswamy(torch.ones(2), 2.0)",
    "Kumaraswamy(-1.0, 2.0)",
    "Pareto(1.0, 2.0)",
    "Weibull(1.0, torch.ones(3))",
    "InverseGamma(1.0, 2.0)",
    "LogNormal(0.0, 1.0)",
    "Uniform(0.0, torch.ones(3))",
    "TransformedDistribution(Normal(0.0, 1.0), [TanhTransform()])",
    "StudentT(2.0)",
    "ComposeTransform([ExpTransform(), AffineTransform(1.0, 2.0)])",
    "Gumbel(0.0, 1.0)",
    "Normal(0.0, 1.0, validate_args=False).log_prob(torch.tensor(float('nan')))",
    "TransformedDistribution(Normal(0.0, 1.0), ExpTransform()).log_prob(torch.tensor(-1.0))",
    "TransformedDistribution(Normal(0.0, 1.0), SoftmaxTransform())",
    "TransformedDistribution(Normal(0.0, 1.0), [Normal(0.0, 1.0)])",
    "TransformedDistribution(Normal(torch.zeros(2), 1.0), SoftmaxTransform()).support",
    "TransformedDistribution(Normal(torch.zeros(2), 1.0), []).support",
    "ComposeTransform([AffineTransform(1.0, 2.0, event_dim=1), ExpTransform()]).codomain",
    "ComposeTransform([ExpTransform(), SoftmaxTransform()]).domain",
    "[t.codomain for t in (TanhTransform(), SigmoidTransform().inv, AbsTransform())]",
    "IndependentTransform(SoftplusTransform(), 2).codomain",
    "[AffineTransform(0, s).inv.sign for s in (-2, 0.0, torch.tensor([1.0, -3.0]))]",
    "ComposeTransform([AffineTransform(0, -1), TanhTransform()]).sign",
    "Bernoulli(torch.zeros(2)).enumerate_support()",
    "OneHotCategorical(torch.ones(2, 3)).enumerate_support()",
    "Categorical(torch.ones(2, 3)).enumerate_support(False).shape",
]


@pytest.mark.parametrize("text", SAID)
def test_texts_and_errors(text: str) -> None:
    def outcome(package: Any) -> str:
        try:
            value = eval(text, {**vars(package.distributions), "torch": package})
        except Exception as error:
            assert isinstance(error, ValueError)
            message = str(error).splitlines()[0]
            if text.startswith(("Uniform", "Geometric", "Normal('a'")):  # the same, in other words
                message = message[:22]
            return f"ValueError {message}".replace("flamec", "torch")
        return repr(value).replace("flamec", "torch")

    assert outcome(flamec) == outcome(torch)
