"""Distributions of real numbers given by a location and a scale, and their relatives.

Densities: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", 1994.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.distribution import (
    Constraints,
    Distribution,
    as_parameters,
    checked,
)
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "Cauchy", "Exponential", "Gumbel", "HalfCauchy", "HalfNormal", "Laplace", "Normal", "Uniform",
]  # fmt: skip

_SQRT2 = math.sqrt(2)


def _unit_numbers(like: Tensor, shape: Sequence[Any]) -> Tensor:
    """Uniform numbers inside (0, 1), without both ends."""
    limits = flamec.finfo(like.dtype)
    numbers = flamec.rand(shape, dtype=like.dtype, device=like.device)
    return numbers.clamp(limits.tiny, 1 - limits.eps / 2)


class _LocationScale(Distribution):
    """A distribution of ``loc + scale * z``."""

    arg_constraints: ClassVar[Constraints] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = as_parameters(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.real

    @property
    def mode(self) -> Tensor:
        return self.loc

    def _noise(self, shape: Sequence[Any]) -> Tensor:
        """Draws of ``z``."""
        raise NotImplementedError(f"{type(self).__name__} has no draws")

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            z = self._noise(self._extended_shape(sample_shape))
        return self.loc + self.scale * z

    def _standard(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return (value - self.loc) / self.scale


class Normal(_LocationScale):
    """The normal distribution with mean ``loc`` and standard deviation ``scale``."""

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def stddev(self) -> Tensor:
        return self.scale

    @property
    def variance(self) -> Tensor:
        return self.scale.square()

    def _noise(self, shape: Sequence[Any]) -> Tensor:
        return flamec.randn(shape, dtype=self.loc.dtype, device=self.loc.device)

    def log_prob(self, value: Tensor) -> Tensor:
        z = self._standard(value)
        return -0.5 * z.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def cdf(self, value: Tensor) -> Tensor:
        return 0.5 * (1 + flamec.erf(self._standard(value) / _SQRT2))

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * flamec.erfinv(2 * value - 1) * _SQRT2

    def entropy(self) -> Tensor:
        return 0.5 + 0.5 * math.log(2 * math.pi) + self.scale.log()


class _Half(Distribution):
    """The absolute value of a number around 0."""

    arg_constraints: ClassVar[Constraints] = {"scale": constraints.positive}
    has_rsample = True
    _whole: ClassVar[type[_LocationScale]]

    def __init__(self, scale: Any, validate_args: bool | None = None) -> None:
        self._base = self._whole(0, scale, validate_args=False)
        self.scale = self._base.scale
        super().__init__(self._base.batch_shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.nonnegative

    @property
    def mode(self) -> Tensor:
        return flamec.zeros_like(self.scale)

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        return self._base.rsample(sample_shape).abs()

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return flamec.where(value >= 0, self._base.log_prob(value) + math.log(2), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return 2 * self._base.cdf(value) - 1

    def icdf(self, value: Tensor) -> Tensor:
        return self._base.icdf((value + 1) / 2)

    def entropy(self) -> Tensor:
        return self._base.entropy() - math.log(2)


class HalfNormal(_Half):
    """The absolute value of a normal number around 0 with standard deviation ``scale``."""

    _whole = Normal

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(2 / math.pi)

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (1 - 2 / math.pi)


class Laplace(_LocationScale):
    """The density exp(-|x - loc| / scale) / (2 scale)."""

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return 2 * self.scale.square()

    @property
    def stddev(self) -> Tensor:
        return _SQRT2 * self.scale

    def _noise(self, shape: Sequence[Any]) -> Tensor:
        u = 2 * _unit_numbers(self.loc, shape) - 1
        return -u.sign() * flamec.log1p(-u.abs())

    def log_prob(self, value: Tensor) -> Tensor:
        return -flamec.log(2 * self.scale) - self._standard(value).abs()

    def cdf(self, value: Tensor) -> Tensor:
        z = self._standard(value)
        return 0.5 - 0.5 * z.sign() * flamec.expm1(-z.abs())

    def icdf(self, value: Tensor) -> Tensor:
        term = value - 0.5
        return self.loc - self.scale * term.sign() * flamec.log1p(-2 * term.abs())

    def entropy(self) -> Tensor:
        return 1 + flamec.log(2 * self.scale)


class Cauchy(_LocationScale):
    """The density 1 / (pi scale (1 + z²)); it has no mean."""

    @property
    def mean(self) -> Tensor:
        return flamec.full_like(self.loc, math.nan)

    @property
    def variance(self) -> Tensor:
        return flamec.full_like(self.loc, math.inf)

    def _noise(self, shape: Sequence[Any]) -> Tensor:
        return flamec.tan(math.pi * (_unit_numbers(self.loc, shape) - 0.5))

    def log_prob(self, value: Tensor) -> Tensor:
        z = self._standard(value)
        return -math.log(math.pi) - self.scale.log() - flamec.log1p(z.square())

    def cdf(self, value: Tensor) -> Tensor:
        return flamec.atan(self._standard(value)) / math.pi + 0.5

    def icdf(self, value: Tensor) -> Tensor:
        return flamec.tan(math.pi * (value - 0.5)) * self.scale + self.loc

    def entropy(self) -> Tensor:
        return math.log(4 * math.pi) + self.scale.log()


class HalfCauchy(_Half):
    """The absolute value of a Cauchy number around 0; it has no moments."""

    _whole = Cauchy

    @property
    def mean(self) -> Tensor:
        return flamec.full_like(self.scale, math.inf)

    @property
    def variance(self) -> Tensor:
        return flamec.full_like(self.scale, math.inf)


class Gumbel(_LocationScale):
    """The distribution function exp(-exp(-z)), of the largest of many numbers."""

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * np.euler_gamma

    @property
    def stddev(self) -> Tensor:
        return (math.pi / math.sqrt(6)) * self.scale

    @property
    def variance(self) -> Tensor:
        return self.stddev.square()

    def _noise(self, shape: Sequence[Any]) -> Tensor:
        return -flamec.log(-_unit_numbers(self.loc, shape).log())

    def log_prob(self, value: Tensor) -> Tensor:
        z = -self._standard(value)
        return z - z.exp() - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        return (-(-self._standard(value)).exp()).exp()

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc - self.scale * flamec.log(-value.log())

    def entropy(self) -> Tensor:
        return self.scale.log() + (1 + np.euler_gamma)


class Uniform(Distribution):
    """Equal density on [low, high)."""

    arg_constraints: ClassVar[Constraints] = {
        "low": constraints.dependent,
        "high": constraints.dependent,
    }
    has_rsample = True

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self.low, self.high = as_parameters(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)

    def _check_parameters(self) -> None:
        self.low = checked(
            self.low,
            self.low < self.high,
            "Expected parameter low of distribution Uniform to be below high",
            lambda: (
                f"Expected parameter low of distribution {self!r} to be below high, "
                f"but found invalid values:\n{self.low}"
            ),
        )

    @property
    def support(self) -> Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        return (self.high + self.low) / 2

    @property
    def mode(self) -> Tensor:
        return math.nan * self.high

    @property
    def stddev(self) -> Tensor:
        return (self.high - self.low) / math.sqrt(12)

    @property
    def variance(self) -> Tensor:
        return (self.high - self.low).square() / 12

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        numbers = flamec.rand(shape, dtype=self.low.dtype, device=self.low.device)
        return self.low + numbers * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        inside = (self.low <= value) & (self.high > value)
        return flamec.where(inside, -flamec.log(self.high - self.low), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        return value * (self.high - self.low) + self.low

    def entropy(self) -> Tensor:
        return flamec.log(self.high - self.low)


class Exponential(Distribution):
    """The density rate * exp(-rate * x)."""

    arg_constraints: ClassVar[Constraints] = {"rate": constraints.positive}
    has_rsample = True

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = as_parameters(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.nonnegative

    @property
    def mean(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def mode(self) -> Tensor:
        return flamec.zeros_like(self.rate)

    @property
    def stddev(self) -> Tensor:
        return self.rate.reciprocal()

    @property
    def variance(self) -> Tensor:
        return self.rate.square().reciprocal()

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            z = -_unit_numbers(self.rate, self._extended_shape(sample_shape)).log()
        return z / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return self.rate.log() - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return -flamec.expm1(-self.rate * value)

    def icdf(self, value: Tensor) -> Tensor:
        return -flamec.log1p(-value) / self.rate

    def entropy(self) -> Tensor:
        return 1 - self.rate.log()
