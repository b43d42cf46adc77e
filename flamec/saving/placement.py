"""Where loaded tensors go: ``map_location`` as a function from a saved device to a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.functional.arguments import as_device
from flamec.ir.types import Device
from flamec.saving.errors import MissingDeviceError

__all__ = ["Placement", "placement"]

Placement = Callable[[str], Device]


def placement(map_location: Any) -> Placement:
    """The device for a tensor that was saved on a device called so; MissingDeviceError if there
    is none."""
    if callable(map_location):
        raise TypeError(
            "load(): map_location must be a device, its name, or a dict of names; a function of "
            "storages has no meaning here"
        )

    def place(saved: str) -> Device:
        wanted = map_location
        if isinstance(map_location, dict):
            wanted = map_location.get(saved)
        if wanted is not None:
            return as_device("load", wanted)
        try:
            return as_device("load", saved)
        except (RuntimeError, ValueError) as error:
            raise MissingDeviceError(
                f"a tensor was saved on {saved!r}, which is not here ({error}); load the file with "
                "map_location='cpu'"
            ) from error

    return place
