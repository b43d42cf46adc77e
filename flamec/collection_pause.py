"""Python's cyclic garbage collector rests while a program is compiled.

Compilation makes many objects that live until it ends, and the collector would look at all of them
again and again: a fifth of the time for a network of fifty layers. Afterwards they are among the
old ones, which it looks at when there are many more: most of them are part of the program.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flamec.runtime.fork_locks import held_in_forks

_lock = held_in_forks(threading.Lock())
_resting: list[int] = []  # the threads that compile
_was_enabled = False


@contextmanager
def collector_rests() -> Iterator[None]:
    """Without collections until the last thread that asked for it is done; then as before."""
    global _was_enabled
    with _lock:
        if not _resting:
            _was_enabled = gc.isenabled()
            gc.disable()
        _resting.append(threading.get_ident())
    try:
        yield
    finally:
        with _lock:
            _resting.remove(threading.get_ident())
            if not _resting and _was_enabled:
                if not gc.get_freeze_count():  # else what somebody froze would be thawed, too
                    gc.freeze()
                    gc.unfreeze()
                gc.enable()


def _in_child() -> None:
    """The threads that are not there any more do not end their compilations."""
    own = threading.get_ident()
    if _resting and own not in _resting and _was_enabled:
        gc.enable()
    _resting[:] = [thread for thread in _resting if thread == own]


os.register_at_fork(after_in_child=_in_child)
