"""Which functions a call calls: what is counted instead of timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def called_by(run: Callable[[], object], only_python: bool = False) -> list[str]:
    """The names of the functions in Python and C that ``run()`` calls, itself included.

    ``only_python``: no functions in C, and no comprehensions, which are functions before 3.12.
    """
    names: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            name = frame.f_code.co_qualname
            if not only_python or not name.endswith(("comp>", "<genexpr>")):
                names.append(name)
        elif event == "c_call" and (not only_python or argument is sys.setprofile):
            names.append(argument.__qualname__)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return names[: names.index("setprofile")]
