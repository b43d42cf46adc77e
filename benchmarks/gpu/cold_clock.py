"""Times calls on a GPU one by one, each with a cold cache.

They are timed by CUDA events in the stream that programs run in: flamec and PyTorch both use the
default one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

L2_BYTES = 256 << 20  # that are overwritten between calls


class ColdClock:
    """``calls``: how many are timed unless said otherwise."""

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._flushed = torch.empty(L2_BYTES // 4, device="cuda", dtype=torch.int32)

    def microseconds(self, call: Callable[[], Any], count: int | None = None) -> list[float]:
        marks = []
        for _ in range(self._calls if count is None else count):
            self._flushed.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            marks.append((start, stop))
        torch.cuda.synchronize()
        return [start.elapsed_time(stop) * 1e3 for start, stop in marks]
