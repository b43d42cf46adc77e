"""Numbers of successes and failures in series of trials, given by probabilities or logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.discrete import TwoValued, enumerated
from flamec.distributions.distribution import Constraints, as_parameters
from flamec.distributions.gamma import Gamma
from flamec.nn.functional import softplus
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["Binomial", "NegativeBinomial"]


class _Counted(TwoValued):
    """What has a number of trials, too, which is broadcast with the probability."""

    def __init__(
        self,
        total_count: Any,
        probs: Any = None,
        logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        self.total_count = total_count
        super().__init__(probs, logits, validate_args)

    def _prepared(self, name: str, given: Any) -> Tensor:
        count, parameter = as_parameters(self.total_count, given)
        self.total_count = count.to(parameter.dtype)
        return parameter


class Binomial(_Counted):
    """How many of ``total_count`` trials succeed."""

    arg_constraints: ClassVar[Constraints] = {
        "total_count": constraints.nonnegative_integer,
        **TwoValued.arg_constraints,
    }
    has_enumerate_support = True

    def __init__(
        self,
        total_count: Any = 1,
        probs: Any = None,
        logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(total_count, probs, logits, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.integer_interval(0, self.total_count)

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.probs

    @property
    def mode(self) -> Tensor:
        return flamec.minimum(((self.total_count + 1) * self.probs).floor(), self.total_count)

    @property
    def variance(self) -> Tensor:
        probs = self.probs
        return self.total_count * probs * (1 - probs)

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return flamec.binomial(self.total_count.expand(shape), self.probs.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        n, logits = self.total_count, self.logits
        ways = flamec.lgamma(n + 1) - flamec.lgamma(value + 1) - flamec.lgamma(n - value + 1)
        return ways + value * logits - n * softplus(logits)

    def entropy(self) -> Tensor:
        log_prob = self.log_prob(self.enumerate_support(False))
        return -(log_prob.exp() * log_prob).sum(0)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        count = int(self.total_count.max())
        if int(self.total_count.min()) != count:
            raise NotImplementedError(
                "Inhomogeneous total count not supported by `enumerate_support`."
            )
        values = flamec.arange(1 + count, dtype=self._param.dtype, device=self._param.device)
        return enumerated(values, self._batch_shape, expand)


class NegativeBinomial(_Counted):
    """How many trials succeed before ``total_count`` of them have failed."""

    arg_constraints: ClassVar[Constraints] = {
        "total_count": constraints.nonnegative,
        "probs": constraints.half_open_interval(0.0, 1.0),
        "logits": constraints.real,
    }

    @property
    def support(self) -> Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return self.total_count * self.logits.exp()

    @property
    def mode(self) -> Tensor:
        return ((self.total_count - 1) * self.logits.exp()).floor().clamp(min=0.0)

    @property
    def variance(self) -> Tensor:
        return self.mean / flamec.sigmoid(-self.logits)

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            rates = Gamma(self.total_count, (-self.logits).exp(), validate_args=False)
            return flamec.poisson(rates.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        n, logits = self.total_count, self.logits
        ways = flamec.lgamma(n + value) - flamec.lgamma(1 + value) - flamec.lgamma(n)
        ways = flamec.where(n + value == 0, 0.0, ways)
        return ways - n * softplus(logits) - value * softplus(-logits)
