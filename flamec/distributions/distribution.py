"""Distribution: what all distributions share, with PyTorch's names, shapes and messages.

A sample has the shape ``sample_shape + batch_shape + event_shape``: independent draws,
distributions side by side, one draw. Values are checked where they are known, or by the program
that uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import flamec
from flamec.distributions.constraints import Constraint, is_dependent
from flamec.functional.promotion import is_number
from flamec.state import no_grad, thread
from flamec.tensor import Size, Tensor
from flamec.values import required

__all__ = ["Constraints", "Distribution", "as_parameters", "checked", "sum_rightmost"]

Constraints = Mapping[str, Constraint]


def as_parameters(*values: Any) -> tuple[Tensor, ...]:
    """Numbers and tensors as tensors of one shape.

    Numbers take dtype and device of the first tensor. ValueError for anything else.
    """
    if not all(isinstance(v, Tensor) or is_number(v) for v in values):
        raise ValueError(
            "Input arguments must all be instances of Number or Tensor, but got "
            + ", ".join(type(v).__name__ for v in values)
        )
    first = next((v for v in values if isinstance(v, Tensor)), None)
    dtype = flamec.get_default_dtype() if first is None else first.dtype
    device = None if first is None else first.device
    tensors = [
        v if isinstance(v, Tensor) else flamec.full((), v, dtype=dtype, device=device)
        for v in values
    ]
    return tuple(flamec.broadcast_tensors(*tensors))


def sum_rightmost(value: Tensor, count: int) -> Tensor:
    """The sum over the last ``count`` dimensions."""
    return value.flatten(-count).sum(-1) if count else value


def checked(value: Tensor, valid: Tensor, expected: str, details: Callable[[], str]) -> Tensor:
    """``value``, which is ``valid`` everywhere (last dimensions may be missing there).

    ValueError says what was ``expected``, with ``details`` where values are known. A program looks
    at what it is to use, so it is to use the result.
    """
    if thread.trace is None and valid._array is not None:
        if not bool(valid.all()):
            raise ValueError(details())
        return value
    spread = valid.reshape(*valid.shape, *[1] * (value.ndim - valid.ndim))
    return required(value, lambda _: spread, f"{expected}, but found invalid values")


class Distribution:
    """Base class.

    A subclass gives its parameters in ``arg_constraints``, sets them as attributes before it calls
    ``__init__`` here, and defines ``rsample`` or ``sample``, and ``log_prob``.
    """

    arg_constraints: ClassVar[Constraints] = {}
    _kept: ClassVar[tuple[str, ...]] = ()  # attributes that ``expand`` leaves as they are
    has_rsample: bool = False
    has_enumerate_support: bool = False
    _validate_args = True

    def __init__(
        self,
        batch_shape: Sequence[Any] = (),
        event_shape: Sequence[Any] = (),
        validate_args: bool | None = None,
    ) -> None:
        self._batch_shape, self._event_shape = Size(batch_shape), Size(event_shape)
        if validate_args is not None:
            self._validate_args = validate_args
        if self._validate_args:
            self._check_parameters()

    @staticmethod
    def set_default_validate_args(value: bool) -> None:
        """Whether parameters and values are checked where nothing else is said."""
        Distribution._validate_args = bool(value)

    def _check_parameters(self) -> None:
        for name, constraint in self.arg_constraints.items():
            if is_dependent(constraint) or name not in self.__dict__:
                continue
            value = self.__dict__[name]
            self.__dict__[name] = checked(
                value,
                constraint.check(value),
                f"Expected parameter {name} of distribution {type(self).__name__} to satisfy the "
                f"constraint {constraint!r}",
                partial(self._invalid_parameter, name, value, constraint),
            )

    def _invalid_parameter(self, name: str, value: Tensor, constraint: Constraint) -> str:
        return (
            f"Expected parameter {name} ({type(value).__name__} of shape {tuple(value.shape)}) "
            f"of distribution {self!r} to satisfy the constraint {constraint!r}, "
            f"but found invalid values:\n{value}"
        )

    @property
    def batch_shape(self) -> Size:
        """The shape of the parameters, without the dimensions of one draw."""
        return self._batch_shape

    @property
    def event_shape(self) -> Size:
        """The shape of one draw."""
        return self._event_shape

    @property
    def support(self) -> Constraint:
        """What values a draw may have."""
        raise NotImplementedError(f"{type(self).__name__} has no support")

    @property
    def mean(self) -> Tensor:
        """The expected value."""
        raise NotImplementedError(f"{type(self).__name__} has no mean")

    @property
    def mode(self) -> Tensor:
        """The most likely value."""
        raise NotImplementedError(f"{type(self)} does not implement mode")

    @property
    def variance(self) -> Tensor:
        """The expected square of the distance from the mean."""
        raise NotImplementedError(f"{type(self).__name__} has no variance")

    @property
    def stddev(self) -> Tensor:
        """The root of the variance."""
        return self.variance.sqrt()

    def rsample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        """Draws through which gradients flow to the parameters."""
        raise NotImplementedError(
            f"{type(self).__name__}.rsample: its draws have no gradients by its parameters; "
            "use sample() and log_prob()"
        )

    def sample(self, sample_shape: Sequence[Any] = ()) -> Tensor:
        """Draws without gradients, of ``sample_shape + batch_shape + event_shape``."""
        with no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density, or of the probability of a discrete value."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob")

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a draw that is not above ``value``."""
        raise NotImplementedError(f"{type(self).__name__} has no cdf")

    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of ``cdf``."""
        raise NotImplementedError(f"{type(self).__name__} has no icdf")

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values of a discrete distribution along a new first dimension."""
        raise NotImplementedError(f"{type(self).__name__} has no list of its values")

    def entropy(self) -> Tensor:
        """The expected ``-log_prob`` of a draw."""
        raise NotImplementedError(f"{type(self).__name__} has no entropy")

    def perplexity(self) -> Tensor:
        """exp(entropy)."""
        return self.entropy().exp()

    def expand(self, batch_shape: Sequence[Any]) -> Distribution:
        """The same distribution with parameters expanded to another ``batch_shape``."""
        batch_shape = Size(batch_shape)
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        for name, value in self.__dict__.items():
            if name in self._kept:
                continue
            if isinstance(value, Tensor):
                event = value.shape[len(self._batch_shape) :]
                other.__dict__[name] = value.expand(batch_shape + event)
            elif isinstance(value, Distribution):
                inner = value.batch_shape[len(self._batch_shape) :]
                other.__dict__[name] = value.expand(batch_shape + inner)
        other._batch_shape = batch_shape
        return other

    def _extended_shape(self, sample_shape: Sequence[Any] = ()) -> Size:
        return Size((*sample_shape, *self._batch_shape, *self._event_shape))

    def _validate_sample(self, value: Any) -> Any:
        """The value; ValueError for one that cannot be a draw (PyTorch's name, for subclasses).

        Programs look at the result, where it is used.
        """
        if not self._validate_args:
            return value
        if not isinstance(value, Tensor):
            raise ValueError("The value argument to log_prob must be a Tensor")
        events = len(self._event_shape)
        if value.shape[value.ndim - events :] != self._event_shape:
            raise ValueError(
                "The right-most size of value must match event_shape: "
                f"{value.shape} vs {self._event_shape}."
            )
        expected = self._batch_shape + self._event_shape
        for mine, other in zip(reversed(value.shape), reversed(expected), strict=False):
            if mine not in (1, other) and other != 1:
                raise ValueError(
                    "Value is not broadcastable with batch_shape+event_shape: "
                    f"{value.shape} vs {expected}."
                )
        support = self.support
        return checked(
            value,
            support.check(value),
            f"Expected value argument to be within the support ({type(support).__name__}) of the "
            f"distribution {type(self).__name__}",
            lambda: (
                f"Expected value argument ({type(value).__name__} of shape {tuple(value.shape)}) "
                f"to be within the support ({support!r}) of the distribution {self!r}, "
                f"but found invalid values:\n{value}"
            ),
        )

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}: {value if value.numel() == 1 else value.shape}"
            for name in self.arg_constraints
            if (value := self.__dict__.get(name)) is not None
        )
        return f"{type(self).__name__}({shown})"
