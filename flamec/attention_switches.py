"""PyTorch's switches between its kernels of attention, which can be set and choose nothing.

Attention is compiled for the arguments at hand, whatever it is written as; no kernel of PyTorch's
is there to be chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum

__all__ = ["SDPBackend", "sdpa_kernel", "switches"]


class SDPBackend(IntEnum):
    """PyTorch's kernels of ``scaled_dot_product_attention``."""

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


_NAMES = {
    SDPBackend.MATH: "math_sdp",
    SDPBackend.FLASH_ATTENTION: "flash_sdp",
    SDPBackend.EFFICIENT_ATTENTION: "mem_efficient_sdp",
    SDPBackend.CUDNN_ATTENTION: "cudnn_sdp",
}
_enabled = dict.fromkeys(_NAMES, True)


@contextmanager
def sdpa_kernel(
    backends: Sequence[SDPBackend] | SDPBackend, set_priority: bool = False
) -> Iterator[None]:
    """Have only these switched on within the block; AssertionError for what is none of them."""
    wanted = [backends] if isinstance(backends, SDPBackend) else backends
    if not isinstance(wanted, list) or not all(isinstance(b, SDPBackend) for b in wanted):
        raise AssertionError(
            "Backend must be an instance of SDPBackend or a list of SDPBackend instances, got "
            f"{type(backends).__name__}"
        )
    before = dict(_enabled)
    try:
        _enabled.update((backend, backend in wanted) for backend in _NAMES)
        yield
    finally:
        _enabled.update(before)


def switches() -> dict[str, Callable[..., object]]:
    """``enable_flash_sdp``, ``flash_sdp_enabled`` and their like."""
    found: dict[str, Callable[..., object]] = {}
    for backend, name in _NAMES.items():
        found[f"enable_{name}"] = _setter(backend)
        found[f"{name}_enabled"] = _getter(backend)
    return found


def _setter(backend: SDPBackend) -> Callable[[bool], None]:
    def enable(enabled: bool) -> None:
        """Switch a kernel of PyTorch's on or off, which changes nothing."""
        _enabled[backend] = bool(enabled)

    return enable


def _getter(backend: SDPBackend) -> Callable[[], bool]:
    def is_enabled() -> bool:
        """What it was switched to."""
        return _enabled[backend]

    return is_enabled
