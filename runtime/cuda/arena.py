"""Device memory that the programs of one thread and stream share, one after the other.

In: a stream. Out: its ``Arena``: memory for temporaries, whose contents nobody keeps, and counters,
words that are zero whenever none of the stream's kernels runs.
"""

from __future__ import annotations

import threading

from flamec.runtime.cuda.memory import Allocation, device_pool
from flamec.runtime.cuda.stream import Stream
from flamec.runtime.cuda.transfer import fill_bytes

_STEP = 2 << 20
_COUNTERS = 4096  # at first
_WORD = 4


class Arena:
    """Growing device memory. ``generation`` changes when some of it moves."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._memory: Allocation | None = None
        self._words: Allocation | None = None
        self.address = self.counters = 0
        self.generation = 0

    def reserve(self, nbytes: int, words: int = 0) -> None:
        """Have at least so many bytes at ``address``, and so many counters at ``counters``."""
        pool = device_pool(self._stream.device_index)
        if nbytes and (self._memory is None or nbytes > self._memory.nbytes):
            self._memory = None  # give back first: both need not fit
            self.generation += 1
            memory = pool.allocate(-(-nbytes // _STEP) * _STEP, self._stream)
            self.address = memory.address
            self._memory = memory
        if words and (self._words is None or _WORD * words > self._words.nbytes):
            self._words = None
            self.generation += 1
            nbytes = _WORD * max(words, _COUNTERS)
            memory = pool.allocate(nbytes, self._stream)
            self.counters = memory.address
            fill_bytes(self.counters, 0, nbytes, self._stream)
            self._words = memory  # not before they are zero


class _Arenas(threading.local):
    def __init__(self) -> None:
        self.by_stream: dict[tuple[int, int], Arena] = {}


_arenas = _Arenas()


def arena_of(stream: Stream) -> Arena:
    """The calling thread's arena for a stream."""
    key = (stream.device_index, stream.cuda_stream)
    arena = _arenas.by_stream.get(key)
    if arena is None:
        arena = _arenas.by_stream[key] = Arena(stream)
    return arena


def release_arenas() -> None:
    """Give the calling thread's arenas back; programs get new ones when they run."""
    _arenas.by_stream.clear()
