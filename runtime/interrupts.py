"""Ctrl-C waits while memory is half written.

Python runs the handler of a signal between two of its instructions. A program whose run includes
Python code (a call of the host, a launch after the other) would be left half run, with some of its
parameters updated and others not; and an exception in a function that C code calls is lost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uninterrupted() -> Iterator[None]:
    """SIGINT's handler is called when the block is left, if the signal came meanwhile.

    Only the main thread runs handlers: on others there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        yield
        return
    came: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[-1])
