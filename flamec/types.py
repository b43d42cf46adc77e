"""Types that annotations of programs name, as in ``torch.types``."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import IO

from flamec.ir.types import Device as _device
from flamec.ir.types import DType as _dtype
from flamec.tensor import Size, Tensor

__all__ = ["Device", "FileLike", "Number", "Size", "Tensor", "_device", "_dtype"]

Number = int | float | bool
Device = _device | str | int | None
FileLike = str | PathLike[str] | IO[bytes]
_size = Size | list[int] | tuple[int, ...]
_TensorOrTensors = Tensor | Sequence[Tensor]
