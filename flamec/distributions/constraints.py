"""What values parameters and samples may have: ``constraint.check(value)`` says where they do.

``check`` gives a tensor of bool, with the dimensions of one event reduced (``event_dim`` of them).
"""

from __future__ import annotations

from typing import Any

import flamec
from flamec.state import thread
from flamec.tensor import Tensor

__all__ = [
    "Constraint", "boolean", "dependent", "greater_than", "greater_than_eq", "half_open_interval",
    "independent", "integer_interval", "interval", "is_dependent", "less_than", "lower_cholesky",
    "nonnegative", "nonnegative_integer", "one_hot", "positive", "positive_definite",
    "positive_integer", "real", "real_vector", "simplex", "unit_interval",
]  # fmt: skip


class Constraint:
    """Base class; ``bounds`` are shown in messages."""

    is_discrete = False
    event_dim = 0

    def __init__(self, **bounds: Any) -> None:
        self.bounds = bounds

    def check(self, value: Tensor) -> Tensor:
        """Where the value is allowed."""
        raise NotImplementedError(f"{self!r} cannot be checked")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={bound}" for name, bound in self.bounds.items())
        return f"{type(self).__name__.lstrip('_')}({shown})"


class _Dependent(Constraint):
    """Of a parameter whose range another parameter decides; it is not checked alone."""


class _Real(Constraint):
    def check(self, value: Tensor) -> Tensor:
        return value == value  # not NaN


class _Boolean(Constraint):
    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return (value == 0) | (value == 1)


class _Between(Constraint):
    """Bounds by ``lower_bound`` and ``upper_bound``; a subclass says whether they are included."""

    lower_included = upper_included = True

    def check(self, value: Tensor) -> Tensor:
        lower, upper = self.bounds.get("lower_bound"), self.bounds.get("upper_bound")
        inside = value % 1 == 0 if self.is_discrete else value == value
        if lower is not None:
            inside = inside & (value >= lower if self.lower_included else value > lower)
        if upper is not None:
            inside = inside & (value <= upper if self.upper_included else value < upper)
        return inside


class Interval(_Between):
    """Both bounds included."""


class HalfOpenInterval(_Between):
    """The lower bound included."""

    upper_included = False


class GreaterThan(_Between):
    """Above a bound."""

    lower_included = False


class GreaterThanEq(_Between):
    """A bound or above."""


class LessThan(_Between):
    """Below a bound."""

    upper_included = False


class IntegerInterval(_Between):
    """Whole numbers, both bounds included."""

    is_discrete = True


class IntegerGreaterThan(IntegerInterval):
    """Whole numbers from a bound on."""


class _Simplex(Constraint):
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        sums_to_one = (value.sum(-1) - 1).abs() < 1e-6
        return (value >= 0).all(dim=-1) & sums_to_one


class _OneHot(Constraint):
    is_discrete = True
    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return ((value == 0) | (value == 1)).all(dim=-1) & (value.sum(-1) == 1)


class _LowerCholesky(Constraint):
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        lower = (value.tril() == value).flatten(-2).all(dim=-1)
        return lower & (value.diagonal(dim1=-2, dim2=-1) > 0).all(dim=-1)


class _PositiveDefinite(Constraint):
    event_dim = 2

    def check(self, value: Tensor) -> Tensor:
        scale = value.abs().flatten(-2).amax(-1)[..., None, None]
        symmetric = ((value - value.mT).abs() <= 1e-6 * scale).flatten(-2).all(dim=-1)
        if thread.trace is not None:
            return symmetric  # the program's own factorization finds the rest
        info = flamec.linalg.cholesky_ex(value.detach()).info
        return symmetric & (info == 0)


class _Independent(Constraint):
    def __init__(self, base: Constraint, count: int) -> None:
        super().__init__()
        self.base, self.count = base, count
        self.is_discrete, self.event_dim = base.is_discrete, base.event_dim + count

    def check(self, value: Tensor) -> Tensor:
        return self.base.check(value).flatten(-self.count).all(dim=-1)

    def __repr__(self) -> str:
        return f"IndependentConstraint({self.base!r}, {self.count})"


def greater_than(lower_bound: Any) -> Constraint:
    """Numbers above a bound."""
    return GreaterThan(lower_bound=lower_bound)


def greater_than_eq(lower_bound: Any) -> Constraint:
    """Numbers from a bound on."""
    return GreaterThanEq(lower_bound=lower_bound)


def less_than(upper_bound: Any) -> Constraint:
    """Numbers below a bound."""
    return LessThan(upper_bound=upper_bound)


def interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Numbers between two bounds, both included."""
    return Interval(lower_bound=lower_bound, upper_bound=upper_bound)


def half_open_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Numbers between two bounds, the lower one included."""
    return HalfOpenInterval(lower_bound=lower_bound, upper_bound=upper_bound)


def integer_interval(lower_bound: Any, upper_bound: Any) -> Constraint:
    """Whole numbers between two bounds, both included."""
    return IntegerInterval(lower_bound=lower_bound, upper_bound=upper_bound)


def independent(base: Constraint, count: int) -> Constraint:
    """``base`` for each element of the last ``count`` dimensions, which are one event."""
    return _Independent(base, count) if count else base


def is_dependent(constraint: Constraint) -> bool:
    """Whether a constraint cannot be checked alone."""
    return isinstance(constraint, _Dependent)


dependent = _Dependent()
boolean = _Boolean()
real = _Real()
real_vector = independent(real, 1)
positive = greater_than(0.0)
nonnegative = greater_than_eq(0.0)
unit_interval = interval(0.0, 1.0)
nonnegative_integer = IntegerGreaterThan(lower_bound=0)
positive_integer = IntegerGreaterThan(lower_bound=1)
simplex = _Simplex()
one_hot = _OneHot()
lower_cholesky = _LowerCholesky()
positive_definite = _PositiveDefinite()
