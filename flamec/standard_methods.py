"""Methods of tensors that the Python array API standard asks for, beside PyTorch's."""

from __future__ import annotations

from typing import Any

from flamec.conversion import on_device
from flamec.errors import user_location
from flamec.functional.arguments import as_device
from flamec.tensor import Tensor


def array_namespace(self: Tensor, *, api_version: str | None = None) -> Any:
    """The module of functions by the array API standard, ``flamec.array_api``."""
    from flamec import array_api

    if api_version not in (None, "2021.12", "2022.12", "2023.12", "2024.12"):
        raise ValueError(
            f"the array API standard of {api_version} is not available, "
            f"{array_api.__array_api_version__} and earlier are (at {user_location()})"
        )
    return array_api


def to_device(self: Tensor, device: Any, /, *, stream: Any = None) -> Tensor:
    """The tensor on a device: itself if it is there. Of the array API standard."""
    if stream is not None:
        raise ValueError(f"to_device(): a stream cannot be given (at {user_location()})")
    return on_device(self, as_device("to_device", device, self._type.device))


TENSOR_METHODS = {"__array_namespace__": array_namespace, "to_device": to_device}
