"""Invertible functions with the logarithm of their derivative, for ``TransformedDistribution``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flamec
from flamec.distributions import constraints
from flamec.distributions.constraints import Constraint
from flamec.distributions.distribution import sum_rightmost
from flamec.functional.promotion import is_number
from flamec.nn.functional import logsigmoid, softplus
from flamec.tensor import Tensor

__all__ = [
    "AbsTransform", "AffineTransform", "ComposeTransform", "ExpTransform", "IndependentTransform",
    "PowerTransform", "SigmoidTransform", "SoftmaxTransform", "SoftplusTransform",
    "StickBreakingTransform", "TanhTransform", "Transform", "identity_transform",
]  # fmt: skip


class Transform:
    """Base class: ``_call``, ``_inverse`` and ``log_abs_det_jacobian``.

    ``domain`` and ``codomain`` are the constraints of x and y; their ``event_dim`` is the number of
    dimensions that are transformed together. With ``cache_size`` 1 the last pair of x and y is
    kept, so that ``inv(y)`` gives the very x, without rounding.
    """

    bijective: bool = True
    domain: Constraint = constraints.real
    codomain: Constraint = constraints.real

    def __init__(self, cache_size: int = 0) -> None:
        if cache_size not in (0, 1):
            raise ValueError("cache_size must be 0 or 1")
        self._cache_size = cache_size
        self._last: tuple[Tensor | None, Tensor | None] = None, None

    def __call__(self, x: Tensor) -> Tensor:
        if self._cache_size == 0:
            return self._call(x)
        if self._last[0] is not x:
            self._last = x, self._call(x)
        result: Any = self._last[1]
        return result

    def _inv_call(self, y: Tensor) -> Tensor:
        if self._cache_size == 0:
            return self._inverse(y)
        if self._last[1] is not y:
            self._last = self._inverse(y), y
        result: Any = self._last[0]
        return result

    @property
    def inv(self) -> Transform:
        """The inverse."""
        return _Inverse(self)

    @property
    def event_dim(self) -> int:
        """How many dimensions of x are transformed together."""
        return self.domain.event_dim

    @property
    def sign(self) -> Any:
        """1 where y grows with x, -1 where it falls: a number, or a tensor."""
        raise NotImplementedError(f"{type(self).__name__} neither rises nor falls: it has no sign")

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        """The shape of y for a shape of x."""
        return shape

    def inverse_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        """The shape of x for a shape of y."""
        return shape

    def _call(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no value")

    def _inverse(self, y: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log |dy/dx|, ``event_dim`` dimensions summed."""
        raise NotImplementedError(f"{type(self).__name__} has no derivative")

    def __repr__(self) -> str:
        return type(self).__name__ + "()"


class _Inverse(Transform):
    def __init__(self, of: Transform) -> None:
        super().__init__()
        self._inv = of
        self.domain, self.codomain, self.bijective = of.codomain, of.domain, of.bijective

    @property
    def inv(self) -> Transform:
        return self._inv

    @property
    def sign(self) -> Any:
        return self._inv.sign

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        return self._inv.inverse_shape(shape)

    def inverse_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        return self._inv.forward_shape(shape)

    def _call(self, x: Tensor) -> Tensor:
        return self._inv._inv_call(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._inv(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -self._inv.log_abs_det_jacobian(y, x)

    def __repr__(self) -> str:
        return f"_InverseTransform({self._inv!r})"


def _widened(constraint: Constraint, events: int) -> Constraint:
    """A constraint of events of so many dimensions."""
    return constraints.independent(constraint, events - constraint.event_dim)


class ComposeTransform(Transform):
    """One after the other, the first one first."""

    def __init__(self, parts: Sequence[Transform], cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.parts = list(parts)
        self.bijective = all(part.bijective for part in self.parts)
        first = last = 0  # dimensions of an event before the first part and behind the last one
        for part in reversed(self.parts):
            x_events, y_events = part.domain.event_dim, part.codomain.event_dim
            first = max(x_events, first + x_events - y_events)
        for part in self.parts:
            x_events, y_events = part.domain.event_dim, part.codomain.event_dim
            last = max(y_events, last + y_events - x_events)
        if self.parts:
            self.domain = _widened(self.parts[0].domain, first)
            self.codomain = _widened(self.parts[-1].codomain, last)

    @property
    def sign(self) -> Any:
        return math.prod((part.sign for part in self.parts), start=1)

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        for part in self.parts:
            shape = part.forward_shape(shape)
        return shape

    def inverse_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        for part in reversed(self.parts):
            shape = part.inverse_shape(shape)
        return shape

    def _call(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def _inverse(self, y: Tensor) -> Tensor:
        for part in reversed(self.parts):
            y = part._inv_call(y)
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.parts:
            return flamec.zeros_like(x)
        total: Any = 0
        events = self.domain.event_dim
        for part in self.parts:
            y = part(x)
            term = part.log_abs_det_jacobian(x, y)
            total = total + sum_rightmost(term, events - part.domain.event_dim)
            events += part.codomain.event_dim - part.domain.event_dim
            x = y
        result: Tensor = total
        return result

    def __repr__(self) -> str:
        return "ComposeTransform(\n    " + ",\n    ".join(map(repr, self.parts)) + "\n)"


class IndependentTransform(Transform):
    """A transform whose last ``reinterpreted_batch_ndims`` more dimensions are one event."""

    def __init__(
        self, base_transform: Transform, reinterpreted_batch_ndims: int, cache_size: int = 0
    ) -> None:
        super().__init__(cache_size)
        base, count = base_transform, reinterpreted_batch_ndims
        self.base_transform, self.reinterpreted_batch_ndims = base, count
        self.bijective = base.bijective
        self.domain = constraints.independent(base.domain, count)
        self.codomain = constraints.independent(base.codomain, count)

    @property
    def sign(self) -> Any:
        return self.base_transform.sign

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        return self.base_transform.forward_shape(shape)

    def inverse_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        return self.base_transform.inverse_shape(shape)

    def _call(self, x: Tensor) -> Tensor:
        return self.base_transform(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.base_transform._inv_call(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        term = self.base_transform.log_abs_det_jacobian(x, y)
        return sum_rightmost(term, self.reinterpreted_batch_ndims)


def _sign_of(value: Any) -> Any:
    return (value > 0) - (value < 0) if is_number(value) else value.sign()


def _stretched(shape: Sequence[Any], *parameters: Any) -> Sequence[Any]:
    """A shape broadcast with those of parameters, which are numbers or tensors."""
    return flamec.broadcast_shapes(shape, *(p.shape for p in parameters if isinstance(p, Tensor)))


class _Rising(Transform):
    """y grows with x."""

    @property
    def sign(self) -> Any:
        return 1


class ExpTransform(_Rising):
    """exp(x)."""

    codomain = constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return x.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x


class PowerTransform(Transform):
    """x to a power, for positive x."""

    domain = codomain = constraints.positive

    def __init__(self, exponent: Any, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.exponent = exponent

    @property
    def sign(self) -> Any:
        return _sign_of(self.exponent)

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        return _stretched(shape, self.exponent)

    inverse_shape = forward_shape

    def _call(self, x: Tensor) -> Tensor:
        return x**self.exponent

    def _inverse(self, y: Tensor) -> Tensor:
        return y ** (1 / self.exponent)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.exponent * y / x).abs().log()


class SigmoidTransform(_Rising):
    """1 / (1 + exp(-x))."""

    codomain = constraints.unit_interval

    def _call(self, x: Tensor) -> Tensor:
        limits = flamec.finfo(x.dtype)
        return x.sigmoid().clamp(limits.tiny, 1 - limits.eps)

    def _inverse(self, y: Tensor) -> Tensor:
        limits = flamec.finfo(y.dtype)
        y = y.clamp(limits.tiny, 1 - limits.eps)
        return y.log() - flamec.log1p(-y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -softplus(-x) - softplus(x)


class SoftplusTransform(_Rising):
    """log(1 + exp(x))."""

    codomain = constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return softplus(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return (-y).expm1().neg().log() + y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -softplus(-x)


class TanhTransform(_Rising):
    """tanh(x); its derivative is computed from x without loss of digits."""

    codomain = constraints.interval(-1.0, 1.0)

    def _call(self, x: Tensor) -> Tensor:
        return x.tanh()

    def _inverse(self, y: Tensor) -> Tensor:
        return y.atanh()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 2.0 * (math.log(2.0) - x - softplus(-2.0 * x))


class AbsTransform(Transform):
    """|x|, whose inverse is taken to be the identity; it has no density."""

    bijective = False
    codomain = constraints.positive

    def _call(self, x: Tensor) -> Tensor:
        return x.abs()

    def _inverse(self, y: Tensor) -> Tensor:
        return y


class AffineTransform(Transform):
    """loc + scale * x; ``event_dim`` dimensions are one event."""

    def __init__(self, loc: Any, scale: Any, event_dim: int = 0, cache_size: int = 0) -> None:
        super().__init__(cache_size)
        self.loc, self.scale = loc, scale
        self.domain = self.codomain = constraints.independent(constraints.real, event_dim)

    @property
    def sign(self) -> Any:
        return _sign_of(self.scale)

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        return _stretched(shape, self.loc, self.scale)

    inverse_shape = forward_shape

    def _call(self, x: Tensor) -> Tensor:
        return self.loc + self.scale * x

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.loc) / self.scale

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if isinstance(self.scale, Tensor):
            size = self.scale.abs().log().expand(flamec.broadcast_shapes(x.shape, self.scale.shape))
        else:
            size = flamec.full_like(x, math.log(abs(self.scale)))
        return sum_rightmost(size, self.event_dim)


class SoftmaxTransform(Transform):
    """exp(x) divided by its sum; not invertible, the inverse gives the logarithm."""

    bijective = False
    domain = constraints.real_vector
    codomain = constraints.simplex

    def _call(self, x: Tensor) -> Tensor:
        return x.softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return y.log()


identity_transform = ComposeTransform([])


class StickBreakingTransform(Transform):
    """From n real numbers to n + 1 shares: each is the part of what the earlier ones left that the
    sigmoid of its number says (Stan reference manual, "Unit simplex"). Zeros give equal shares."""

    domain: Constraint = constraints.real_vector
    codomain: Constraint = constraints.simplex

    def forward_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        self._require_vector(shape)
        return (*shape[:-1], shape[-1] + 1)

    def inverse_shape(self, shape: Sequence[Any]) -> Sequence[Any]:
        self._require_vector(shape)
        return (*shape[:-1], shape[-1] - 1)

    @staticmethod
    def _require_vector(shape: Sequence[Any]) -> None:
        if not shape:
            raise ValueError("Too few dimensions on input")

    @staticmethod
    def _centred(x: Tensor) -> Tensor:
        """x less the logarithms of how many shares are left after each."""
        return x - (x.shape[-1] + 1 - flamec.ones_like(x).cumsum(-1)).log()

    def _call(self, x: Tensor) -> Tensor:
        finfo = flamec.finfo(x.dtype)
        part = self._centred(x).sigmoid().clamp(min=finfo.tiny, max=1 - finfo.eps)
        left = (1 - part).cumprod(-1)
        one = flamec.ones_like(part[..., :1])
        return flamec.cat([part, one], -1) * flamec.cat([one, left], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        shares = y[..., :-1]
        offset = y.shape[-1] - flamec.ones_like(shares).cumsum(-1)
        left = (1 - shares.cumsum(-1)).clamp(min=flamec.finfo(y.dtype).tiny)
        return shares.log() - left.log() + offset.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        x = self._centred(x)
        return (-x + logsigmoid(x) + y[..., :-1].log()).sum(-1)
