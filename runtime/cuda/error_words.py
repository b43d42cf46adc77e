"""Words in which kernels report what went wrong.

In: plans that have an error buffer. Out: an address for each, in pinned host memory, and the
exceptions of words that are not 0. A kernel writes a word only where something is wrong, with
one store, and goes on; so nothing is copied or waited for on the way to a check, which is right
for all work that the host has waited for.

A word holds the code of the error (see ``ExecutionPlan.errors``) above ``DETAIL_BITS`` bits of the
number that belongs to it, such as an index, as far as that fits.
"""

from __future__ import annotations

import threading

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.runtime.cuda.host_memory import pinned_pool
from flamec.runtime.program_errors import program_error

DETAIL_BITS = 48
_WORDS = 512  # of a block: the smallest piece of pinned memory


class ErrorWords:
    """The words of all programs of the process; get it from ``error_words``."""

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, int]] = []
        self._plans: list[ExecutionPlan] = []
        self._lock = threading.Lock()

    def add(self, plan: ExecutionPlan) -> int:
        """The address of a word for a plan's programs; never used for another plan."""
        with self._lock:
            block, position = divmod(len(self._plans), _WORDS)
            if block == len(self._blocks):
                memory, address = pinned_pool().empty(8 * _WORDS)
                words = memory.view(np.int64)
                words[:] = 0
                self._blocks.append((words, address))
            self._plans.append(plan)
            return self._blocks[block][1] + 8 * position

    def take(self) -> Exception | None:
        """The error of the first word that is not 0; all words are 0 afterwards."""
        for number, (words, _) in enumerate(self._blocks):
            if not words.any():
                continue
            with self._lock:
                (position, *_) = np.flatnonzero(words).tolist()
                code, detail = split_word(int(words[position]))
                for later, _ in self._blocks[number:]:
                    later[:] = 0
                return program_error(self._plans[_WORDS * number + position], code, detail)
        return None


def split_word(word: int) -> tuple[int, int]:
    """Code and detail of a word."""
    detail = word & ((1 << DETAIL_BITS) - 1)
    if detail >> (DETAIL_BITS - 1):
        detail -= 1 << DETAIL_BITS
    return word >> DETAIL_BITS, detail


_words = ErrorWords()


def error_words() -> ErrorWords:
    """The process's words."""
    return _words
