"""Kullback-Leibler divergences: ``p.log_prob(x) - q.log_prob(x)`` expected of x drawn from p."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import flamec
from flamec.distributions.combined import Independent, LogNormal
from flamec.distributions.continuous import (
    Cauchy,
    Exponential,
    Gumbel,
    HalfNormal,
    Laplace,
    Normal,
    Uniform,
)
from flamec.distributions.discrete import (
    Bernoulli,
    Categorical,
    Geometric,
    OneHotCategorical,
    Poisson,
)
from flamec.distributions.distribution import Distribution, sum_rightmost
from flamec.distributions.gamma import Beta, Dirichlet, Gamma
from flamec.distributions.low_rank import LowRankMultivariateNormal
from flamec.distributions.multivariate import MultivariateNormal, NormalOfVectors
from flamec.tensor import Tensor

__all__ = ["kl_divergence", "register_kl"]

Rule = Callable[[Any, Any], Tensor]
_RULES: dict[tuple[type, type], Rule] = {}


def register_kl(type_p: type, type_q: type) -> Callable[[Rule], Rule]:
    """Decorates the rule for a pair of classes and their subclasses."""

    def keep(rule: Rule) -> Rule:
        _RULES[type_p, type_q] = rule
        return rule

    return keep


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """KL(p || q), of the shape of their batches. NotImplementedError for a pair without a rule."""
    for left in type(p).__mro__:
        for right in type(q).__mro__:
            rule = _RULES.get((left, right))
            if rule is not None:
                return rule(p, q)
    raise NotImplementedError(
        f"No KL(p || q) is implemented for p type {type(p).__name__} and q type "
        f"{type(q).__name__}: define it with register_kl, or average p.log_prob(x) - q.log_prob(x) "
        "over draws"
    )


@register_kl(Normal, Normal)
def _normal(p: Normal, q: Normal) -> Tensor:
    ratio = (p.scale / q.scale).square()
    apart = ((p.loc - q.loc) / q.scale).square()
    return 0.5 * (ratio + apart - 1 - ratio.log())


@register_kl(LogNormal, LogNormal)
def _log_normal(p: LogNormal, q: LogNormal) -> Tensor:
    return kl_divergence(p.base_dist, q.base_dist)


@register_kl(Independent, Independent)
def _independent(p: Independent, q: Independent) -> Tensor:
    if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
        raise NotImplementedError("KL of Independent needs equal reinterpreted_batch_ndims")
    return sum_rightmost(kl_divergence(p.base_dist, q.base_dist), p.reinterpreted_batch_ndims)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    positive, softplus = p.probs, flamec.nn.functional.softplus
    success = positive * (softplus(-q.logits) - softplus(-p.logits))
    return success + (1 - positive) * (softplus(q.logits) - softplus(p.logits))


@register_kl(Categorical, Categorical)
def _categorical(p: Categorical, q: Categorical) -> Tensor:
    probs = p.probs
    terms = probs * (p.logits - q.logits)
    terms = flamec.where(q.probs == 0, math.inf, terms)
    return flamec.where(probs == 0, 0.0, terms).sum(-1)


@register_kl(OneHotCategorical, OneHotCategorical)
def _one_hot(p: OneHotCategorical, q: OneHotCategorical) -> Tensor:
    return _categorical(p._categorical, q._categorical)


@register_kl(Poisson, Poisson)
def _poisson(p: Poisson, q: Poisson) -> Tensor:
    return p.rate * (p.rate.log() - q.rate.log()) - (p.rate - q.rate)


@register_kl(Exponential, Exponential)
def _exponential(p: Exponential, q: Exponential) -> Tensor:
    ratio = q.rate / p.rate
    return ratio - 1 - ratio.log()


@register_kl(Laplace, Laplace)
def _laplace(p: Laplace, q: Laplace) -> Tensor:
    ratio = p.scale / q.scale
    apart = (p.loc - q.loc).abs()
    return -ratio.log() + apart / q.scale + ratio * (-apart / p.scale).exp() - 1


@register_kl(Uniform, Uniform)
def _uniform(p: Uniform, q: Uniform) -> Tensor:
    inside = (q.low <= p.low) & (q.high >= p.high)
    return flamec.where(inside, flamec.log((q.high - q.low) / (p.high - p.low)), math.inf)


@register_kl(Gamma, Gamma)
def _gamma(p: Gamma, q: Gamma) -> Tensor:
    a, b = p.concentration, q.concentration
    rates = b * (p.rate / q.rate).log() + a * (q.rate / p.rate - 1)
    return rates + flamec.lgamma(b) - flamec.lgamma(a) + (a - b) * flamec.digamma(a)


@register_kl(Dirichlet, Dirichlet)
def _dirichlet(p: Dirichlet, q: Dirichlet) -> Tensor:
    a, b = p.concentration, q.concentration
    total = a.sum(-1)
    norms = flamec.lgamma(total) - flamec.lgamma(b.sum(-1))
    norms = norms - (flamec.lgamma(a) - flamec.lgamma(b)).sum(-1)
    slopes = flamec.digamma(a) - flamec.digamma(total).unsqueeze(-1)
    return norms + ((a - b) * slopes).sum(-1)


@register_kl(Beta, Beta)
def _beta(p: Beta, q: Beta) -> Tensor:
    return _dirichlet(p._dirichlet, q._dirichlet)


def _require_same_events(p: NormalOfVectors, q: NormalOfVectors) -> None:
    if p.event_shape != q.event_shape:
        raise ValueError(
            "KL-divergence between two Multivariate Normals with different event shapes cannot be "
            "computed"
        )


@register_kl(MultivariateNormal, MultivariateNormal)
def _multivariate_normal(p: MultivariateNormal, q: MultivariateNormal) -> Tensor:
    _require_same_events(p, q)
    size = p.event_shape[0]
    batch = flamec.broadcast_shapes(p.batch_shape, q.batch_shape)
    factor = q.scale_tril.expand((*batch, size, size))
    solve = flamec.linalg.solve_triangular
    mixed = solve(factor, p.scale_tril.expand((*batch, size, size)), upper=False)
    apart = solve(factor, (q.loc - p.loc).expand((*batch, size)).unsqueeze(-1), upper=False)
    distance = mixed.square().sum((-2, -1)) + apart.square().sum((-2, -1))
    return 0.5 * (q._log_det() - p._log_det() + distance - size)


@register_kl(LowRankMultivariateNormal, LowRankMultivariateNormal)
@register_kl(LowRankMultivariateNormal, MultivariateNormal)
@register_kl(MultivariateNormal, LowRankMultivariateNormal)
def _low_rank_normal(p: Any, q: Any) -> Tensor:
    _require_same_events(p, q)
    precision, apart = q.precision_matrix, (q.loc - p.loc).unsqueeze(-1)
    distance = (precision * p.covariance_matrix).sum((-2, -1))
    distance = distance + (apart * (precision @ apart)).sum((-2, -1))
    return 0.5 * (q._log_det() - p._log_det() + distance - p.event_shape[0])


@register_kl(HalfNormal, HalfNormal)
def _half_normal(p: HalfNormal, q: HalfNormal) -> Tensor:
    ratio = (p.scale / q.scale).square()
    return 0.5 * (ratio - 1 - ratio.log())


@register_kl(Cauchy, Cauchy)
def _cauchy(p: Cauchy, q: Cauchy) -> Tensor:
    """F. Chyzak and F. Nielsen, arXiv:1905.10965."""
    apart = (p.scale + q.scale).square() + (p.loc - q.loc).square()
    return apart.log() - (4 * p.scale * q.scale).log()


@register_kl(Gumbel, Gumbel)
def _gumbel(p: Gumbel, q: Gumbel) -> Tensor:
    ratio, apart = p.scale / q.scale, (p.loc - q.loc) / q.scale
    mean = (flamec.lgamma(1 + ratio) - apart).exp()  # of exp(-z), z the number as q measures it
    return apart - ratio.log() + ratio * np.euler_gamma + mean - (1 + np.euler_gamma)


@register_kl(Geometric, Geometric)
def _geometric(p: Geometric, q: Geometric) -> Tensor:
    return -p.entropy() - flamec.log1p(-q.probs) / p.probs - q.logits


@register_kl(Beta, Normal)
@register_kl(Exponential, Normal)
@register_kl(Gamma, Normal)
@register_kl(Gumbel, Normal)
@register_kl(Laplace, Normal)
@register_kl(Uniform, Normal)
def _to_normal(p: Distribution, q: Normal) -> Tensor:
    """The logarithm of q's density needs no more of p than its mean and variance."""
    spread = q.scale.square()
    apart = (p.variance + (p.mean - q.loc).square()) / spread
    return 0.5 * ((2 * math.pi * spread).log() + apart) - p.entropy()


@register_kl(Beta, Exponential)
@register_kl(Gamma, Exponential)
def _to_exponential(p: Distribution, q: Exponential) -> Tensor:
    return q.rate * p.mean - q.rate.log() - p.entropy()
