"""Datasets of numbers for the tests of ``flamec.data``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

import flamec
from flamec.data import Dataset, IterableDataset, get_worker_info


class Numbers(Dataset[Any]):
    """Sample i is i, with random numbers from every source."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        drawn = [random.random(), np.random.rand(), flamec.rand(()).item()]
        return {"index": index, "drawn": np.array(drawn), "text": str(index)}


class Counting(IterableDataset[int]):
    """The numbers below ``count``, divided among the workers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        start, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(start, self.count, step))
