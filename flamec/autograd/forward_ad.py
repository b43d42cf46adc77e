"""Forward mode by dual tensors: values that carry a tangent through what is computed of them.

In: a primal and a tangent of its shape (``make_dual``), inside a level. Out: a tensor of the
primal's values; ``unpack_dual`` of anything computed from it gives value and tangent.

A dual is its primal plus a zero that the tape records, and the tangent of a result is the
derivative by these zeros along the tangents, found by differentiating a gradient by its seed
(see ``func.jvp``). So every operation with a derivative works, and what is computed without
recording (``no_grad``) has no tangent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from flamec.dispatch import tensor_builder
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.func import forward_derivatives, tracked
from flamec.functional.promotion import require_tensor
from flamec.ir.shape import format_shape, structural_key
from flamec.state import enable_grad
from flamec.tensor import Tensor

__all__ = [
    "UnpackedDualTensor", "dual_level", "enter_dual_level", "exit_dual_level", "make_dual",
    "unpack_dual",
]  # fmt: skip


class UnpackedDualTensor(NamedTuple):
    """Value and tangent; the tangent is None where the value depends on no dual."""

    primal: Tensor
    tangent: Tensor | None


class _Level:
    def __init__(self) -> None:
        self.zeros: list[Tensor] = []
        self.tangents: list[Tensor] = []


_levels: list[_Level] = []


def enter_dual_level() -> int:
    """Open a level; duals can be made in it. There can be one at a time."""
    if _levels:
        raise RuntimeError(
            "Nested forward mode AD is not supported at the moment; use func.jvp, which nests "
            f"(at {user_location()})"
        )
    _levels.append(_Level())
    return len(_levels) - 1


def exit_dual_level(*, level: int | None = None) -> None:
    """Close the level: tangents are forgotten."""
    if not _levels or level not in (None, len(_levels) - 1):
        raise RuntimeError(
            "Trying to exit a forward AD level that was not the last one that was created "
            f"(at {user_location()})"
        )
    _levels.pop()


@contextmanager
def dual_level() -> Iterator[int]:
    """A level for the block."""
    level = enter_dual_level()
    try:
        yield level
    finally:
        exit_dual_level(level=level)


def _level(level: int | None) -> _Level:
    if not _levels:
        raise RuntimeError(
            "Trying to create a dual Tensor for forward AD but no level exists, make sure to "
            f"enter_dual_level() first (at {user_location()})"
        )
    return _levels[-1 if level is None else level]


def make_dual(tensor: Tensor, tangent: Tensor, *, level: int | None = None) -> Tensor:
    """``tensor`` with a tangent. TypeError unless floating point, RuntimeError for other shapes."""
    current = _level(level)
    for name, value in (("tensor", tensor), ("tangent", tangent)):
        if not require_tensor("make_dual", name, value)._type.dtype.is_floating_point:
            raise OperationTypeError(
                f"make_dual(): expected {name} to be floating point, got {value.dtype.name} "
                f"(at {user_location()})"
            )
    have, want = tangent._type.shape, tensor._type.shape
    if structural_key(have) != structural_key(want) or tangent.dtype is not tensor.dtype:
        raise OperationError(
            f"make_dual(): expected a tangent of shape {format_shape(want)} and "
            f"{tensor.dtype.name}, got {format_shape(have)} and {tangent.dtype.name} "
            f"(at {user_location()})"
        )
    with enable_grad():
        zero = tracked(tensor_builder.full_like(0.0, tensor._type))
        current.zeros.append(zero)
        current.tangents.append(tangent)
        result: Tensor = tensor_builder.add(tensor, zero)
    return result


def unpack_dual(tensor: Tensor, *, level: int | None = None) -> UnpackedDualTensor:
    """The value and the tangent of anything computed in the level."""
    require_tensor("unpack_dual", "tensor", tensor)
    if not _levels:
        return UnpackedDualTensor(tensor, None)
    current = _level(level)
    if not tensor.requires_grad or not current.zeros:
        return UnpackedDualTensor(tensor, None)
    with enable_grad():
        (found,) = forward_derivatives([tensor], current.zeros, current.tangents)
    return UnpackedDualTensor(tensor, found)
