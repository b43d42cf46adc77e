"""Discrete distributions: of two values, of categories, of counts.

Those of two values and of categories are given by probabilities or by logits
(``_ByProbsOrLogits``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.distribution import (
    Constraints,
    Distribution,
    as_parameters,
    checked,
)
from flamec.distributions.utils import logits_to_probs, probs_to_logits
from flamec.nn.functional import binary_cross_entropy_with_logits, one_hot
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = [
    "Bernoulli", "Categorical", "Geometric", "Multinomial", "OneHotCategorical",
    "OneHotCategoricalStraightThrough", "Poisson",
]  # fmt: skip


def enumerated(values: Tensor, batch: Sequence[Any], expand: bool) -> Tensor:
    """Values [n, *event] as [n, *batch, *event], or with ones in place of the batch."""
    event = values.shape[1:]
    values = values.view(-1, *(1,) * len(batch), *event)
    return values.expand(-1, *batch, *event) if expand else values


class _ByProbsOrLogits(Distribution):
    """Given by ``probs`` or ``logits``, of which the other is computed whenever it is read."""

    _event_dims: ClassVar[int]  # of the parameter's dimensions, how many are not the batch's

    def __init__(
        self, probs: Any = None, logits: Any = None, validate_args: bool | None = None
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        name = "logits" if probs is None else "probs"
        given = self._prepared(name, logits if probs is None else probs)
        self.__dict__[name] = given
        batch = given.shape[: given.ndim - self._event_dims]
        super().__init__(batch, validate_args=validate_args)

    def _prepared(self, name: str, given: Any) -> Tensor:
        """The parameter ``name`` from what was given for it."""
        raise NotImplementedError(f"{type(self).__name__} has no parameters")

    def _to_logits(self, probs: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no logits")

    def _to_probs(self, logits: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no probs")

    def __getattr__(self, name: str) -> Any:
        given = self.__dict__
        if name == "logits" and "probs" in given:
            return self._to_logits(given["probs"])
        if name == "probs" and "logits" in given:
            return self._to_probs(given["logits"])
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _param(self) -> Tensor:
        given = self.__dict__
        parameter: Tensor = given["probs"] if "probs" in given else given["logits"]
        return parameter

    @property
    def param_shape(self) -> Any:
        """The shape of the parameter that was given."""
        return self._param.shape


class TwoValued(_ByProbsOrLogits):
    """What Bernoulli and Geometric share: the probability of a success, or its log-odds."""

    arg_constraints: ClassVar[Constraints] = {
        "probs": constraints.unit_interval,
        "logits": constraints.real,
    }
    _event_dims = 0

    def _prepared(self, name: str, given: Any) -> Tensor:
        (parameter,) = as_parameters(given)
        return parameter

    def _to_logits(self, probs: Tensor) -> Tensor:
        return probs_to_logits(probs, is_binary=True)

    def _to_probs(self, logits: Tensor) -> Tensor:
        return logits_to_probs(logits, is_binary=True)


class Bernoulli(TwoValued):
    """1 with probability ``probs``, else 0."""

    has_enumerate_support = True

    @property
    def support(self) -> Constraint:
        return constraints.boolean

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        probs = self.probs
        return flamec.where(probs == 0.5, math.nan, (probs >= 0.5).to(probs.dtype))

    @property
    def variance(self) -> Tensor:
        probs = self.probs
        return probs * (1 - probs)

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            return flamec.bernoulli(self.probs.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        logits, value = flamec.broadcast_tensors(self.logits, value)
        return -binary_cross_entropy_with_logits(logits, value.to(logits.dtype), reduction="none")

    def entropy(self) -> Tensor:
        return binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = flamec.arange(2, dtype=self._param.dtype, device=self._param.device)
        return enumerated(values, self._batch_shape, expand)


class Geometric(TwoValued):
    """The number of failures before the first success."""

    def _check_parameters(self) -> None:
        super()._check_parameters()
        probs = self.probs
        made = checked(
            probs,
            constraints.positive.check(probs),
            "Expected parameter probs of distribution Geometric to be positive",
            lambda: (
                f"Expected parameter probs of distribution {self!r} to be positive, but found "
                f"invalid values:\n{probs}"
            ),
        )
        if "probs" in self.__dict__:
            self.__dict__["probs"] = made

    @property
    def support(self) -> Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return 1 / self.probs - 1

    @property
    def mode(self) -> Tensor:
        return flamec.zeros_like(self.probs)

    @property
    def variance(self) -> Tensor:
        return (1 / self.probs - 1) / self.probs

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            probs = self.probs.expand(self._extended_shape(sample_shape))
            u = flamec.rand_like(probs).clamp_min(flamec.finfo(probs.dtype).tiny)
            return (u.log() / flamec.log1p(-probs)).floor()

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        value, probs = flamec.broadcast_tensors(value, self.probs)
        failing = flamec.where((probs == 1) & (value == 0), 0.0, probs)
        return value * flamec.log1p(-failing) + probs.log()

    def entropy(self) -> Tensor:
        probs = self.probs
        return binary_cross_entropy_with_logits(self.logits, probs, reduction="none") / probs


class Poisson(Distribution):
    """The number of events at a rate."""

    arg_constraints: ClassVar[Constraints] = {"rate": constraints.nonnegative}

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = as_parameters(rate)
        super().__init__(self.rate.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.nonnegative_integer

    @property
    def mean(self) -> Tensor:
        return self.rate

    @property
    def mode(self) -> Tensor:
        return self.rate.floor()

    @property
    def variance(self) -> Tensor:
        return self.rate

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            return flamec.poisson(self.rate.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        rate, value = flamec.broadcast_tensors(self.rate, value)
        return flamec.xlogy(value, rate) - rate - flamec.lgamma(value + 1)


class Categorical(_ByProbsOrLogits):
    """The number of a category, drawn with probabilities or logits along the last dimension.

    ``probs`` are divided by their sum.
    """

    arg_constraints: ClassVar[Constraints] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }
    has_enumerate_support = True
    _event_dims = 1

    def _prepared(self, name: str, given: Any) -> Tensor:
        if given.ndim < 1:
            raise ValueError(f"`{name}` parameter must be at least one-dimensional.")
        parameter: Tensor = given
        if name == "logits":
            return parameter - parameter.logsumexp(-1, keepdim=True)
        return parameter / parameter.sum(-1, keepdim=True)

    def _to_logits(self, probs: Tensor) -> Tensor:
        return probs_to_logits(probs)

    def _to_probs(self, logits: Tensor) -> Tensor:
        return logits_to_probs(logits)

    @property
    def _num_events(self) -> Any:
        return self._param.shape[-1]

    @property
    def support(self) -> Constraint:
        return constraints.integer_interval(0, self._num_events - 1)

    @property
    def mean(self) -> Tensor:
        return flamec.full_like(self._param[..., 0], math.nan)

    @property
    def mode(self) -> Tensor:
        return self.probs.argmax(-1)

    @property
    def variance(self) -> Tensor:
        return self.mean

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            shape = self._extended_shape(sample_shape)
            count = math.prod(sample_shape)
            rows = self.probs.reshape(-1, self._num_events)
            return rows.multinomial(count, True).T.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        index, logits = flamec.broadcast_tensors(value.long().unsqueeze(-1), self.logits)
        return logits.gather(-1, index[..., :1]).squeeze(-1)

    def entropy(self) -> Tensor:
        logits = self.logits.clamp(min=flamec.finfo(self._param.dtype).min)
        return -(logits * self.probs).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        values = flamec.arange(self._num_events, device=self._param.device)
        return enumerated(values, self._batch_shape, expand)


class OfCategories(Distribution):
    """What distributions over vectors share that are built on a ``Categorical``."""

    arg_constraints: ClassVar[Constraints] = {
        "probs": constraints.simplex,
        "logits": constraints.real_vector,
    }

    def __init__(
        self,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._categorical = Categorical(probs, logits, validate_args)
        event = self._categorical.param_shape[-1:]
        super().__init__(self._categorical.batch_shape, event, validate_args)

    @property
    def probs(self) -> Tensor:
        """The probabilities of the categories."""
        return self._categorical.probs

    @property
    def logits(self) -> Tensor:
        """Their logarithms."""
        return self._categorical.logits

    @property
    def param_shape(self) -> Any:
        """The shape of the parameter that was given."""
        return self._categorical.param_shape


class OneHotCategorical(OfCategories):
    """A category as a vector of one 1 and zeros."""

    has_enumerate_support = True

    @property
    def support(self) -> Constraint:
        return constraints.one_hot

    @property
    def mean(self) -> Tensor:
        return self.probs

    @property
    def mode(self) -> Tensor:
        probs = self.probs
        return one_hot(probs.argmax(-1), probs.shape[-1]).to(probs.dtype)

    @property
    def variance(self) -> Tensor:
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            drawn = self._categorical.sample(sample_shape)
            return one_hot(drawn, self._event_shape[0]).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        return self._categorical.log_prob(value.argmax(-1))

    def entropy(self) -> Tensor:
        return self._categorical.entropy()

    def enumerate_support(self, expand: bool = True) -> Tensor:
        count = self._event_shape[0]
        values = flamec.eye(count, dtype=self.probs.dtype, device=self.probs.device)
        return enumerated(values, self._batch_shape, expand)


class OneHotCategoricalStraightThrough(OneHotCategorical):
    """Its draws have the gradients of the probabilities (Bengio, Léonard and Courville 2013)."""

    has_rsample = True

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        probs = self.probs
        return self.sample(sample_shape) + (probs - probs.detach())


class Multinomial(OfCategories):
    """How often each category comes in ``total_count`` draws."""

    def __init__(
        self,
        total_count: int = 1,
        probs: Tensor | None = None,
        logits: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(total_count, int):  # PyTorch has one for the whole batch, too
            raise NotImplementedError("inhomogeneous total_count is not supported")
        self.total_count = total_count
        super().__init__(probs, logits, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.independent(constraints.integer_interval(0, self.total_count), 1)

    @property
    def mean(self) -> Tensor:
        return self.probs * self.total_count

    @property
    def variance(self) -> Tensor:
        return self.total_count * self.probs * (1 - self.probs)

    def entropy(self) -> Tensor:
        """n times that of one draw, less log n!, and the mean of log k! for each category's k."""
        n, probs = self.total_count, self.probs
        k = flamec.arange(1, n + 1, dtype=probs.dtype, device=probs.device)
        k = k.view(-1, *(1,) * probs.ndim)
        factorial = flamec.lgamma(k + 1)
        ways = math.lgamma(n + 1) - factorial - flamec.lgamma(n - k + 1)
        chances = (ways + flamec.xlogy(k, probs) + flamec.xlogy(n - k, 1 - probs)).exp()
        orders = (chances * factorial).sum((0, -1))
        return n * self._categorical.entropy() - math.lgamma(n + 1) + orders

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            drawn = self._categorical.sample((self.total_count, *sample_shape))
            return one_hot(drawn, self._event_shape[0]).sum(0).to(self.probs.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        logits, value = flamec.broadcast_tensors(self.logits, value)
        logits = flamec.where((value == 0) & (logits == -math.inf), 0.0, logits)
        ways = flamec.lgamma(value.sum(-1) + 1) - flamec.lgamma(value + 1).sum(-1)
        return ways + (logits * value).sum(-1)
