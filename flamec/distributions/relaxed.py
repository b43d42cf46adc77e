"""Continuous distributions that come near discrete ones as ``temperature`` falls, with gradients.

C. J. Maddison, A. Mnih and Y. W. Teh, "The concrete distribution: a continuous relaxation of
discrete random variables", ICLR 2017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.combined import TransformedDistribution
from flamec.distributions.constraints import Constraint
from flamec.distributions.discrete import OfCategories, TwoValued
from flamec.distributions.distribution import Constraints, as_parameters
from flamec.distributions.transforms import ExpTransform, SigmoidTransform
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "ExpRelaxedCategorical", "LogitRelaxedBernoulli", "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
]  # fmt: skip


def _unit(like: Tensor, shape: Sequence[Any]) -> Tensor:
    """Uniform numbers that are neither 0 nor 1."""
    limits = flamec.finfo(like.dtype)
    with no_grad():
        u = flamec.rand(*shape, dtype=like.dtype, device=like.device)
        return u.clamp(limits.eps, 1 - limits.eps)


class LogitRelaxedBernoulli(TwoValued):
    """The log-odds of a ``RelaxedBernoulli`` number."""

    has_rsample = True
    _kept = ("temperature",)

    def __init__(
        self,
        temperature: Any,
        probs: Any = None,
        logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature = temperature
        super().__init__(probs, logits, validate_args)

    def _prepared(self, name: str, given: Any) -> Tensor:
        (parameter,) = as_parameters(given)
        return parameter

    @property
    def support(self) -> Constraint:
        return constraints.real

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        u = _unit(self._param, self._extended_shape(sample_shape))
        return (u.log() - flamec.log1p(-u) + self.logits) / self.temperature

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        off = self.logits - value * self.temperature
        scale = flamec.as_tensor(self.temperature, dtype=off.dtype, device=off.device).log()
        return scale + off - 2 * flamec.nn.functional.softplus(off)


class ExpRelaxedCategorical(OfCategories):
    """The logarithms of a ``RelaxedOneHotCategorical`` vector."""

    has_rsample = True
    _kept = ("temperature",)

    def __init__(
        self,
        temperature: Any,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.temperature = temperature
        super().__init__(probs, logits, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.real_vector

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        u = _unit(self.logits, self._extended_shape(sample_shape))
        scores = (self.logits - (-u.log()).log()) / self.temperature
        return scores.log_softmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        logits, value = flamec.broadcast_tensors(self.logits, value)
        count = self._event_shape[0]
        t = flamec.as_tensor(self.temperature, dtype=logits.dtype, device=logits.device)
        scores = (logits - value * t).log_softmax(-1).sum(-1)
        return scores + math.lgamma(count) + (count - 1) * t.log()


class _Relaxed(TransformedDistribution):
    """A transform of the distribution that has the parameters."""

    @property
    def temperature(self) -> Any:
        """How far it is from the discrete distribution."""
        base: Any = self.base_dist
        return base.temperature

    @property
    def probs(self) -> Tensor:
        """The probabilities of the discrete distribution."""
        base: Any = self.base_dist
        result: Tensor = base.probs
        return result

    @property
    def logits(self) -> Tensor:
        """Its logits."""
        base: Any = self.base_dist
        result: Tensor = base.logits
        return result


class RelaxedBernoulli(_Relaxed):
    """Numbers between 0 and 1."""

    arg_constraints: ClassVar[Constraints] = TwoValued.arg_constraints

    def __init__(
        self,
        temperature: Any,
        probs: Any = None,
        logits: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        base = LogitRelaxedBernoulli(temperature, probs, logits)
        super().__init__(base, SigmoidTransform(), validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.unit_interval


class RelaxedOneHotCategorical(_Relaxed):
    """Vectors of positive numbers whose sum is 1."""

    arg_constraints: ClassVar[Constraints] = OfCategories.arg_constraints

    def __init__(
        self,
        temperature: Any,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        base = ExpRelaxedCategorical(temperature, probs, logits, validate_args)
        super().__init__(base, ExpTransform(), validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.simplex
