"""A folder of compiled things, addressed by the hash of what they were made from.

In: a key (hexadecimal), a kind (``"so"``, ``"plan"``) and a function that makes the bytes.
Out: the path of a file whose content was checked. Invariants: an entry appears whole or not
at all; processes that want the same entry build it once; a file that was cut short or
altered is built again; only the owner can write the folder, and nothing is unpickled.

An entry is two files, ``KEY.KIND`` and ``KEY.KIND.meta`` (JSON: size, SHA-256, facts).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flamec.runtime.private_files import WRITING, locked, private_folder, replace_file

_KEY = re.compile(r"[0-9a-f]{16,128}\Z")
_KIND = re.compile(r"[a-z]{1,16}\Z")
_STALE_SECONDS = 3600.0
_SLACK = 1 / 64
_LOADS = 8  # how often an entry is built that others remove before it is loaded
PORTABLE = "portable"  # the fact that names an entry on every machine, if its key does not

T = TypeVar("T")


class CacheWarning(UserWarning):
    """The cache folder cannot be used as asked; work goes on without it."""


class CacheError(OSError):
    """What is needed as a file can be written nowhere."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry as ``entries`` lists it; ``last_used`` is in seconds since the epoch."""

    key: str
    kind: str
    size: int
    last_used: float
    facts: Mapping[str, Any]


class KernelCache:
    """A content-addressed cache on disk, safe with many threads and processes.

    ``left``: why ``folder`` is not written any more, None while it is.
    """

    def __init__(self, folder: Path, max_bytes: int = 1 << 30) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.left: OSError | None = None
        self._private: Path | None = None
        self._readable = True
        try:
            private_folder(folder)
        except OSError as error:
            self._readable = False
            self._leave_folder(error)

    # reading ----------------------------------------------------------------------------

    def get(self, key: str, kind: str) -> Path | None:
        """The checked file of an entry, or None if there is none that is whole."""
        found = self._whole(key, kind)
        return None if found is None else found[0]

    def read(self, key: str, kind: str) -> bytes | None:
        """The content of an entry, or None."""
        found = self._whole(key, kind)
        return None if found is None else found[1]

    def _whole(self, key: str, kind: str) -> tuple[Path, bytes] | None:
        """The file of an entry and its content, which has been checked."""
        _check_names(key, kind)
        for folder in self._folders():
            path = folder / f"{key}.{kind}"
            meta = _read_meta(path)
            if meta is None:
                continue
            try:
                content = path.read_bytes()
            except OSError:
                continue  # evicted by another process since, or unreadable: as if absent
            if hashlib.sha256(content).hexdigest() != meta["sha256"]:
                continue  # cut short or altered: as if absent, so it is built again
            with contextlib.suppress(OSError):  # a read-only folder has no order of use
                os.utime(path)
            return path, content
        return None

    def entries(self) -> list[CacheEntry]:
        """All entries, the most recently used first; damaged ones are left out."""
        found: list[CacheEntry] = []
        for folder in self._folders():
            for path in folder.glob("*.meta"):
                blob = path.with_suffix("")
                meta = _read_meta(blob)
                if meta is None:
                    continue
                key, _, kind = blob.name.partition(".")
                status = blob.stat()
                facts = meta["facts"]
                found.append(CacheEntry(key, kind, status.st_size, status.st_mtime, facts))
        return sorted(found, key=lambda entry: -entry.last_used)

    def total_bytes(self) -> int:
        """Bytes of all files in the cache, damaged and half-written ones included."""
        return sum(status.st_size for _, status in self._files())

    # writing ----------------------------------------------------------------------------

    def get_or_build(
        self,
        key: str,
        kind: str,
        build: Callable[[], bytes],
        facts: Mapping[str, Any] | None = None,
    ) -> tuple[Path, bool]:
        """The entry's checked file, and whether ``build`` was called for it.

        One process builds, the others wait for it; what ``build`` raises is passed on and
        nothing is stored. ``facts`` (JSON) are kept beside the entry for ``entries``. CacheError
        if the file can be written nowhere. Others may evict the file at any time: see ``load``.
        """
        path = self.get(key, kind)
        if path is not None:
            return path, False
        with self._lock(f"{key}.{kind}"):
            path = self.get(key, kind)
            if path is not None:
                return path, False
            content = build()
            path = self._store(key, kind, content, dict(facts or {}))
        self._keep_bound(path, len(content))
        return path, True

    def load(
        self,
        key: str,
        kind: str,
        build: Callable[[], bytes],
        facts: Mapping[str, Any] | None = None,
        *,
        use: Callable[[Path], T],
    ) -> tuple[T, bool]:
        """What ``use`` makes of the entry's checked file, and whether ``build`` was called.

        A file that another process or thread removed before ``use`` had read it is made again.
        """
        built_here = False
        for _ in range(_LOADS - 1):
            path, built = self.get_or_build(key, kind, build, facts)
            built_here |= built
            try:
                return use(path), built_here
            except OSError:
                if path.exists():
                    raise
        path, built = self.get_or_build(key, kind, build, facts)
        return use(path), built or built_here

    def put(
        self, key: str, kind: str, content: bytes, facts: Mapping[str, Any] | None = None
    ) -> Path | None:
        """Store an entry, replacing what is there; None if it can be written nowhere."""
        _check_names(key, kind)
        try:
            path = self._store(key, kind, content, dict(facts or {}))
        except CacheError:
            return None  # the folder's warning was given
        self._keep_bound(path, len(content))
        return path

    def clear(self) -> int:
        """Remove every file of the cache; the number of bytes freed."""
        freed = 0
        for path, status in self._files():
            path.unlink(missing_ok=True)
            freed += status.st_size
        return freed

    def _store(self, key: str, kind: str, content: bytes, facts: dict[str, Any]) -> Path:
        meta = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "created": time.time(),
            "facts": facts,
        }
        text = json.dumps(meta).encode()
        if self._private is None:
            try:
                return _write_entry(self.folder / f"{key}.{kind}", content, text)
            except OSError as error:
                self._leave_folder(error)
        try:
            return _write_entry(self._private_folder() / f"{key}.{kind}", content, text)
        except OSError as error:
            raise CacheError(
                error.errno,
                f"a compiled program of {len(content)} bytes can be written neither to the kernel "
                f"cache {self.folder} ({self.left}) nor to the temporary folder ({error}); make "
                f"room, or choose other folders with FLAMEC_CACHE_DIR and TMPDIR",
            ) from error

    def _keep_bound(self, written: Path, nbytes: int) -> None:
        """Evict, now and then: looking at all files takes as long as compiling where they are many.

        By chance, and on average once for ``_SLACK`` of the bound, whichever processes write. So
        nothing has to be counted, and the bound is exceeded by about as much.
        """
        often = int(self.max_bytes * _SLACK)
        if nbytes >= often or int.from_bytes(os.urandom(8), "little") % often < nbytes:
            self._evict(written)

    def _evict(self, keep: Path) -> None:
        """Remove the least recently used entries until the folder is within its bound.

        An entry's description leaves with it; half-written files only when they are stale.
        """
        files = dict(self._files())
        total = sum(status.st_size for status in files.values())
        fresh = time.time() - _STALE_SECONDS
        for path, status in sorted(files.items(), key=lambda file: file[1].st_mtime):
            if total <= self.max_bytes:
                return
            if path == keep or path.suffix in (".meta", ".lock"):
                continue
            if path.name.startswith(WRITING) and status.st_mtime > fresh:
                continue
            for part in (path, _meta_path(path)):
                if part in files:
                    part.unlink(missing_ok=True)
                    total -= files[part].st_size

    # folders ----------------------------------------------------------------------------

    def _folders(self) -> Iterator[Path]:
        if self._readable:
            yield self.folder
        if self._private is not None:
            yield self._private

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for folder in self._folders():
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # removed by another process
                    found.append((path, path.lstat()))
        return [(path, status) for path, status in found if stat.S_ISREG(status.st_mode)]

    def _leave_folder(self, error: OSError) -> None:
        """Go on in a folder of this process; said once."""
        self.left = error
        self._private_folder()
        warnings.warn(
            f"the kernel cache {self.folder} cannot be written ({error}); compiled programs of "
            f"this process are kept in a temporary folder and lost when it ends",
            CacheWarning,
            stacklevel=3,
        )

    def _private_folder(self) -> Path:
        if self._private is None:
            self._private = Path(tempfile.mkdtemp(prefix="flamec-cache-"))
            atexit.register(_remove_folder, self._private, os.getpid())
        return self._private

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Hold the lock file of an entry; released by the system if the process dies."""
        try:
            path = (self._private or self.folder) / f"{name}.lock"
            handle = locked(path)
        except OSError as error:
            if self._private is None:
                self._leave_folder(error)
            path = self._private_folder() / f"{name}.lock"
            handle = locked(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(handle)


def _check_names(key: str, kind: str) -> None:
    if not _KEY.match(key) or not _KIND.match(kind):
        raise ValueError(f"not a cache key and kind: {key!r}, {kind!r}")


def _meta_path(path: Path) -> Path:
    return path.with_name(path.name + ".meta")


def _read_meta(path: Path) -> dict[str, Any] | None:
    """The description beside an entry; None where it is missing or damaged."""
    try:
        meta = json.loads(_meta_path(path).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(meta, dict) or not isinstance(meta.get("sha256"), str):
        return None
    if not isinstance(meta.get("facts"), dict):
        return None
    return meta


def _write_entry(path: Path, content: bytes, meta: bytes) -> Path:
    replace_file(path, content)
    replace_file(_meta_path(path), meta)
    return path


def _remove_folder(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves it to its parent
        shutil.rmtree(folder, ignore_errors=True)
