"""The cache on disk: races, damage, folders that cannot be used, bounds."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from flamec.runtime import kernel_cache
from flamec.runtime.kernel_cache import CacheError, CacheWarning, KernelCache

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


def test_an_entry_is_built_once_and_found_again(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path / "cache")
    assert cache.get(KEY, "so") is None
    path, built = cache.get_or_build(KEY, "so", lambda: b"code", {"name": "step"})
    assert built
    assert path.read_bytes() == b"code"
    again = KernelCache(tmp_path / "cache")
    assert again.get_or_build(KEY, "so", lambda: pytest.fail("built again")) == (path, False)
    assert again.read(KEY, "so") == b"code"
    assert again.read(KEY, "plan") is None
    (entry,) = again.entries()
    assert (entry.key, entry.kind, entry.size, entry.facts) == (KEY, "so", 4, {"name": "step"})
    assert not list((tmp_path / "cache").glob("*.lock"))
    assert not list((tmp_path / "cache").glob(".writing-*"))


def test_only_the_owner_may_read_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    KernelCache(folder).put(KEY, "so", b"x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file in folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


RACE = """
import sys, time
from pathlib import Path
from flamec.runtime.kernel_cache import KernelCache
folder, log, start = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
cache = KernelCache(folder)
def build(number):
    def make():
        with open(log, "a") as file:
            file.write(f"{number}\\n")
        time.sleep(0.05)
        return b"kernel %d" % number * 1000
    return make
while time.time() < start:
    pass
for number in range(5):
    path, built = cache.get_or_build(f"{number:064x}", "so", build(number))
    assert path.read_bytes() == b"kernel %d" % number * 1000
"""


def test_eight_processes_build_each_entry_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    start = str(time.time() + 3)
    command = [sys.executable, "-c", RACE, str(tmp_path / "cache"), str(log), start]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(8)]
    for process in processes:
        _, output = process.communicate(timeout=120)
        assert process.returncode == 0, output.decode()
    assert sorted(log.read_text().split()) == ["0", "1", "2", "3", "4"]
    assert not list((tmp_path / "cache").glob("*.lock"))


def test_eight_threads_build_an_entry_once(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    builds: list[int] = []

    def build() -> bytes:
        builds.append(1)
        time.sleep(0.05)
        return b"code"

    threads = [
        threading.Thread(target=cache.get_or_build, args=(KEY, "so", build)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]


def test_a_build_inside_a_build(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.get_or_build(
        KEY, "plan", lambda: cache.get_or_build(OTHER, "so", lambda: b"x")[0].read_bytes()
    )
    assert cache.read(KEY, "plan") == cache.read(OTHER, "so") == b"x"


@pytest.mark.parametrize("damage", ["truncated", "altered", "empty", "gone", "meta", "meta_gone"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    cache = KernelCache(tmp_path)
    path, _ = cache.get_or_build(KEY, "so", lambda: b"the right code")
    meta = path.with_name(path.name + ".meta")
    if damage == "gone":
        path.unlink()
    elif damage == "meta":
        meta.write_text("{")
    elif damage == "meta_gone":
        meta.unlink()
    else:
        path.write_bytes(
            {"truncated": b"the ri", "altered": b"the wrong code", "empty": b""}[damage]
        )
    assert cache.get(KEY, "so") is None
    path, built = cache.get_or_build(KEY, "so", lambda: b"the right code")
    assert built
    assert path.read_bytes() == b"the right code"


@pytest.mark.parametrize("text", ["[]", "{}", '{"sha256": 1}', '{"sha256": "x"}', "\x00\xff"])
def test_a_malformed_description_counts_as_absent(tmp_path: Path, text: str) -> None:
    cache = KernelCache(tmp_path)
    path = cache.put(KEY, "so", b"code")
    path.with_name(path.name + ".meta").write_text(text)
    assert cache.get(KEY, "so") is None
    assert cache.entries() == []


def test_what_build_raises_is_passed_on_and_nothing_is_stored(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)

    def fail() -> bytes:
        raise RuntimeError("no compiler today")

    with pytest.raises(RuntimeError, match="no compiler today"):
        cache.get_or_build(KEY, "so", fail)
    assert list(tmp_path.iterdir()) == []
    assert cache.get_or_build(KEY, "so", lambda: b"code")[1]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.warns(CacheWarning, match="cannot be written"):
        cache = KernelCache(blocker / "cache")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        path, built = cache.get_or_build(KEY, "so", lambda: b"code")
        assert built
        assert path.read_bytes() == b"code"
        assert cache.get_or_build(KEY, "so", lambda: b"other") == (path, False)


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_full_or_read_only_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What is there is used, what is new goes elsewhere (root ignores modes, hence simulated)."""
    KernelCache(tmp_path).put(OTHER, "so", b"old")
    cache = KernelCache(tmp_path)
    real_open, real_temporary = os.open, kernel_cache.tempfile.mkstemp

    def refuse(folder: object) -> None:
        if Path(str(folder)) == tmp_path:
            raise OSError(code, os.strerror(code), str(folder))

    def open_file(path: str | Path, flags: int, *rest: int, **named: int) -> int:
        if flags & os.O_CREAT:
            refuse(Path(path).parent)
        return real_open(path, flags, *rest, **named)

    def temporary(**named: object) -> tuple[int, str]:
        refuse(named.get("dir"))
        return real_temporary(**named)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(kernel_cache.os, "open", open_file)
    monkeypatch.setattr(kernel_cache.tempfile, "mkstemp", temporary)
    assert cache.read(OTHER, "so") == b"old"
    with pytest.warns(CacheWarning) as caught:
        path, built = cache.get_or_build(KEY, "so", lambda: b"code")
        assert built
        assert cache.get_or_build(KEY, "so", lambda: b"code") == (path, False)
        cache.put("a" * 64, "plan", b"plan")
    assert len(caught) == 1
    assert path.parent != tmp_path
    assert cache.read(OTHER, "so") == b"old"
    assert cache.read("a" * 64, "plan") == b"plan"


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What only saves work is left out; the error for a file that is needed says what to do."""
    cache = KernelCache(tmp_path / "cache")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(kernel_cache, "replace_file", full)
    with pytest.warns(CacheWarning, match="cannot be written"):
        assert cache.put(OTHER, "plan", b"plan") is None
    assert cache.read(OTHER, "plan") is None
    assert cache.left is not None
    with pytest.raises(CacheError, match=r"No space.*temporary folder.*FLAMEC_CACHE_DIR") as caught:
        cache.get_or_build(KEY, "so", lambda: b"code")
    assert caught.value.errno == errno.ENOSPC


def test_an_entry_that_is_evicted_before_it_is_loaded_is_built_again(tmp_path: Path) -> None:
    cache, other = KernelCache(tmp_path), KernelCache(tmp_path)
    builds = []

    def build() -> bytes:
        builds.append(0)
        return b"code"

    def use(path: Path) -> bytes:
        if len(builds) < 3:
            other.clear()
        return path.read_bytes()

    assert cache.load(KEY, "so", build, use=use) == (b"code", True)
    assert len(builds) == 3
    assert cache.load(KEY, "so", build, use=use) == (b"code", False)

    def refuse(path: Path) -> None:
        raise OSError("not an ELF file")

    with pytest.raises(OSError, match="ELF"):
        cache.load(KEY, "so", build, use=refuse)
    assert len(builds) == 3


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    KernelCache(tmp_path).put(KEY, "so", b"planted")
    tmp_path.chmod(0o777)
    with pytest.warns(CacheWarning, match="other users"):
        cache = KernelCache(tmp_path)
    assert cache.get(KEY, "so") is None


def test_the_least_recently_used_entries_leave(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_bytes=6000)
    keys = [f"{number:064x}" for number in range(4)]
    for age, key in enumerate(keys[:3]):
        path = cache.put(key, "so", b"x" * 1500)
        os.utime(path, (0, 1000 + age))
    assert cache.get(keys[0], "so")  # used now, so the next two are older
    cache.put(keys[3], "so", b"x" * 2500)
    assert cache.get(keys[0], "so") is not None
    assert cache.get(keys[1], "so") is None
    assert cache.get(keys[3], "so") is not None
    assert cache.total_bytes() <= 6000
    metas = {file.name.removesuffix(".meta") for file in tmp_path.glob("*.meta")}
    assert metas == {file.name for file in tmp_path.glob("*.so")}


def test_an_entry_larger_than_the_bound_is_kept_while_it_is_new(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_bytes=100)
    path = cache.put(KEY, "so", b"x" * 1000)
    assert path.exists()
    cache.put(OTHER, "so", b"y" * 1000)
    assert not path.exists()


def test_clear_and_total(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put(KEY, "so", b"x" * 100)
    cache.put(KEY, "plan", b"y" * 100)
    total = cache.total_bytes()
    assert total == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert cache.clear() == total
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "kind"), [("../../etc", "so"), ("ABC", "so"), (KEY, "../x"), (KEY, "")]
)
def test_names_cannot_leave_the_folder(tmp_path: Path, key: str, kind: str) -> None:
    with pytest.raises(ValueError, match="not a cache key"):
        KernelCache(tmp_path).get_or_build(key, kind, lambda: b"")


def test_descriptions_are_json(tmp_path: Path) -> None:
    path = KernelCache(tmp_path).put(KEY, "so", b"code", {"steps": 3})
    meta = json.loads(path.with_name(path.name + ".meta").read_text())
    assert meta["facts"] == {"steps": 3}
    assert meta["size"] == 4


def test_the_files_are_looked_at_for_a_share_of_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each entry, which took longer than compiling where there were many."""
    looked: list[Path] = []
    cache = KernelCache(tmp_path, max_bytes=64_000)
    monkeypatch.setattr(cache, "_evict", looked.append)
    drawn = iter(range(0, 1000, 10))  # each number that chance may give, modulo 1000
    monkeypatch.setattr(os, "urandom", lambda n: next(drawn).to_bytes(n, "little"))
    for number in range(100):
        cache.put(f"{number:064x}", "so", b"x" * 50)
    assert len(looked) == 5, "5000 bytes are five times a 64th of the bound"
    cache.put(KEY, "so", b"x" * 1000)
    assert len(looked) == 6


def test_the_bound_holds_but_for_a_share(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, max_bytes=100_000)
    for number in range(600):
        cache.put(f"{number:064x}", "so", b"x" * 1000)  # each with some 150 bytes of description
    assert 80_000 < cache.total_bytes() < 125_000
