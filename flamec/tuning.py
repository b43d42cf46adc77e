"""Schedules of GPU programs: from the tuning database, measured where the options ask for it.

In: lowered kernels, or the parts that a program was once made of. Out: schedules, for the code
generator and for cache keys. Invariants: with one state of the database a program always gets
the same schedules; a program whose parts are all known is found without generating anything.
"""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flamec.codegen.triton
from flamec.codegen.options import CodegenOptions, Schedule
from flamec.config import CompileOptions
from flamec.ir.passes.plan_memory import plan_memory
from flamec.progress import progress_line
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.timing import PlanTimer, TimedPlan
from flamec.runtime.cuda.triton_compiler import triton_version
from flamec.runtime.tuning_db import MODES, TuningDatabase, TuningKey, TuningRecord, TuningWarning

if TYPE_CHECKING:
    from flamec.codegen.lower.group import LoweredKernel
    from flamec.codegen.triton.part_key import PartKey
    from flamec.codegen.triton.trial import Trial

PARTS_KIND = "parts"
Schedules = Mapping[str, Mapping[str, Any]]  # as plain data, by part

_measuring = threading.Lock()  # programs timed side by side would tell nothing


class Tuning:
    """The schedules of one device."""

    def __init__(self, gpu: CudaDevice, options: CompileOptions) -> None:
        self._gpu = gpu
        self._mode = options.autotune
        self._device = f"{gpu.properties.name} {gpu.target}"
        self.database = TuningDatabase(options.cache_folder)

    # of a program seen before -----------------------------------------------------------

    def remembered_parts(self, program: str) -> list[str] | None:
        """The parts of a program (by its cache key) that was generated before."""
        content = self._gpu.cache.read(program, PARTS_KIND)
        return None if content is None else [str(part) for part in json.loads(content)]

    def remember_parts(self, program: str, parts: Sequence[str]) -> None:
        """Keep the parts for ``remembered_parts``."""
        self._gpu.cache.put(program, PARTS_KIND, json.dumps(parts).encode())

    def has_work(self, parts: Sequence[str]) -> bool:
        """Whether the options ask to measure schedules that the database does not have."""
        if self._mode == "off":
            return False
        return any("?" not in part and self._record(part) is None for part in parts)

    def stored(self, parts: Sequence[str]) -> Schedules:
        """The schedules that the database has for some of the parts."""
        records = {part: self.database.find(self._key(part)) for part in parts}
        return {part: record.schedule for part, record in records.items() if record is not None}

    # of a program to be generated -------------------------------------------------------

    def select(
        self, kernels: Sequence[LoweredKernel], codegen: CodegenOptions
    ) -> tuple[dict[str, Schedule], list[str]]:
        """Schedules for the kernels and the parts that were looked up, measured if need be.

        ``"?"`` in a part says that a size is not known, so that nothing can be measured.
        """
        from flamec.codegen.autotune import MOST_TRIED, select_schedules

        found = select_schedules(kernels, codegen, self._known)
        parts = [key.text for key in found.parts]
        if self.has_work(parts):
            with _measuring:
                timer = _GroupTimer(self._gpu)
                most = MOST_TRIED[self._mode]
                tuned = select_schedules(kernels, codegen, self._known, timer, most).tuned
            data = plain({t.key.text: t.schedule for t in tuned})
            self.database.add(
                TuningRecord(
                    self._key(t.key.text),
                    data[t.key.text],
                    t.seconds,
                    t.heuristic_seconds,
                    t.tried,
                    self._mode,
                    t.label,
                )
                for t in tuned
                if t.seconds is not None or not t.tried
            )
            found = select_schedules(kernels, codegen, self._stored)
            parts = [key.text for key in found.parts]
        return found.schedules, parts

    def _known(self, key: PartKey) -> Schedule | None:
        """The schedule that needs no search, given the options."""
        record = self._record(key.text)
        return None if record is None else _schedule(record)

    def _stored(self, key: PartKey) -> Schedule | None:
        record = self.database.find(self._key(key.text))
        return None if record is None else _schedule(record)

    def _record(self, part: str) -> TuningRecord | None:
        """What the database has, if the search was as thorough as the options ask for."""
        record = self.database.find(self._key(part))
        if record is None or self._mode == "off":
            return record
        return record if MODES.index(record.mode) >= MODES.index(self._mode) else None

    def _key(self, part: str) -> TuningKey:
        kernel, bucket, dtype = part.split(" ")
        return TuningKey(kernel, bucket, dtype, self._device, triton_version(), generator_version())


class _GroupTimer:
    """Times the trials of a search on a device, with a line on the terminal."""

    def __init__(self, gpu: CudaDevice) -> None:
        self._gpu = gpu
        self._timer: PlanTimer | None = None

    def __call__(self, groups: Sequence[Sequence[Trial]]) -> list[list[float]]:
        if self._timer is None:
            self._timer = PlanTimer(self._gpu, plan_memory)
        plans = [[TimedPlan(t.plan, t.sizes, t.index_bound) for t in group] for group in groups]
        with progress_line("compiling", "kernels to choose from") as progress:
            self._timer.compile(plans, progress)
        with progress_line("tuning", "kernels") as progress:
            return self._timer.time(plans, progress)


@cache
def generator_version() -> str:
    """Identifies the code that turns schedules into kernels, wherever it is installed."""
    digest = hashlib.sha256()
    for folder in flamec.codegen.triton.__path__:
        for file in sorted(Path(folder).rglob("*")):
            if file.suffix in (".py", ".j2"):
                digest.update(f"{file.name}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def program_key(program: str, parts: Sequence[str], schedules: Schedules) -> str:
    """The cache key of a program made of these parts with these schedules."""
    text = json.dumps([program, *((part, schedules.get(part)) for part in parts)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(schedules: Mapping[str, Schedule]) -> Schedules:
    """Schedules as plain data."""
    from flamec.codegen.triton.choice import schedule_data

    return {part: schedule_data(schedule) for part, schedule in schedules.items()}


def _schedule(record: TuningRecord) -> Schedule | None:
    """A record's schedule; None with a warning for one that nobody can use."""
    from flamec.codegen.triton.choice import schedule_from

    try:
        return schedule_from(record.schedule)
    except ValueError as error:
        warnings.warn(
            f"the tuning database has {error} for {record.key}; it is not used",
            TuningWarning,
            stacklevel=2,
        )
        return None
