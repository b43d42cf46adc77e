"""One batch from a dataset, with random numbers that depend on the batch alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np

from flamec.random import default_generator, get_rng_state, set_rng_state

__all__ = ["Exhausted", "Fetcher", "seed_all", "seed_of", "seeded"]


class Exhausted(Exception):
    """An iterable dataset has no more samples."""


class Fetcher:
    """Makes batches: samples fetched by number, or taken from an iterable dataset.

    ``fetch(task)``: a number, a list of numbers, or for an iterable dataset how many samples
    (None: one sample, not in a batch).
    """

    def __init__(
        self, dataset: Any, collate: Callable[[Any], Any], is_iterable: bool, drop_last: bool
    ) -> None:
        self.dataset = dataset
        self.collate = collate
        self.drop_last = drop_last
        self.samples: Iterator[Any] | None = iter(dataset) if is_iterable else None

    def fetch(self, task: Any) -> Any:
        if self.samples is not None:
            return self.collate(self._next(task))
        if not isinstance(task, list):
            return self.collate(self.dataset[task])
        several = getattr(self.dataset, "__getitems__", None)
        samples = several(task) if several else [self.dataset[i] for i in task]
        return self.collate(samples)

    def _next(self, count: int | None) -> Any:
        assert self.samples is not None
        found = list(islice(self.samples, 1 if count is None else count))
        if not found or (count is not None and len(found) < count and self.drop_last):
            raise Exhausted
        return found[0] if count is None else found


def seed_all(seed: int) -> None:
    """Seed the generators of ``random``, NumPy and flamec."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    default_generator.manual_seed(seed)


def seed_of(base: int, number: int) -> int:
    """The seed of batch ``number``: a finaliser of SplitMix64 (Steele et al. 2014) of both."""
    mask = (1 << 64) - 1
    mixed = (base + (number + 1) * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return (mixed ^ (mixed >> 31)) >> 1


@contextmanager
def seeded(base: int, number: int) -> Iterator[None]:
    """Random numbers in the block are those of the batch; afterwards all is as before."""
    states = random.getstate(), np.random.get_state(), get_rng_state()
    seed_all(seed_of(base, number))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        set_rng_state(states[2])
