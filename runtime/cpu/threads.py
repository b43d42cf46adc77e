"""The thread pool of ``threads.c`` and how many threads it should have.

In: a function that compiles and loads a C file. Out: the address of ``parallel_for``. The pool's
state lives in the loaded library, so there is one pool for each copy of it in the process.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path


class ThreadPool:
    """The loaded pool. Workers start with the first loop that is worth them, and sleep between.

    ``parallel_for`` is the address for ``FlamecRuntime``; ``enter`` runs a program with the
    number of threads that its ``ProgramEntry`` names. ``clock`` is the address of a function that
    gives nanoseconds, those of ``time.perf_counter_ns``.
    """

    def __init__(self, load_file: Callable[[Path], ctypes.CDLL]) -> None:
        self.library = load_file(Path(__file__).with_name("threads.c"))
        self.library.flamec_workers.restype = ctypes.c_int64
        self.enter = self.library.flamec_enter
        self.enter.restype = ctypes.c_int64
        self.parallel_for = self._address("flamec_parallel_for")
        self.clock = self._address("flamec_nanoseconds")

    def _address(self, name: str) -> int:
        address = ctypes.cast(self.library[name], ctypes.c_void_p).value
        assert address is not None
        return address

    @property
    def workers(self) -> int:
        """How many worker threads this process has started."""
        return int(self.library.flamec_workers())


def available_cpus(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors that this process may keep busy: its affinity mask and its cgroup's quota."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(cgroup_root)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Processors' worth of time that the cgroup grants (version 2 or 1), None without a limit."""
    limits = []
    for folder in _own_groups(root):
        text = _read(folder / "cpu.max")  # version 2: "QUOTA PERIOD" or "max PERIOD"
        if text is not None:
            quota, _, period = text.partition(" ")
            if quota != "max":
                limits.append(int(quota) / int(period or 100000))
            continue
        first, second = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if first is not None and second is not None and int(first) > 0:
            limits.append(int(first) / int(second))
    return min(limits, default=None)


def _own_groups(root: Path) -> list[Path]:
    """The folders of this process's cgroup and of those around it."""
    folders = {root, root / "cpu"}
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, controllers, name = line.split(":", 2)
        base = (
            root if not controllers else root / "cpu" if "cpu" in controllers.split(",") else None
        )
        if base is None:
            continue
        path = base / name.strip("/")
        folders.update(part for part in (path, *path.parents) if part.is_relative_to(base))
    return sorted(folder for folder in folders if folder.is_dir())


def _read(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None
