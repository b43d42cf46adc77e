"""Arrays beside memory that nobody may read or write: who does is ended by the system."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np


class Fenced:
    """Copies of arrays that touch memory which nobody may read, at their end or at their begin."""

    def __init__(self) -> None:
        self._maps: list[mmap.mmap] = []

    def copy(self, array: np.ndarray, at_end: bool) -> np.ndarray:
        pages = -(-max(array.nbytes, 1) // mmap.PAGESIZE)
        self._maps.append(mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE))
        whole = np.frombuffer(self._maps[-1], np.uint8)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for page in (0, pages + 1):
            address = ctypes.c_void_p(whole.ctypes.data + page * mmap.PAGESIZE)
            assert protect(address, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        start = (pages + 1) * mmap.PAGESIZE - array.nbytes if at_end else mmap.PAGESIZE
        inside = whole[start : start + array.nbytes].view(array.dtype)
        inside[:] = array
        return inside
