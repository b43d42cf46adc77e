"""The kernel cache as one file: taken to another machine of the same architecture.

In: a cache. Out: a file, and from it the entries of another machine's cache. Invariant: an
entry is only taken over where compiling would have given the same: machine code of the CPU
for the same processor features, plans of the same code generator.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flamec import cpu_backend
from flamec.config import CompileOptions
from flamec.deployment.archive import CACHE, Archive, write_archive
from flamec.prepared import VERSION
from flamec.runtime.cpu.compiler import local_key, processor_features
from flamec.runtime.kernel_cache import PORTABLE, CacheEntry, KernelCache
from flamec.saving.files import write_atomically


@dataclass(frozen=True)
class Imported:
    """Entries that were taken over, and those left out because they would not fit here."""

    taken: int
    left_out: int
    reason: str = ""


def export_cache(cache: KernelCache, path: str | os.PathLike[str]) -> int:
    """Write all entries to a file, which appears whole or not at all; their number."""
    entries = cache.entries()
    described: dict[str, Any] = {}

    def members() -> Iterator[tuple[str, bytes]]:
        for entry in entries:
            content = cache.read(entry.key, entry.kind)
            if content is not None:  # else it was evicted meanwhile
                described[_name(entry)] = dict(entry.facts)
                yield _name(entry), content

    facts = {"version": VERSION, "entries": described, **_identities()}
    write_atomically(Path(path), lambda file: write_archive(file, CACHE, facts, members()))
    return len(described)


def import_cache(
    path: str | os.PathLike[str], cache: KernelCache, options: CompileOptions
) -> Imported:
    """Take over the entries of a file that are not there yet and fit this machine.

    FileFormatError, before anything is taken over, for a file that was altered; OSError if the
    cache's folder cannot be written, what was taken over until then stays.
    """
    _check_folder(cache)
    compiler = cpu_backend.device(options).compiler if cpu_backend.is_available(options) else None
    taken = left_out = 0
    reasons = []
    with Path(path).open("rb") as file:
        archive = Archive(file, str(path), CACHE)
        for member in archive:
            archive.read(member)  # all are whole before one is taken
        here = _identities()
        fits = {name: archive.manifest[name] == value for name, value in here.items()}
        for member in archive:
            key, _, kind = member.partition(".")
            facts = archive.manifest["entries"][member]
            reason = ""
            if PORTABLE in facts:
                if not fits["processor"]:
                    reason = "this processor has other features"
                elif compiler is None:
                    reason = "there is no C compiler here"
                else:
                    key = local_key(compiler, facts[PORTABLE])
            if kind == cpu_backend.PLAN_KIND and not fits["generator"]:
                reason = "this flamec has another code generator"
            if reason:
                left_out += 1
                reasons.append(reason)
            elif cache.get(key, kind) is None:
                cache.put(key, kind, archive.read(member), facts)
                _check_folder(cache)
                taken += 1
    return Imported(taken, left_out, "; ".join(dict.fromkeys(reasons)))


def _check_folder(cache: KernelCache) -> None:
    """What a process keeps for itself where it cannot write the folder is no import."""
    if cache.left is not None:
        raise OSError(f"the kernel cache {cache.folder} cannot be written: {cache.left}")


def _identities() -> dict[str, str]:
    """What entries depend on that their names on all machines do not say."""
    return {
        "processor": hashlib.sha256(processor_features().encode()).hexdigest(),
        "generator": cpu_backend.generator_digest(),
    }


def _name(entry: CacheEntry) -> str:
    return f"{entry.key}.{entry.kind}"
