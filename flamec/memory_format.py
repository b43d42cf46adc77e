"""Orders of elements in memory that PyTorch names: row-major, or the channels last.

In: a tensor and a format. Out: the dimensions in the order in which memory has them.
``preserve_format`` asks for nothing.
"""

from __future__ import annotations

from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.ir.shape import format_shape
from flamec.tensor import Tensor

__all__ = [
    "channels_last", "channels_last_3d", "contiguous_format", "layout",
    "legacy_contiguous_format", "memory_format", "preserve_format", "strided",
]  # fmt: skip


class memory_format:
    """An order of elements in memory."""

    def __init__(self, name: str, rank: int | None = None) -> None:
        self._name, self.rank = name, rank

    def __repr__(self) -> str:
        return f"flamec.{self._name}"


contiguous_format = legacy_contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last", 4)
channels_last_3d = memory_format("channels_last_3d", 5)


class layout:
    """How a tensor's elements are stored. There is one way: ``strided``."""

    def __repr__(self) -> str:
        return "flamec.strided"


strided = layout()


def last_channels(name: str, input: Tensor, format: Any) -> tuple[int, ...] | None:
    """The dimensions in the order in which ``format`` has them in memory; None for row-major.

    RuntimeError for a tensor of another rank than the format is for.
    """
    if format is None:
        return None
    if not isinstance(format, memory_format):
        raise OperationTypeError(
            f"{name}(): memory_format must be a flamec.memory_format, not {format!r} "
            f"(at {user_location()})"
        )
    if format.rank is None:
        return None
    rank = len(input._type.shape)
    if rank != format.rank:
        raise OperationError(
            f"{name}(): {format} needs a tensor of {format.rank} dimensions, not of shape "
            f"{format_shape(input._type.shape)} (at {user_location()})"
        )
    return (0, *range(2, rank), 1)
