"""Whether a kernel cache was left as it should be: what tests of processes and interrupts share."""

from __future__ import annotations

from pathlib import Path

from flamec.config import default_options
from flamec.runtime.kernel_cache import KernelCache
from flamec.runtime.private_files import WRITING


def assert_complete(folder: Path) -> None:
    """Every entry of a cache can be read, and nothing else is left."""
    cache = KernelCache(folder, default_options().cache_bytes)
    entries = list(cache.entries())
    assert entries
    for entry in entries:
        assert cache.read(entry.key, entry.kind), entry
    assert not list(folder.rglob(f"*{WRITING}*")), "a file was left half written"
