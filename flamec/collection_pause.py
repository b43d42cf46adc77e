"""Python's cyclic garbage collector rests while a program is compiled.

Compilation makes many objects that live until it ends, and the collector would look at all of them
again and again: a fifth of the time for a network of fifty layers. Afterwards they are among the
old ones, which it looks at when there are many more: most of them are part of the program.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_resting = 0  # how many threads compile
_was_enabled = False


@contextmanager
def collector_rests() -> Iterator[None]:
    """Without collections until the last thread that asked for it is done; then as before."""
    global _resting, _was_enabled
    with _lock:
        if not _resting:
            _was_enabled = gc.isenabled()
            gc.disable()
        _resting += 1
    try:
        yield
    finally:
        with _lock:
            _resting -= 1
            if not _resting and _was_enabled:
                if not gc.get_freeze_count():  # else what somebody froze would be thawed, too
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()
