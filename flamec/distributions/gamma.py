"""The gamma distribution and those that are made of gamma numbers.

Draws have gradients by the parameters (``implicit_gradients.py``).
Densities: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", 1994.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.distribution import Constraints, Distribution, as_parameters
from flamec.distributions.implicit_gradients import following_gamma, following_shares
from flamec.nn.functional import one_hot
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["Beta", "Chi2", "Dirichlet", "Gamma", "StudentT"]

_ROUNDS = 12  # each accepts 95 of 100 proposals or more, so all refuse once in 1e15 draws


@no_grad()
def _log_gamma_numbers(concentration: Tensor) -> Tensor:
    """Logarithms, in float64, of gamma numbers of rate 1.

    Marsaglia and Tsang, "A simple method for generating gamma variables", ACM TOMS 26, 2000;
    concentrations below 1 by a power of a uniform number. The numbers of small concentrations are
    too small for float32: half of those of 0.005 lie below 1e-60.
    """
    a = concentration.double()
    small = a < 1
    d = flamec.where(small, a + 1, a) - 1 / 3
    c = 1 / (9 * d).sqrt()
    options = {"dtype": flamec.float64, "device": a.device}
    x = flamec.randn(_ROUNDS, *a.shape, **options)
    u = flamec.rand(_ROUNDS, *a.shape, **options).clamp_min(1e-300)
    v = (1 + c * x) ** 3
    log_v = v.clamp_min(1e-300).log()
    fits = (v > 0) & (u.log() < 0.5 * x * x + d - d * v + d * log_v)
    first = fits.to(flamec.uint8).argmax(0, keepdim=True)
    drawn = d.log() + log_v.gather(0, first).squeeze(0)
    power = flamec.rand(a.shape, **options).clamp_min(1e-300).log() / a
    return drawn + flamec.where(small, power, 0.0)


def _gamma_numbers(concentration: Tensor) -> Tensor:
    """Gamma numbers of rate 1, which follow the concentration."""
    return following_gamma(concentration, _log_gamma_numbers(concentration))


class Gamma(Distribution):
    """The density rate^c x^(c - 1) exp(-rate x) / gamma(c), c the ``concentration``."""

    arg_constraints: ClassVar[Constraints] = {
        "concentration": constraints.positive,
        "rate": constraints.positive,
    }
    has_rsample = True

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self.concentration, self.rate = as_parameters(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.nonnegative

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.rate

    @property
    def mode(self) -> Tensor:
        return ((self.concentration - 1) / self.rate).clamp(min=0)

    @property
    def variance(self) -> Tensor:
        return self.concentration / self.rate.square()

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return _gamma_numbers(self.concentration.expand(shape)) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        c, rate = self.concentration, self.rate
        density = flamec.xlogy(c, rate) + flamec.xlogy(c - 1, value) - rate * value
        return density - flamec.lgamma(c)

    def cdf(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return flamec.special.gammainc(self.concentration, self.rate * value)

    def entropy(self) -> Tensor:
        c = self.concentration
        return c - self.rate.log() + flamec.lgamma(c) + (1 - c) * flamec.digamma(c)


class Chi2(Gamma):
    """The sum of the squares of ``df`` normal numbers."""

    arg_constraints: ClassVar[Constraints] = {"df": constraints.positive}

    def __init__(self, df: Any, validate_args: bool | None = None) -> None:
        (self.df,) = as_parameters(df)
        super().__init__(0.5 * self.df, 0.5, validate_args)


class Dirichlet(Distribution):
    """Probabilities of categories, along the last dimension."""

    arg_constraints: ClassVar[Constraints] = {
        "concentration": constraints.independent(constraints.positive, 1)
    }
    has_rsample = True

    def __init__(self, concentration: Tensor, validate_args: bool | None = None) -> None:
        if concentration.ndim < 1:
            raise ValueError("`concentration` parameter must be at least one-dimensional.")
        self.concentration = concentration
        shape = concentration.shape
        super().__init__(shape[:-1], shape[-1:], validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.simplex

    @property
    def mean(self) -> Tensor:
        return self.concentration / self.concentration.sum(-1, keepdim=True)

    @property
    def mode(self) -> Tensor:
        c = self.concentration
        above = (c - 1).clamp(min=0.0)
        inner = above / above.sum(-1, keepdim=True)
        corner = one_hot(c.argmax(-1), c.shape[-1]).to(c.dtype)
        return flamec.where((c < 1).all(dim=-1, keepdim=True), corner, inner)

    @property
    def variance(self) -> Tensor:
        c = self.concentration
        total = c.sum(-1, keepdim=True)
        return c * (total - c) / (total.square() * (total + 1))

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        concentration = self.concentration.expand(self._extended_shape(sample_shape))
        return following_shares(concentration, _log_gamma_numbers(concentration))

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        c = self.concentration
        norm = flamec.lgamma(c.sum(-1)) - flamec.lgamma(c).sum(-1)
        return flamec.xlogy(c - 1, value).sum(-1) + norm

    def entropy(self) -> Tensor:
        c, count = self.concentration, self.concentration.shape[-1]
        total = c.sum(-1)
        norm = flamec.lgamma(c).sum(-1) - flamec.lgamma(total)
        spread = (count - total) * flamec.digamma(total)
        return norm - spread - ((c - 1) * flamec.digamma(c)).sum(-1)


class Beta(Distribution):
    """A probability: the first of two that a Dirichlet distribution draws."""

    arg_constraints: ClassVar[Constraints] = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self, concentration1: Any, concentration0: Any, validate_args: bool | None = None
    ) -> None:
        both = flamec.stack(as_parameters(concentration1, concentration0), -1)
        self._dirichlet = Dirichlet(both, validate_args)
        super().__init__(both.shape[:-1], validate_args=validate_args)

    @property
    def concentration1(self) -> Tensor:
        """How much weight lies near 1."""
        return self._dirichlet.concentration[..., 0]

    @property
    def concentration0(self) -> Tensor:
        """How much weight lies near 0."""
        return self._dirichlet.concentration[..., 1]

    @property
    def support(self) -> Constraint:
        return constraints.unit_interval

    @property
    def mean(self) -> Tensor:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    @property
    def mode(self) -> Tensor:
        return self._dirichlet.mode[..., 0]

    @property
    def variance(self) -> Tensor:
        return self._dirichlet.variance[..., 0]

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        return self._dirichlet.rsample(sample_shape)[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        c1, c0 = self.concentration1, self.concentration0
        norm = flamec.lgamma(c1 + c0) - flamec.lgamma(c1) - flamec.lgamma(c0)
        return flamec.xlogy(c1 - 1, value) + flamec.xlogy(c0 - 1, 1 - value) + norm

    def entropy(self) -> Tensor:
        return self._dirichlet.entropy()


class StudentT(Distribution):
    """``loc + scale * t`` with ``df`` degrees of freedom."""

    arg_constraints: ClassVar[Constraints] = {
        "df": constraints.positive,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self, df: Any, loc: Any = 0.0, scale: Any = 1.0, validate_args: bool | None = None
    ) -> None:
        self.df, self.loc, self.scale = as_parameters(df, loc, scale)
        super().__init__(self.df.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.real

    @property
    def mean(self) -> Tensor:
        return flamec.where(self.df <= 1, math.nan, self.loc)

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        df = self.df
        finite = self.scale.square() * df / flamec.where(df > 2, df - 2, 1.0)
        heavy = flamec.where(df > 1, math.inf, math.nan)
        return flamec.where(df > 2, finite, heavy.to(finite.dtype))

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        df = self.df.expand(shape)
        normal = flamec.randn(shape, dtype=df.dtype, device=df.device)
        squares = 2 * _gamma_numbers(0.5 * df)
        return self.loc + self.scale * normal * (df / squares).sqrt()

    def _log_norm(self) -> Tensor:
        half = 0.5 * self.df
        return 0.5 * (self.df * math.pi).log() + flamec.lgamma(half) - flamec.lgamma(half + 0.5)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        z = (value - self.loc) / self.scale
        tail = -0.5 * (self.df + 1) * flamec.log1p(z.square() / self.df)
        return tail - self.scale.log() - self._log_norm()

    def entropy(self) -> Tensor:
        half = 0.5 * self.df
        slope = flamec.digamma(half + 0.5) - flamec.digamma(half)
        return self.scale.log() + (half + 0.5) * slope + self._log_norm()
