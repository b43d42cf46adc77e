"""Distributions of positive numbers that are made of others by transforms or as ratios.

Moments: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", 1994.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

import flamec
from flamec.distributions import constraints
from flamec.distributions.combined import TransformedDistribution
from flamec.distributions.constraints import Constraint
from flamec.distributions.continuous import Exponential, Uniform
from flamec.distributions.distribution import Constraints, Distribution, as_parameters
from flamec.distributions.gamma import Gamma
from flamec.distributions.transforms import AffineTransform, ExpTransform, PowerTransform
from flamec.tensor import Tensor

__all__ = ["FisherSnedecor", "InverseGamma", "Kumaraswamy", "Pareto", "Weibull"]


class Kumaraswamy(TransformedDistribution):
    """The distribution function 1 - (1 - x^concentration1)^concentration0 on (0, 1).

    M. C. Jones, "Kumaraswamy's distribution: A beta-type distribution with some tractability
    advantages", 2009.
    """

    arg_constraints: ClassVar[Constraints] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }

    def __init__(
        self, concentration1: Any, concentration0: Any, validate_args: bool | None = None
    ) -> None:
        parameters = as_parameters(concentration1, concentration0)
        self.concentration1, self.concentration0 = parameters
        zero = flamec.zeros_like(self.concentration0)
        steps = [
            PowerTransform(self.concentration0.reciprocal()),
            AffineTransform(loc=1.0, scale=-1.0),
            PowerTransform(self.concentration1.reciprocal()),
        ]
        super().__init__(Uniform(zero, zero + 1, validate_args), steps, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.unit_interval

    def _moment(self, order: int) -> Tensor:
        a, b = 1 + order / self.concentration1, self.concentration0
        return b * (flamec.lgamma(a) + flamec.lgamma(b) - flamec.lgamma(a + b)).exp()

    @property
    def mean(self) -> Tensor:
        return self._moment(1)

    @property
    def mode(self) -> Tensor:
        """NaN where a concentration is below 1: the density has a pole, or no single maximum."""
        a, b = self.concentration1, self.concentration0
        place = ((a - 1) / (a * b - 1)) ** a.reciprocal()
        return flamec.where((a < 1) | (b < 1), math.nan, place)

    @property
    def variance(self) -> Tensor:
        return self._moment(2) - self._moment(1).square()

    def entropy(self) -> Tensor:
        a, b = self.concentration1, self.concentration0
        harmonic = flamec.digamma(b + 1) + np.euler_gamma
        return 1 - 1 / b + (1 - 1 / a) * harmonic - a.log() - b.log()


class Pareto(TransformedDistribution):
    """The density alpha scale^alpha / x^(alpha + 1) from ``scale`` on."""

    arg_constraints: ClassVar[Constraints] = {
        "alpha": constraints.positive,
        "scale": constraints.positive,
    }

    def __init__(self, scale: Any, alpha: Any, validate_args: bool | None = None) -> None:
        self.scale, self.alpha = as_parameters(scale, alpha)
        base = Exponential(self.alpha, validate_args)
        steps = [ExpTransform(), AffineTransform(loc=0, scale=self.scale)]
        super().__init__(base, steps, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.greater_than_eq(self.scale)

    @property
    def mean(self) -> Tensor:
        a = self.alpha.clamp(min=1)
        return a * self.scale / (a - 1)

    @property
    def mode(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        a = self.alpha.clamp(min=2)
        return self.scale.square() * a / ((a - 1).square() * (a - 2))

    def entropy(self) -> Tensor:
        return (self.scale / self.alpha).log() + (1 + self.alpha.reciprocal())


class Weibull(TransformedDistribution):
    """``scale`` times a number of the exponential distribution to the power 1 / concentration."""

    arg_constraints: ClassVar[Constraints] = {
        "scale": constraints.positive,
        "concentration": constraints.positive,
    }

    def __init__(self, scale: Any, concentration: Any, validate_args: bool | None = None) -> None:
        self.scale, self.concentration = as_parameters(scale, concentration)
        self.concentration_reciprocal = self.concentration.reciprocal()
        base = Exponential(flamec.ones_like(self.scale), validate_args)
        power = PowerTransform(self.concentration_reciprocal)
        steps = [power, AffineTransform(loc=0, scale=self.scale)]
        super().__init__(base, steps, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.positive

    def _moment(self, order: int) -> Tensor:
        return flamec.lgamma(1 + order * self.concentration_reciprocal).exp()

    @property
    def mean(self) -> Tensor:
        return self.scale * self._moment(1)

    @property
    def mode(self) -> Tensor:
        share = (self.concentration - 1) / self.concentration
        return self.scale * share**self.concentration_reciprocal

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (self._moment(2) - self._moment(1).square())

    def entropy(self) -> Tensor:
        reciprocal = self.concentration_reciprocal
        return np.euler_gamma * (1 - reciprocal) + (self.scale * reciprocal).log() + 1


class InverseGamma(TransformedDistribution):
    """1 / x of a gamma number x."""

    arg_constraints: ClassVar[Constraints] = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        base = Gamma(concentration, rate, validate_args)
        super().__init__(base, PowerTransform(-flamec.ones_like(base.rate)), validate_args)

    @property
    def concentration(self) -> Tensor:
        """That of the gamma number."""
        return self._gamma.concentration

    @property
    def rate(self) -> Tensor:
        """That of the gamma number."""
        return self._gamma.rate

    @property
    def _gamma(self) -> Gamma:
        base = self.base_dist
        assert isinstance(base, Gamma)
        return base

    @property
    def support(self) -> Constraint:
        return constraints.positive

    @property
    def mean(self) -> Tensor:
        c = self.concentration
        return flamec.where(c > 1, self.rate / (c - 1), math.inf)

    @property
    def mode(self) -> Tensor:
        return self.rate / (self.concentration + 1)

    @property
    def variance(self) -> Tensor:
        c = self.concentration
        finite = self.rate.square() / ((c - 1).square() * (c - 2))
        return flamec.where(c > 2, finite, math.inf)

    def entropy(self) -> Tensor:
        c = self.concentration
        return c + self.rate.log() + flamec.lgamma(c) - (1 + c) * flamec.digamma(c)


class FisherSnedecor(Distribution):
    """The ratio of the mean squares of ``df1`` and of ``df2`` normal numbers."""

    arg_constraints: ClassVar[Constraints] = {
        "df1": constraints.positive,
        "df2": constraints.positive,
    }
    has_rsample = True

    def __init__(self, df1: Any, df2: Any, validate_args: bool | None = None) -> None:
        self.df1, self.df2 = as_parameters(df1, df2)
        super().__init__(self.df1.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.positive

    @property
    def mean(self) -> Tensor:
        d = flamec.where(self.df2 > 2, self.df2, math.nan)
        return d / (d - 2)

    @property
    def mode(self) -> Tensor:
        d1, d2 = self.df1, self.df2
        return flamec.where(d1 > 2, (d1 - 2) / d1 * d2 / (d2 + 2), math.nan)

    @property
    def variance(self) -> Tensor:
        d1, d2 = self.df1, flamec.where(self.df2 > 4, self.df2, math.nan)
        numerator = 2 * d2.square() * (d1 + d2 - 2)
        return numerator / (d1 * (d2 - 2).square() * (d2 - 4))

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        above, below = (
            Gamma(d * 0.5, d * 0.5, validate_args=False).rsample(sample_shape)
            for d in (self.df1, self.df2)
        )
        return above / below

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        half1, half2, ratio = self.df1 * 0.5, self.df2 * 0.5, self.df1 / self.df2
        norm = flamec.lgamma(half1 + half2) - flamec.lgamma(half1) - flamec.lgamma(half2)
        head = half1 * ratio.log() + (half1 - 1) * value.log()
        return norm + head - (half1 + half2) * flamec.log1p(ratio * value)
