"""The pool of a GPU's memory over a driver that is not there: requests are counted."""

from __future__ import annotations

import gc
import random
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from flamec.runtime.cuda import arena, memory
from flamec.runtime.cuda.memory import IDLE_SHARE, LARGEST_SHARE, OUT_OF_MEMORY, DevicePool

MIB = 1 << 20
TOTAL = 64 << 30
BUDGET = TOTAL // IDLE_SHARE
FOREIGN = 9  # the handle of a stream that somebody else made


class Driver:
    """The driver's part: ``blocks`` that are out, by address, with their stream.

    ``room``: bytes for which there is memory. ``waits``: which streams waited for which.
    ``during_request``: called in the midst of a request.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.blocks: dict[int, tuple[int, Any]] = {}
        self.requests = self.trims = self.syncs = 0
        self.next = 256
        self.peak = 0
        self.during_request: Any = lambda: None
        kinds = SimpleNamespace(
            CU_MEM_ALLOCATION_TYPE_PINNED=0,
            CU_MEM_LOCATION_TYPE_DEVICE=0,
            CU_MEMPOOL_ATTR_RELEASE_THRESHOLD="threshold",
            CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT="reserved",
            CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH="peak",
        )
        self.CUmemAllocationType = self.CUmemLocationType = self.CUmemPool_attribute = kinds
        self.cuuint64_t = int

    def CUmemPoolProps(self) -> Any:
        return SimpleNamespace(location=SimpleNamespace())

    def cuMemPoolCreate(self, _: Any) -> tuple[int, str]:
        return 0, "pool"

    @property
    def out(self) -> int:
        return sum(size for size, _ in self.blocks.values())

    def cuMemAllocFromPoolAsync(self, size: int, _: Any, stream: Any) -> tuple[int, int]:
        self.requests += 1
        self.during_request()
        if self.out + size > self.room:
            return OUT_OF_MEMORY, 0
        address, self.next = self.next, self.next + size
        self.blocks[address] = size, SimpleNamespace(cuda_stream=stream.cuda_stream)
        self.peak = max(self.peak, self.out)
        return 0, address

    def free(self, address: int, stream: Any) -> None:
        assert self.blocks.pop(address)[1].cuda_stream in (stream.cuda_stream, FOREIGN)
        assert not stream.destroyed

    def cuMemPoolTrimTo(self, *_: Any) -> tuple[int]:
        self.trims += 1
        return (0,)

    def cuMemPoolGetAttribute(self, _: Any, name: str) -> tuple[int, int]:
        return 0, {"reserved": self.out, "peak": self.peak}[name]

    def cuMemPoolSetAttribute(self, *_: Any) -> tuple[int]:
        return (0,)


class Queue:
    """A stream; ``destroyed`` as soon as the object was finalized, like one of the driver's."""

    lasts = True

    def __init__(self, number: int) -> None:
        self.cuda_stream = number
        self.raw = self
        self.waited_for: list[int] = []
        self.destroyed = False

    def __del__(self) -> None:
        self.destroyed = True

    def wait_stream(self, other: Queue) -> None:
        assert not other.destroyed
        self.waited_for.append(other.cuda_stream)


@pytest.fixture
def cu(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver(TOTAL)
    monkeypatch.setattr(memory, "driver", lambda: found)
    monkeypatch.setattr(memory, "can_release", lambda _: True)
    monkeypatch.setattr(memory, "default_stream", lambda _: Queue(0))
    monkeypatch.setattr(memory, "release", lambda _, __, *block: found.free(*block))
    return found


@pytest.fixture
def pool(cu: Driver) -> DevicePool:
    def synchronize() -> None:
        cu.syncs += 1

    context: Any = SimpleNamespace(
        index=0,
        properties=SimpleNamespace(memory_pools=True, total_memory=TOTAL, name="a GPU"),
        activate=lambda: None,
        synchronize=synchronize,
        memory_info=lambda: (cu.room - cu.out, cu.room),
    )
    return DevicePool(context)


@pytest.fixture
def stream() -> Any:
    return Queue(1)


@pytest.mark.parametrize("nbytes", [4, 700, MIB, 3 * MIB + 4, 200 * MIB])
def test_a_block_of_the_same_size_is_used_again(
    nbytes: int, cu: Driver, pool: DevicePool, stream: Any
) -> None:
    addresses = {pool.allocate(nbytes, stream).address for _ in range(10)}
    assert (len(addresses), cu.requests) == (1, 1)
    both = pool.allocate(nbytes, stream), pool.allocate(nbytes, stream)
    assert both[0].address != both[1].address and cu.requests == 2
    assert pool.allocate(nbytes, Queue(2)).address not in {a.address for a in both}


def test_a_block_too_large_to_be_kept_goes_back(cu: Driver, pool: DevicePool, stream: Any) -> None:
    nbytes = BUDGET // LARGEST_SHARE
    for size, left in ((nbytes, 1), (nbytes + 1, 0)):
        pool.release_idle()
        del [pool.allocate(size, stream)][0]
        assert pool.allocated_bytes == 0 and len(cu.blocks) == left


def test_idle_blocks_stay_within_the_budget_and_the_oldest_sizes_go(
    cu: Driver, pool: DevicePool, stream: Any
) -> None:
    """A size that is used all the time stays, whatever other sizes come once."""
    for i in range(100):
        pool.allocate(100 * MIB, stream)
        pool.allocate((30 + i) * MIB + 4, stream)
        assert pool.idle_bytes <= BUDGET and pool.allocated_bytes == 0
    assert cu.requests == 101
    assert pool.idle_bytes == cu.out > BUDGET - 131 * MIB


def test_idle_blocks_make_room(cu: Driver, pool: DevicePool, stream: Any) -> None:
    cu.room = 1000 * MIB
    kept = pool.allocate(300 * MIB, stream)
    for size in (200, 201, 202):
        pool.allocate(size * MIB, stream)
    assert pool.allocate(600 * MIB, stream).nbytes == 600 * MIB
    assert (pool.retries, pool.failures, cu.trims, cu.syncs) == (1, 0, 1, 1)
    with pytest.raises(memory.OutOfMemoryError, match=r"701.00 MiB were requested, 300.00 MiB are"):
        pool.allocate(701 * MIB, stream)
    assert pool.failures == 1 and cu.out == 300 * MIB
    last = pool.allocate(700 * MIB, stream)
    assert pool.allocated_bytes == kept.nbytes + last.nbytes == 1000 * MIB


def test_memory_of_other_streams_waits_for_them(cu: Driver, pool: DevicePool, stream: Any) -> None:
    other: Any = Queue(2)
    allocation = pool.allocate(MIB, stream)
    allocation.record_stream(other)
    del allocation
    assert pool.allocated_bytes == pool.idle_bytes == len(cu.blocks) == 0
    assert stream.waited_for == [2]


def test_streams_outlive_their_memory_in_cycles(cu: Driver, pool: DevicePool) -> None:
    """A collection finalizes all objects of a cycle, in any order, before it frees one."""
    for kept in (MIB, BUDGET):  # idle, or to the driver at once
        owner: Any = SimpleNamespace(stream=Queue(1), other=Queue(2), owner=None)
        owner.owner = owner
        owner.memory = pool.allocate(kept, owner.stream)
        owner.used = pool.allocate(kept, owner.stream)
        owner.used.record_stream(owner.other)
        other = weakref.ref(owner.other)
        del owner
        gc.collect()
        assert pool.allocated_bytes == 0
        gc.collect()
        assert other() is None
    pool.release_idle()
    assert not cu.blocks


def test_memory_of_a_stream_that_somebody_else_destroyed(cu: Driver, pool: DevicePool) -> None:
    foreign: Any = Queue(FOREIGN)
    foreign.lasts = False
    pool.allocate(MIB, foreign)
    foreign.destroyed = True
    assert pool.idle_bytes == MIB and cu.syncs == 0
    pool.release_idle()
    assert not cu.blocks and cu.syncs == 2


def test_memory_may_be_given_back_in_the_midst_of_a_request(
    cu: Driver, pool: DevicePool, stream: Any
) -> None:
    """As a collection of cycles does, which runs wherever an object is made."""
    kept = [pool.allocate(size * MIB, stream) for size in (3, 5, 3, 7)]
    cu.during_request = kept.clear
    last = pool.allocate(9 * MIB, stream)
    assert pool.allocated_bytes == last.nbytes and pool.idle_bytes == 18 * MIB
    assert pool.max_allocated_bytes == 18 * MIB


def test_accounts_and_addresses_over_random_requests(cu: Driver, pool: DevicePool) -> None:
    draw = random.Random(0)
    streams: Any = [Queue(n) for n in range(3)]
    live: dict[int, Any] = {}
    most = 0
    for step in range(3000):
        if live and draw.random() < 0.5:
            del live[draw.choice(list(live))]
        else:
            size = draw.choice([0, 1, 512, 513, MIB, 8 * MIB, 90 * MIB, draw.randrange(600 * MIB)])
            live[step] = pool.allocate(size, draw.choice(streams))
        wanted = sum(a.nbytes for a in live.values())
        most = max(most, wanted)
        assert pool.allocated_bytes == wanted and pool.max_allocated_bytes == most
        assert pool.idle_bytes <= BUDGET
        used = [a.address for a in live.values() if a.nbytes]
        assert len(set(used)) == len(used) and set(used) <= set(cu.blocks)
    assert all(
        cu.blocks[a.address][1].cuda_stream == a.stream.cuda_stream
        for a in live.values()
        if a.nbytes
    )
    counts = pool.statistics()
    assert counts["num_device_alloc"] == cu.requests < counts["allocation.all.allocated"]
    assert counts["num_device_alloc"] - counts["num_device_free"] == len(cu.blocks)
    assert counts["reserved_bytes.all.current"] == cu.out
    assert pool.release_idle() > 0 and pool.idle_bytes == 0
    assert len(cu.blocks) == sum(a.nbytes > 0 for a in live.values())
    assert pool.statistics()["allocated_bytes.all.peak"] == most
    pool.reset_peaks()
    assert pool.max_allocated_bytes == wanted


def test_counters_are_zero_though_clearing_them_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And programs that were told an address are told the new one."""
    cleared: list[int] = []

    def clear(address: int, byte: int, nbytes: int, stream: Any) -> None:
        if not cleared:
            cleared.append(-1)
            raise KeyboardInterrupt
        cleared.append(address)

    def allocate(nbytes: int, stream: Any) -> Any:
        return SimpleNamespace(address=next(addresses), nbytes=nbytes)

    addresses = iter((256, 512, 768))
    monkeypatch.setattr(arena, "device_pool", lambda index: SimpleNamespace(allocate=allocate))
    monkeypatch.setattr(arena, "fill_bytes", clear)
    mine = arena.Arena(SimpleNamespace(device_index=0))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        mine.reserve(0, 10)
    before = mine.generation
    mine.reserve(0, 10)
    assert cleared[1:] == [mine.counters] == [512] and mine.generation > before
    mine.reserve(0, 10)
    assert len(cleared) == 2
