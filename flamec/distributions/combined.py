"""Distributions made of others: with joined dimensions, mixed, transformed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.continuous import Normal
from flamec.distributions.discrete import Categorical
from flamec.distributions.distribution import (
    Constraints,
    Distribution,
    as_parameters,
    sum_rightmost,
)
from flamec.distributions.transforms import ComposeTransform, ExpTransform, Transform
from flamec.state import no_grad
from flamec.tensor import Tensor

__all__ = ["Independent", "LogNormal", "MixtureSameFamily", "TransformedDistribution"]


class Independent(Distribution):
    """The last ``reinterpreted_batch_ndims`` dimensions of a distribution's batch as one event."""

    def __init__(
        self,
        base_distribution: Distribution,
        reinterpreted_batch_ndims: int,
        validate_args: bool | None = None,
    ) -> None:
        count, batch = reinterpreted_batch_ndims, base_distribution.batch_shape
        if count > len(batch):
            raise ValueError(
                "Expected reinterpreted_batch_ndims <= len(base_distribution.batch_shape), "
                f"actual {count} vs {len(batch)}"
            )
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, count
        self.has_rsample = base_distribution.has_rsample
        kept = len(batch) - count
        event = batch[kept:] + base_distribution.event_shape
        super().__init__(batch[:kept], event, validate_args)

    @property
    def support(self) -> Constraint:
        return constraints.independent(self.base_dist.support, self.reinterpreted_batch_ndims)

    @property
    def mean(self) -> Tensor:
        return self.base_dist.mean

    @property
    def mode(self) -> Tensor:
        return self.base_dist.mode

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        return self.base_dist.rsample(sample_shape)

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        return self.base_dist.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return sum_rightmost(self.base_dist.log_prob(value), self.reinterpreted_batch_ndims)

    def entropy(self) -> Tensor:
        return sum_rightmost(self.base_dist.entropy(), self.reinterpreted_batch_ndims)

    def __repr__(self) -> str:
        return f"Independent({self.base_dist!r}, {self.reinterpreted_batch_ndims})"


class MixtureSameFamily(Distribution):
    """One of the distributions along a batch's last dimension, drawn by a ``Categorical``."""

    def __init__(
        self,
        mixture_distribution: Categorical,
        component_distribution: Distribution,
        validate_args: bool | None = None,
    ) -> None:
        mixture, component = mixture_distribution, component_distribution
        if not isinstance(mixture, Categorical):
            raise ValueError(
                " The Mixture distribution needs to be an instance of torch.distributions."
                "Categorical"
            )
        if not isinstance(component, Distribution):
            raise ValueError(
                "The Component distribution need to be an instance of "
                "torch.distributions.Distribution"
            )
        counts = mixture.param_shape[-1], component.batch_shape[-1]
        if counts[0] != counts[1]:
            raise ValueError(
                f"`mixture_distribution component` ({counts[0]}) does not equal "
                f"`component_distribution.batch_shape[-1]` ({counts[1]})"
            )
        self.mixture_distribution, self.component_distribution = mixture, component
        super().__init__(component.batch_shape[:-1], component.event_shape, validate_args)

    @property
    def support(self) -> Constraint:
        return self.component_distribution.support

    def _weights(self) -> Tensor:
        probs = self.mixture_distribution.probs
        return probs.reshape(*probs.shape, *(1,) * len(self._event_shape))

    def _pad(self, value: Tensor) -> Tensor:
        """With a dimension of size 1 for the components."""
        return value.unsqueeze(-1 - len(self._event_shape))

    @property
    def mean(self) -> Tensor:
        parts = self._weights() * self.component_distribution.mean
        return parts.sum(-1 - len(self._event_shape))

    @property
    def variance(self) -> Tensor:
        weights, parts = self._weights(), self.component_distribution
        apart = (parts.mean - self._pad(self.mean)).square()
        return (weights * (parts.variance + apart)).sum(-1 - len(self._event_shape))

    def cdf(self, value: Tensor) -> Tensor:
        parts = self.component_distribution.cdf(self._pad(value))
        return (parts * self.mixture_distribution.probs).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        parts = self.component_distribution.log_prob(self._pad(value))
        weights = self.mixture_distribution.logits.log_softmax(-1)
        return (parts + weights).logsumexp(-1)

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            events = len(self._event_shape)
            chosen = self.mixture_distribution.sample(sample_shape)
            drawn = self.component_distribution.sample(sample_shape)
            index = chosen.reshape(*chosen.shape, *(1,) * (events + 1))
            index = index.expand(*chosen.shape, 1, *self._event_shape)
            return drawn.gather(drawn.ndim - 1 - events, index).squeeze(drawn.ndim - 1 - events)

    def __repr__(self) -> str:
        return (
            f"MixtureSameFamily(\n  {self.mixture_distribution!r},\n"
            f"  {self.component_distribution!r})"
        )


def _turned(probability: Tensor, sign: Any) -> Tensor:
    """The probability of what is not above a value by that of what is not above another one, from
    which the value rises (sign 1) or falls (-1)."""
    rises = not isinstance(sign, Tensor) and sign == 1
    return probability if rises else sign * (probability - 0.5) + 0.5


class TransformedDistribution(Distribution):
    """The distribution of ``transforms`` of a draw, one after the other."""

    def __init__(
        self,
        base_distribution: Distribution,
        transforms: Transform | Sequence[Transform],
        validate_args: bool | None = None,
    ) -> None:
        self.transforms = [transforms] if isinstance(transforms, Transform) else list(transforms)
        if not all(isinstance(transform, Transform) for transform in self.transforms):
            raise ValueError("transforms must be a Transform or a list of Transforms")
        whole = ComposeTransform(self.transforms)
        base, events = base_distribution, len(base_distribution.event_shape)
        shape, together = base.batch_shape + base.event_shape, whole.domain.event_dim
        if len(shape) < together:
            raise ValueError(
                f"base_distribution needs to have shape with size at least {together}, but got "
                f"{shape}."
            )
        result = whole.forward_shape(shape)
        wide = whole.inverse_shape(result)
        if tuple(wide) != tuple(shape):  # parameters of a transform have more dimensions
            base = base.expand(wide[: len(wide) - events])
        if together > events:
            base = Independent(base, together - events)
        self.base_dist, self.has_rsample = base, base.has_rsample
        events = max(events, together) + whole.codomain.event_dim - together
        batch = len(result) - events
        super().__init__(result[:batch], result[batch:], validate_args)

    @property
    def support(self) -> Constraint:
        if not self.transforms:
            return self.base_dist.support
        last = self.transforms[-1].codomain
        return constraints.independent(last, len(self._event_shape) - last.event_dim)

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        return self._transformed(self.base_dist.rsample(sample_shape))

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        with no_grad():
            return self._transformed(self.base_dist.sample(sample_shape))

    def _transformed(self, x: Tensor) -> Tensor:
        for transform in self.transforms:
            x = transform(x)
        return x

    def log_prob(self, value: Tensor) -> Tensor:
        value = self._validate_sample(value)
        events, y, total = len(self._event_shape), value, 0.0
        for transform in reversed(self.transforms):
            x = transform._inv_call(y)
            term = transform.log_abs_det_jacobian(x, y)
            events += transform.domain.event_dim - transform.codomain.event_dim
            total = total - sum_rightmost(term, events - transform.domain.event_dim)
            y = x
        inner = self.base_dist.log_prob(y)
        return total + sum_rightmost(inner, events - len(self.base_dist.event_shape))

    def cdf(self, value: Tensor) -> Tensor:
        whole = ComposeTransform(self.transforms)
        return _turned(self.base_dist.cdf(whole._inv_call(value)), whole.sign)

    def icdf(self, value: Tensor) -> Tensor:
        sign = ComposeTransform(self.transforms).sign
        return self._transformed(self.base_dist.icdf(_turned(value, sign)))


class LogNormal(TransformedDistribution):
    """exp of a normal number with mean ``loc`` and standard deviation ``scale``."""

    arg_constraints: ClassVar[Constraints] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        loc, scale = as_parameters(loc, scale)
        super().__init__(Normal(loc, scale, validate_args), ExpTransform(), validate_args)

    @property
    def loc(self) -> Tensor:
        """The mean of the logarithm."""
        return self.base_dist.mean

    @property
    def scale(self) -> Tensor:
        """The standard deviation of the logarithm."""
        return self.base_dist.stddev

    @property
    def support(self) -> Constraint:
        return constraints.positive

    @property
    def mean(self) -> Tensor:
        return (self.loc + self.scale.square() / 2).exp()

    @property
    def mode(self) -> Tensor:
        return (self.loc - self.scale.square()).exp()

    @property
    def variance(self) -> Tensor:
        square = self.scale.square()
        return square.expm1() * (2 * self.loc + square).exp()

    def entropy(self) -> Tensor:
        return self.base_dist.entropy() + self.loc
