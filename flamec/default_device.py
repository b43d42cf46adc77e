"""Where tensors are made that are given no device: ``set_default_device``, ``with device(...)``.

In: a device. Out: the thread's state, which the factory functions read (``zeros``, ``tensor``,
``rand``, the parameters of modules ...); ``*_like`` functions, ``from_numpy`` and numbers in
arithmetic are not affected, and neither are the orders that samplers draw. Invariant: a compiled
function that makes tensors is traced again for another default device.
"""

from __future__ import annotations

from typing import Any

from flamec.functional.arguments import as_device, default_device
from flamec.ir.types import Device
from flamec.state import thread


def set_default_device(device: Any) -> None:
    """Where this thread's factory functions make tensors; None for the CPU.

    RuntimeError for a device that is unknown or not present.
    """
    thread.default_device = None if device is None else as_device("set_default_device", device)


def get_default_device() -> Device:
    """Where this thread's factory functions make tensors."""
    return default_device()


def _enter(device: Device) -> None:
    found = as_device("with device", device)
    thread.outer_devices.append(thread.default_device)
    thread.default_device = found


def _leave() -> None:
    thread.default_device = thread.outer_devices.pop()


Device.entered, Device.left = _enter, _leave
