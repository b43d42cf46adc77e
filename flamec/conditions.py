"""What programs demand of values in Python: ``torch._assert`` and the ``torch._check`` functions.

A condition that a tensor decides is read, as by ``assert``, and splits a compiled function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.ir.types import bool_
from flamec.tensor import Tensor

__all__ = [
    "_assert", "_check", "_check_index", "_check_is_size", "_check_not_implemented",
    "_check_tensor_all", "_check_type", "_check_value",
]  # fmt: skip

Message = Callable[[], Any] | None


def _assert(condition: Any, message: str) -> None:
    """AssertionError with ``message`` unless ``condition`` is true."""
    if not condition:
        raise AssertionError(message)


def _check(cond: bool, message: Message = None) -> None:
    """RuntimeError with what ``message`` returns unless ``cond`` is true."""
    _demand(RuntimeError, cond, message)


def _check_index(cond: bool, message: Message = None) -> None:
    """As ``_check``, with IndexError."""
    _demand(IndexError, cond, message)


def _check_value(cond: bool, message: Message = None) -> None:
    """As ``_check``, with ValueError."""
    _demand(ValueError, cond, message)


def _check_type(cond: bool, message: Message = None) -> None:
    """As ``_check``, with TypeError."""
    _demand(TypeError, cond, message)


def _check_not_implemented(cond: bool, message: Message = None) -> None:
    """As ``_check``, with NotImplementedError."""
    _demand(NotImplementedError, cond, message)


def _check_is_size(i: int, message: Message = None, *, max: int | None = None) -> None:
    """RuntimeError unless ``i`` is at least 0 and at most ``max``."""
    _demand(RuntimeError, i >= 0, message)
    if max is not None:
        _demand(RuntimeError, i <= max, message)


def _check_tensor_all(cond: Tensor, message: Message = None) -> None:
    """RuntimeError unless all elements of a tensor of bools are True; TypeError for others."""
    if not isinstance(cond, Tensor):
        raise TypeError(f"cond must be a tensor, but got {type(cond)}")
    if cond.dtype is not bool_:
        raise TypeError(f"cond must be a tensor of bools, but got {cond.dtype.name}")
    _demand(RuntimeError, bool(cond.all()), message)


def _demand(error: type[Exception], cond: Any, message: Message) -> None:
    if isinstance(cond, Tensor):
        raise TypeError("cond must be a bool, but got a Tensor: _check_tensor_all takes those")
    if not isinstance(cond, bool):
        raise TypeError(f"cond must be a bool, but got {type(cond)}")
    if cond:
        return
    if message is not None and not callable(message):
        raise TypeError("message must be a callable")
    raise error("Expected cond to be True, but got False." if message is None else str(message()))
