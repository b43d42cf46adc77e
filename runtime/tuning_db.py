"""The tuning database: which schedule was measured to be the fastest, kept on disk.

In: keys and measured schedules, both plain data. Out: the record in force for a key. Invariants:
a record that is there stays unless a more thorough search or the user replaces it, so
programs made from one database are always the same; processes may add at the same time
and nothing is lost; a file that was cut short or altered is noticed, set aside and begun anew.

One JSON file: ``{"format", "sha256" of the records, "records"}``. Exported files are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

from flamec.runtime.private_files import locked, private_folder, replace_file

FORMAT = "flamec tuning 1"
MODES = ("fast", "max")  # each more thorough than the one before
_MOST_RECORDS = 1 << 16
_LOCK_NAME = "tuning.lock"

Schedule = Mapping[str, int | bool | str]


class TuningWarning(UserWarning):
    """The tuning database could not be used as asked."""


class TuningFileError(ValueError):
    """A file is not a tuning database, or a damaged one."""


@dataclass(frozen=True, slots=True)
class TuningKey:
    """What a measurement holds for.

    ``kernel``: hash of what is computed, without names and sizes; ``bucket``: its sizes, rounded;
    ``dtype``: the types in memory; ``device``: name and architecture; ``triton``: the version;
    ``generator``: hash of the code that turns schedules into kernels.
    """

    kernel: str
    bucket: str
    dtype: str
    device: str
    triton: str
    generator: str


@dataclass(frozen=True, slots=True)
class TuningRecord:
    """A schedule and how it was found.

    ``seconds`` of a run on the device, ``heuristic_seconds`` with the schedule by rule of thumb
    (both None: too little work to measure). ``tried``: how many schedules were measured.
    ``mode``: the search, one of ``MODES``. ``label`` is for people.
    """

    key: TuningKey
    schedule: Schedule
    seconds: float | None
    heuristic_seconds: float | None
    tried: int
    mode: str
    label: str = field(default="", compare=False)


class TuningDatabase:
    """Records in a cache folder, shared by threads and processes."""

    def __init__(self, cache_folder: Path) -> None:
        self.path = cache_folder / "tuning" / "tuning.json"
        self._lock = threading.RLock()
        self._records: dict[TuningKey, TuningRecord] = {}
        self._seen: tuple[int, ...] | None = None  # the state of the file that was read
        self._on_disk = True
        self._holding = False  # the lock on the file
        if self.path.parent.exists():
            with self._disk():
                self._make_folder()

    # reading ----------------------------------------------------------------------------

    def find(self, key: TuningKey) -> TuningRecord | None:
        """The record for a key, with what other processes have added."""
        with self._lock:
            self._refresh()
            return self._records.get(key)

    def records(self) -> list[TuningRecord]:
        """All records, in the order in which they were added."""
        with self._lock:
            self._refresh()
            return list(self._records.values())

    # writing ----------------------------------------------------------------------------

    def add(self, records: Iterable[TuningRecord], replace: bool = False) -> list[TuningRecord]:
        """Add records; those that are in force afterwards for their keys, in the same order.

        What is there stays unless the new record's search was more thorough, or ``replace``.
        """
        new = list(records)
        with self._lock:
            if not self._on_disk:
                self._merge(new, replace)
                return [self._records[record.key] for record in new]
            with self._disk():
                with self._file_lock():
                    self._refresh()
                    self._merge(new, replace)
                    replace_file(self.path, dump_records(self._records.values()))
                    self._seen = _state(self.path)
                return [self._records[record.key] for record in new]
            return self.add(new, replace)  # from now on in memory

    def clear(self) -> int:
        """Remove all records; how many there were."""
        with self._lock:
            count = len(self.records())
            self._records.clear()
            with self._disk():
                if self.path.parent.exists():
                    with self._file_lock():
                        self.path.unlink(missing_ok=True)
                self._seen = None
            return count

    def export_to(self, path: Path) -> int:
        """Write all records into a file; how many. OSError if it cannot be written."""
        records = self.records()
        path.write_bytes(dump_records(records))
        return len(records)

    def import_from(self, path: Path, replace: bool = False) -> tuple[int, int]:
        """Add the records of an exported file: how many there are, and how many are new.

        ``replace``: they win over what is there. TuningFileError for another kind of file or a
        damaged one, OSError if it cannot be read.
        """
        records = parse_records(path.read_bytes())
        with self._lock:
            before = {record.key: record for record in self.records()}
            self.add(records, replace)
            changed = sum(self._records[r.key] != before.get(r.key) for r in records)
        return len(records), changed

    def _merge(self, records: Iterable[TuningRecord], replace: bool) -> None:
        for record in records:
            old = self._records.get(record.key)
            if old is not None and not replace:
                if MODES.index(record.mode) <= MODES.index(old.mode):
                    continue
                del self._records[record.key]
            self._records[record.key] = record
        for key in list(self._records)[: max(0, len(self._records) - _MOST_RECORDS)]:
            del self._records[key]  # the oldest

    # the file ---------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Take over what is in the file if it changed."""
        if not self._on_disk:
            return
        state = _state(self.path)
        if state == self._seen:
            return
        try:
            records = [] if state is None else parse_records(self.path.read_bytes())
        except FileNotFoundError:
            records = []
        except OSError as error:
            self._leave_disk(error)
            return
        except TuningFileError:
            records = self._set_aside()
        self._records = {record.key: record for record in records}
        self._seen = state

    def _set_aside(self) -> list[TuningRecord]:
        """Rename the file unless another process did so meanwhile; the records in the new one."""
        records: list[TuningRecord] = []
        with self._disk(), self._file_lock():
            try:
                records = parse_records(self.path.read_bytes())
            except FileNotFoundError:
                pass
            except TuningFileError as error:
                aside = self.path.with_suffix(".damaged")
                self.path.replace(aside)
                warnings.warn(
                    f"the tuning database {self.path} is damaged ({error}); it is now {aside}, "
                    f"and a new one is begun",
                    TuningWarning,
                    stacklevel=4,
                )
        return records

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Do something with the folder; if that fails, go on without it, and say so once."""
        try:
            yield
        except OSError as error:
            self._leave_disk(error)

    def _leave_disk(self, error: OSError) -> None:
        if self._on_disk:
            self._on_disk = False
            warnings.warn(
                f"the tuning database {self.path} cannot be used ({error}); what this process "
                f"measures is lost when it ends",
                TuningWarning,
                stacklevel=5,
            )

    def _make_folder(self) -> None:
        for folder in (self.path.parent.parent, self.path.parent):
            private_folder(folder)

    @contextlib.contextmanager
    def _file_lock(self) -> Iterator[None]:
        """Keep other processes from writing; may be entered again by its holder."""
        if self._holding:
            yield
            return
        self._make_folder()
        handle = locked(self.path.with_name(_LOCK_NAME))
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            os.close(handle)


def _state(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is replaced; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


# text -----------------------------------------------------------------------------------


def dump_records(records: Iterable[TuningRecord]) -> bytes:
    """Records as the content of a file."""
    data = [asdict(record) for record in records]
    text = {"format": FORMAT, "sha256": _digest(data), "records": data}
    return (json.dumps(text, indent=1) + "\n").encode()


def parse_records(content: bytes) -> list[TuningRecord]:
    """The inverse of ``dump_records``; TuningFileError for anything else."""
    try:
        data = json.loads(content)
    except ValueError as error:
        raise TuningFileError(f"not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise TuningFileError(f"not in the format {FORMAT!r}")
    if not isinstance(data.get("records"), list) or data.get("sha256") != _digest(data["records"]):
        raise TuningFileError("the records do not have the checksum that the file names")
    return [_record(record) for record in data["records"]]


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _record(data: Any) -> TuningRecord:
    """A record from JSON, every field of the right type."""
    try:
        record = TuningRecord(**{**data, "key": TuningKey(**data["key"])})
    except (TypeError, KeyError) as error:
        raise TuningFileError(f"a record does not have the right fields: {error}") from error
    texts = (*astuple(record.key), record.mode, record.label)
    times = (record.seconds, record.heuristic_seconds)
    right = (
        all(isinstance(text, str) for text in texts)
        and all(time is None or isinstance(time, (int, float)) for time in times)
        and isinstance(record.tried, int)
        and record.mode in MODES
        and isinstance(record.schedule, dict)
        and all(isinstance(value, (int, str)) for value in record.schedule.values())
    )
    if not right:
        names = ", ".join(f.name for f in fields(TuningRecord))
        raise TuningFileError(f"a record has a field of a wrong type (of {names}): {data}")
    return record
