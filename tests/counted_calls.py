"""Which functions a call calls: what is counted instead of timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def called_by(run: Callable[[], object]) -> list[str]:
    """The names of the functions in Python and C that ``run()`` calls, itself included."""
    names: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname)
        elif event == "c_call":
            names.append(argument.__qualname__)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return names[: names.index("setprofile")]
