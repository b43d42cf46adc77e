"""DataLoader: batches of a dataset, made in this process or in workers, in the sampler's order.

Random numbers that a dataset draws (from flamec, NumPy or ``random``) depend on the loader's
seed and the batch's number alone, so the batches are the same whatever the number of
workers. With workers, ``prefetch_factor`` batches are under way in each.
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

from flamec import gpu
from flamec.data.collate import default_collate, default_convert
from flamec.data.dataset import IterableDataset
from flamec.data.fetch import Exhausted, Fetcher, seeded
from flamec.data.sampler import BatchSampler, RandomSampler, SequentialSampler, new_seed
from flamec.data.worker import WorkerSettings
from flamec.data.worker_batches import WorkerBatches
from flamec.data.workers import Workers
from flamec.pinning import pinned
from flamec.random import Generator

__all__ = ["DataLoader"]


class DataLoader:
    """Iterates over a dataset in batches; arguments as PyTorch's.

    ``num_workers`` processes make batches ahead of time (0: made in this process when they are
    asked for). Where a worker's batch has large arrays they arrive in shared memory.
    ``pin_memory``: batches are in pinned memory, from which ``to("cuda", non_blocking=True)``
    does not wait; a worker's batch is copied there while the one before it is used. Without a GPU
    that is a warning.

    Raises ValueError for arguments that exclude each other. While iterating: the dataset's
    exception with the worker's traceback; RuntimeError if a worker dies (with its signal or
    exit code) or is slower than ``timeout`` seconds.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers < 0:
            raise ValueError(
                "num_workers option should be non-negative; use num_workers=0 to disable "
                "multiprocessing."
            )
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if num_workers == 0 and prefetch_factor is not None:
            raise ValueError(
                "prefetch_factor option could only be specified in multiprocessing.let "
                "num_workers > 0 to enable multiprocessing, otherwise set prefetch_factor to None."
            )
        if prefetch_factor is not None and prefetch_factor < 1:
            raise ValueError("prefetch_factor option should be non-negative")
        if persistent_workers and num_workers == 0:
            raise ValueError("persistent_workers option needs num_workers > 0")
        if num_workers == 0 and multiprocessing_context is not None:
            raise ValueError(
                "multiprocessing_context can only be used with multi-process loading (num_workers "
                f"> 0), but got num_workers={num_workers}"
            )
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.pin_memory = pin_memory
        self.pin_memory_device = pin_memory_device
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.persistent_workers = persistent_workers
        self.generator = generator
        self.in_order = in_order
        self._is_iterable = isinstance(dataset, IterableDataset)
        self.multiprocessing_context = _context(multiprocessing_context)
        self._set_sampling(batch_size, shuffle, sampler, batch_sampler, drop_last)
        if collate_fn is None:
            collate_fn = default_convert if self.batch_sampler is None else default_collate
        self.collate_fn = collate_fn
        self._kept: Workers | None = None
        self._current: WorkerBatches | None = None

    def _set_sampling(
        self, batch_size: Any, shuffle: Any, sampler: Any, batch_sampler: Any, drop_last: bool
    ) -> None:
        if self._is_iterable:
            for name, value in (("shuffle", shuffle or None), ("sampler", sampler)):
                if value is not None:
                    raise ValueError(
                        "DataLoader with IterableDataset: expected unspecified "
                        f"{name} option, but got {name}={value}"
                    )
            if batch_sampler is not None:
                raise ValueError(
                    "DataLoader with IterableDataset: expected unspecified batch_sampler option, "
                    f"but got batch_sampler={batch_sampler}"
                )
        elif shuffle not in (None, True, False):
            raise ValueError(f"shuffle should be True or False, but got {shuffle}")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, "
                    "and drop_last"
                )
            batch_size, drop_last = None, False
        elif batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with "
                "drop_last"
            )
        if sampler is None:
            if self._is_iterable:
                sampler = repeat(None)
            elif shuffle:
                sampler = RandomSampler(self.dataset, generator=self.generator)
            else:
                sampler = SequentialSampler(self.dataset)
        if batch_size is not None and batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler: Any = sampler
        self.batch_sampler: Any = batch_sampler

    def __len__(self) -> int:
        """The number of batches; TypeError for an iterable dataset without a length."""
        if self._is_iterable:
            count = len(self.dataset)
            if self.batch_size is None:
                return count
            rest = 0 if self.drop_last else self.batch_size - 1
            return (count + rest) // self.batch_size
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        pins = self.pin_memory and bool(gpu.device_count())
        if self.pin_memory and not pins:
            warnings.warn(
                "'pin_memory' argument is set as true but no accelerator is found, then device "
                "pinned memory won't be used.",
                stacklevel=2,
            )
        if self.num_workers:
            return self._by_workers(pins)
        batches = self._in_this_process()
        return map(pinned, batches) if pins else batches

    def _by_workers(self, pins: bool) -> WorkerBatches:
        if self._current is not None:
            self._current.abandon()
        workers = self._kept
        seed = new_seed(self.generator)
        if workers is None or workers.is_closed:
            workers = self._start(seed)
            if self.persistent_workers:
                self._kept = workers
        current = WorkerBatches(
            workers,
            self._tasks(),
            seed,
            ahead=(self.prefetch_factor or 1) * self.num_workers,
            pins=pins,
            keeps_workers=self.persistent_workers,
            count=self.__len__,
        )
        if self.persistent_workers:
            self._current = current
        return current

    # making batches --------------------------------------------------------------------
    def _tasks(self) -> Iterator[Any]:
        """What is to be fetched for each batch (see ``Fetcher.fetch``)."""
        if self._is_iterable:
            return repeat(self.batch_size)
        return iter(self.sampler if self.batch_sampler is None else self.batch_sampler)

    def _in_this_process(self) -> Iterator[Any]:
        seed = new_seed(self.generator)
        fetcher: Fetcher | None = None
        for number, task in enumerate(self._tasks()):
            try:
                with seeded(seed, number):
                    if fetcher is None:
                        fetcher = Fetcher(
                            self.dataset, self.collate_fn, self._is_iterable, self.drop_last
                        )
                    batch = fetcher.fetch(task)
            except Exhausted:
                return
            yield batch

    def _start(self, seed: int) -> Workers:
        settings = [
            WorkerSettings(
                number,
                self.num_workers,
                self.dataset,
                self.collate_fn,
                self._is_iterable,
                self.drop_last,
                self.worker_init_fn,
                seed + number,
            )
            for number in range(self.num_workers)
        ]
        return Workers(settings, self.multiprocessing_context, self.timeout)


def _context(given: Any) -> Any:
    if given is None:
        return multiprocessing.get_context()
    if isinstance(given, str):
        if given not in multiprocessing.get_all_start_methods():
            raise ValueError(
                "multiprocessing_context option should specify a valid start method in "
                f"{multiprocessing.get_all_start_methods()!r}, but got "
                f"multiprocessing_context={given!r}"
            )
        return multiprocessing.get_context(given)
    return given
