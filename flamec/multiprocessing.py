"""Python's ``multiprocessing``, for programs that write ``import torch.multiprocessing as mp``.

Tensors are copied to other processes, not shared with them.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing import *  # noqa: F403
from typing import Any

__all__ = [*multiprocessing.__all__, "spawn"]


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> list[Any] | None:
    """Run ``fn(i, *args)`` in ``nprocs`` new processes, i from 0. With ``join`` wait for all:
    RuntimeError if one fails; else the processes, as a list."""
    context: Any = multiprocessing.get_context(start_method)
    processes = [context.Process(target=fn, args=(i, *args), daemon=daemon) for i in range(nprocs)]
    for process in processes:
        process.start()
    if not join:
        return processes
    for process in processes:
        process.join()
    failed = [i for i, process in enumerate(processes) if process.exitcode]
    if failed:
        codes = ", ".join(f"{i} with exit code {processes[i].exitcode}" for i in failed)
        raise RuntimeError(f"multiprocessing.spawn: of {nprocs} processes failed {codes}")
    return None
