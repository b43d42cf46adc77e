"""``autocast``: a region in which functions compute in lower precision where that is safe.

In: the type of device and the lower precision. What each function does in a region is
stated where it is defined (``functional/autocasting.py``). The state is the thread's; a
compiled function is traced again when it is called in another state.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from flamec.errors import user_location
from flamec.functional.autocasting import clear_casts
from flamec.ir.types import DType, bfloat16, float16
from flamec.state import AutocastState, thread

P = ParamSpec("P")
R = TypeVar("R")

__all__ = [
    "autocast",
    "clear_autocast_cache",
    "get_autocast_cpu_dtype",
    "get_autocast_dtype",
    "get_autocast_gpu_dtype",
    "is_autocast_available",
    "is_autocast_cache_enabled",
    "is_autocast_cpu_enabled",
    "is_autocast_enabled",
    "set_autocast_cache_enabled",
    "set_autocast_dtype",
    "set_autocast_enabled",
]

_LOWER_PRECISIONS = (bfloat16, float16)


class autocast:
    """A context manager and decorator: mixed precision on for one type of device.

    ``device_type``: "cpu" or "cuda"; ``dtype``: bfloat16 or float16, by default
    ``get_autocast_dtype(device_type)`` (bfloat16 on the CPU, float16 on CUDA).
    ``enabled=False`` switches it off within. ``cache_enabled``: cast each float32 parameter
    once in the outermost region. Warns, and does nothing, where CUDA is not available or
    the dtype is another. Raises RuntimeError for an unknown type of device.

    A backward pass belongs outside of the region: gradients arrive in the dtype of the
    parameter, whatever it was cast to.
    """

    def __init__(
        self,
        device_type: str,
        dtype: DType | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(
                f"autocast: device_type must be a str, not {type(device_type).__name__} "
                f"(at {user_location()})"
            )
        self.device_type = device_type
        self.dtype = get_autocast_dtype(device_type) if dtype is None else dtype
        self.cache_enabled = (
            thread.autocast.cache_enabled if cache_enabled is None else bool(cache_enabled)
        )
        self.enabled = bool(enabled)
        if not is_autocast_available(device_type):
            raise RuntimeError(_unknown("autocast", device_type))
        if self.enabled:
            self.enabled = _can_be_enabled(device_type, self.dtype)

    def _applied_to(self, state: AutocastState) -> AutocastState:
        state = state.with_dtype(self.device_type, self.dtype).with_cache(self.cache_enabled)
        return state.with_enabled(self.device_type, self.enabled)

    def __enter__(self) -> autocast:
        thread.autocast_regions.append(thread.autocast)
        thread.autocast = self._applied_to(thread.autocast)
        return self

    def __exit__(self, *_: object) -> None:
        thread.autocast = thread.autocast_regions.pop()
        if not thread.autocast_regions:
            clear_casts()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return wrapper


def _can_be_enabled(device_type: str, dtype: DType) -> bool:
    """Whether a region can do what it is for; warns if not."""
    if device_type == "cuda":
        from flamec.gpu import unavailable_reason  # loaded already: no file is read while tracing

        if unavailable_reason() is not None:
            warnings.warn("CUDA is not available. Disabling autocast.", stacklevel=3)
            return False
    if dtype not in _LOWER_PRECISIONS:
        warnings.warn(
            f"autocast on {device_type} computes in bfloat16 or float16, not in "
            f"{getattr(dtype, 'name', dtype)}. Disabling autocast.",
            stacklevel=3,
        )
        return False
    return True


def _unknown(name: str, device_type: Any) -> str:
    known = ", ".join(d for d, _ in thread.autocast.dtypes)
    return (
        f"{name}: unknown type of device {device_type!r}; autocast is for {known} "
        f"(at {user_location()})"
    )


def _require_known(name: str, device_type: str) -> str:
    if not is_autocast_available(device_type):
        raise RuntimeError(_unknown(name, device_type))
    return device_type


def is_autocast_available(device_type: str) -> bool:
    """Whether autocast exists for a type of device."""
    return any(device_type == known for known, _ in thread.autocast.dtypes)


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether functions on a type of device cast their operands now."""
    return _require_known("is_autocast_enabled", device_type) in thread.autocast.enabled


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Switch autocast on or off for a type of device, in this thread."""
    _require_known("set_autocast_enabled", device_type)
    thread.autocast = thread.autocast.with_enabled(device_type, bool(enabled))


def get_autocast_dtype(device_type: str) -> DType:
    """The lower precision on a type of device."""
    return thread.autocast.dtype(_require_known("get_autocast_dtype", device_type))


def get_autocast_cpu_dtype() -> DType:
    """PyTorch's older name of ``get_autocast_dtype("cpu")``."""
    return get_autocast_dtype("cpu")


def get_autocast_gpu_dtype() -> DType:
    """PyTorch's older name of ``get_autocast_dtype("cuda")``."""
    return get_autocast_dtype("cuda")


def is_autocast_cpu_enabled() -> bool:
    """PyTorch's older name of ``is_autocast_enabled("cpu")``."""
    return is_autocast_enabled("cpu")


def set_autocast_dtype(device_type: str, dtype: DType) -> None:
    """Choose the lower precision on a type of device, in this thread."""
    _require_known("set_autocast_dtype", device_type)
    if dtype not in _LOWER_PRECISIONS:
        raise TypeError(
            f"set_autocast_dtype: expected bfloat16 or float16, not {dtype!r} "
            f"(at {user_location()})"
        )
    thread.autocast = thread.autocast.with_dtype(device_type, dtype)


def is_autocast_cache_enabled() -> bool:
    """Whether casts of parameters are kept for the rest of a region."""
    return thread.autocast.cache_enabled


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Keep casts of parameters, or cast anew at each use."""
    thread.autocast = thread.autocast.with_cache(bool(enabled))


def clear_autocast_cache() -> None:
    """Forget the casts of parameters that are kept."""
    clear_casts()
