"""What programs ask before they decide to run on one device: ``torch.distributed``.

flamec computes with one process and one device, so both answers are no. What programs import for
the case of several is there to be imported, and refuses to be called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

__all__ = ["is_available", "is_initialized"]


def is_available() -> bool:
    """Whether processes can work together: never."""
    return False


def is_initialized() -> bool:
    """Whether this process works with others: never."""
    return False


_OF_SEVERAL = (
    "all_gather", "all_gather_into_tensor", "all_gather_object", "all_reduce", "barrier",
    "broadcast", "broadcast_object_list", "destroy_process_group", "gather", "get_backend",
    "get_rank", "get_world_size", "init_process_group", "irecv", "isend", "monitored_barrier",
    "new_group", "recv", "reduce", "reduce_scatter", "scatter", "send",
)  # fmt: skip


def refusal(name: str) -> RuntimeError:
    """The error of asking for what takes several processes or devices."""
    return RuntimeError(
        f"{name}: flamec computes with one process on one device; ask "
        "distributed.is_available() or is_initialized() first"
    )


def _refusing(name: str) -> Callable[..., NoReturn]:
    def function(*_: Any, **__: Any) -> NoReturn:
        raise refusal(name)

    function.__name__ = function.__qualname__ = name
    return function


def __getattr__(name: str) -> Any:
    if name in _OF_SEVERAL:
        return _refusing(name)
    raise AttributeError(
        f"module 'flamec.distributed' has no attribute {name!r}: flamec computes with one process "
        "on one device"
    )
