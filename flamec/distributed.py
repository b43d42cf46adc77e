"""What programs ask before they decide to run on one device: ``torch.distributed``.

flamec computes with one process and one device, so both answers are no; whatever else a program
asks for is refused by name.
"""

from __future__ import annotations

from typing import Any

__all__ = ["is_available", "is_initialized"]


def is_available() -> bool:
    """Whether processes can work together: never."""
    return False


def is_initialized() -> bool:
    """Whether this process works with others: never."""
    return False


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module 'flamec.distributed' has no attribute {name!r}")
    raise AttributeError(
        f"flamec.distributed has no {name!r}: flamec computes with one process on one device; "
        "ask is_available() or is_initialized() first"
    )
