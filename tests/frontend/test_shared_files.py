"""Messages between processes: memory that is used again, and only when nobody reads it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.data import DataLoader
from flamec.data.shared_files import HAS_FILES, MOST_IDLE, LentFiles
from flamec.data.transport import Channel

pytestmark = pytest.mark.skipif(not HAS_FILES, reason="memory files are Linux's")


class Ends:
    """Two ends of a connection in one process, and how many files were made."""

    def __init__(self) -> None:
        self.here, self.there = (Channel(end) for end in multiprocessing.Pipe())

    @property
    def files(self) -> int:
        return self.here._lent._made

    def pass_on(self, message: Any) -> Any:
        """The message as it arrives."""
        self.here.send(message)
        received = self.there.receive()
        return received

    def answer(self) -> None:
        self.there.send(None)
        self.here.receive()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.here.connection.close()
    made.there.connection.close()


def numbers(i: int, size: int = 1 << 14) -> np.ndarray:
    return np.full(size, i, np.int32)


def test_files_are_filled_again_when_nothing_refers_to_them(ends: Ends) -> None:
    for i in range(10):
        received = ends.pass_on([numbers(i), flamec.full((5,), float(i)), "text"])
        assert (received[0] == i).all() and received[1].tolist() == [i] * 5
        assert received[2] == "text"
        del received
        ends.answer()
    assert ends.files == 1


def test_what_is_held_stays_as_it_is(ends: Ends) -> None:
    held = []
    for i in range(6):
        received = ends.pass_on({"x": flamec.from_numpy(numbers(i)), "y": numbers(-i)})
        held.append(received["x"][3:9:2] if i % 2 else received["y"][-2:])  # a part is enough
        del received
        ends.answer()
    assert ends.files == 6
    assert [int(h[0]) for h in held] == [0, 1, -2, 3, -4, 5]
    held.clear()
    gc.collect()
    ends.answer()
    assert len(ends.here._lent._idle) == MOST_IDLE  # the others were given up
    ends.pass_on(numbers(0))
    assert ends.files == 6 and len(ends.there._received._mappings) == MOST_IDLE


def test_sizes_that_change(ends: Ends) -> None:
    for i, size in enumerate((1 << 14, 1 << 16, 1 << 13, 1 << 15, 1 << 16)):
        received = ends.pass_on(numbers(i, size))
        assert received.shape == (size,) and (received == i).all()
        del received
        ends.answer()
    assert ends.files == 2 and len(ends.there._received._mappings) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_keeps_what_it_sees(ends: Ends) -> None:
    received = ends.pass_on(numbers(1))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(read, 1)
        os._exit(0 if (received == 1).all() else 1)
    del received
    ends.answer()
    for i in range(2, 5):
        assert (ends.pass_on(numbers(i)) == i).all()
        ends.answer()
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ends.files == 2 and len(ends.there._received._mappings) == 1
    os.close(read)
    os.close(write)


def test_a_file_that_the_system_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError("too many open files")

    unheard: list[Any] = []
    monkeypatch.setattr(os, "memfd_create", refuse)
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    with pytest.raises(OSError, match="too many"):
        LentFiles().lend(1 << 14)
    gc.collect()
    assert not unheard  # the file that is none closes nothing


class Constant:
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> np.ndarray:
        return numbers(index)


def test_a_loader_s_batches_stay_as_they_are() -> None:
    loader = DataLoader(Constant(), 2, num_workers=2, persistent_workers=True)
    for _ in range(2):
        for held in (list(loader), [b[1:, ::7] for b in loader]):
            assert all(int(b.min()) // 2 == int(b.max()) // 2 == i for i, b in enumerate(held))


def test_an_iteration_that_has_ended_holds_no_shared_memory() -> None:
    batches: Any = iter(DataLoader(Constant(), 16, num_workers=1))
    channel = weakref.ref(batches.workers._channels[0])
    held = list(batches)
    assert channel() is None and int(held[1][15, 0]) == 31
