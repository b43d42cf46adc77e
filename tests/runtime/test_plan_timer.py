"""How programs are timed, on a device that is a clock: who is timed how often, on which memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flamec.ir.plan import Buffer, ExecutionPlan, KernelSource
from flamec.ir.types import DType, bfloat16, bool_, float32, int64
from flamec.runtime.cuda import timing
from flamec.runtime.cuda.driver import CudaError
from flamec.runtime.cuda.memory import OutOfMemoryError
from flamec.runtime.cuda.timing import PlanTimer, TimedPlan, TimingWarning
from flamec.runtime.cuda.triton_compiler import TritonError

TYPES = (float32, bfloat16, int64, bool_)


@dataclass
class Clock:
    """A device whose time passes when something runs; ``seconds`` of each kernel by its name."""

    seconds: dict[str, float]
    now: float = 0.0
    cold: bool = False
    runs: dict[str, int] = field(default_factory=dict)
    unloaded: list[str] = field(default_factory=list)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    room: int = 1 << 40

    index, target, jobs, context = 0, "sm_90", 1, None
    properties = SimpleNamespace(L2_cache_size=1 << 20)
    cache = SimpleNamespace(folder=Path())

    def current_stream(self) -> Any:
        return SimpleNamespace(synchronize=lambda: None)

    def empty(self, nbytes: int) -> tuple[object, int]:
        if nbytes > self.room:
            raise OutOfMemoryError.__new__(OutOfMemoryError)
        address = 1 << 20 if not self.memory else max(self.memory) + (1 << 40)
        self.memory[address] = np.zeros(nbytes if nbytes < 1 << 24 else 0, np.uint8)
        return object(), address

    def write(self, address: int, array: np.ndarray) -> None:
        self.memory[address][: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        base = max(a for a in self.memory if a <= to)
        block = self.memory[base]
        block[to - base : to - base + nbytes] = self.memory[source][:nbytes]


class FakeEvent:
    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self, stream: Any) -> None:
        self.at = clock.now

    def elapsed_time(self, end: FakeEvent) -> float:
        return 1e3 * (end.at - self.at)


class FakeProgram:
    def __init__(self, plan: ExecutionPlan, *_: Any, graphs: bool) -> None:
        assert not graphs
        self.plan = plan

    def bind(self, sizes: tuple[int, ...]) -> Any:
        return FakeBound(self.plan)


class FakeBound:
    def __init__(self, plan: ExecutionPlan) -> None:
        self.plan, self.addresses = plan, [0] * len(plan.buffers)
        self.steps = [self.step]

    def step(self, stream: Any) -> None:
        name = self.plan.kernels[0].function
        assert clock.cold, "the cache was warm"
        clock.cold = False
        clock.now += clock.seconds[name]
        clock.runs[name] = clock.runs.get(name, 0) + 1

    def __call__(self) -> None:
        if clock.seconds[self.plan.kernels[0].function] < 0:
            error = CudaError.__new__(CudaError)
            error.context_lost = False
            raise error
        bound.append(self)


clock: Clock
bound: list[FakeBound]


def make_timer(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> PlanTimer:
    global clock, bound
    clock, bound = Clock(seconds), []

    def make_cold(*_: Any) -> None:
        clock.cold = True
        clock.now += 1.0

    def load(context: Any, name: str) -> Any:
        return SimpleNamespace(unload=lambda: clock.unloaded.append(name))

    def compile_all(sources: Sequence[KernelSource], *_: Any) -> list[Any]:
        def result(source: KernelSource) -> str:
            if source.function == "broken":
                raise TritonError("no")
            return source.function

        return [SimpleNamespace(result=lambda s=s: result(s)) for s in sources]

    monkeypatch.setattr(timing, "Event", FakeEvent)
    monkeypatch.setattr(timing, "CudaProgram", FakeProgram)
    monkeypatch.setattr(timing, "LoadedKernel", load)
    monkeypatch.setattr(timing, "compile_kernels", compile_all)
    monkeypatch.setattr(timing.transfer, "fill_bytes", make_cold)
    return PlanTimer(clock, None)  # type: ignore[arg-type]


def timed(name: str, elements: int = 1000, types: Sequence[DType] = TYPES) -> TimedPlan:
    buffers = tuple(Buffer("b", "input", t, elements) for t in types)
    numbers = tuple(range(len(buffers)))
    kernels = (KernelSource("", name, ()),)
    plan = ExecutionPlan(buffers, (), numbers, (), (), (), (), "", kernels=kernels)
    return TimedPlan(plan, (), 7)


def test_times_come_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = make_timer(monkeypatch, usual=3e-3, fast=2e-3, slow=1e-1, refused=-1)
    groups = [
        [timed(name) for name in ("usual", "broken", "slow", "refused", "fast")],
        [timed("slow")],
    ]
    reports: list[tuple[int, int, str]] = []
    timer.compile(groups)
    first, second = timer.time(groups, lambda *facts: reports.append(facts))
    assert first == pytest.approx([3e-3, math.inf, 1e-1, math.inf, 2e-3])
    assert second == pytest.approx([1e-1])
    assert reports == [(1, 2, ""), (2, 2, "")]
    assert clock.runs["slow"] < 20 < clock.runs["fast"]
    assert sorted(clock.unloaded) == ["fast", "refused", "slow", "slow", "usual"]


def test_buffers_hold_random_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    elements = 3 * (1 << 18) + 5
    timer = make_timer(monkeypatch, usual=1e-3)
    groups = [[timed("usual", elements)]]
    timer.compile(groups)
    timer.time(groups)
    assert len(set(bound[0].addresses)) == len(TYPES)
    for address, dtype in zip(bound[0].addresses, TYPES, strict=True):
        content = clock.memory[address].view(dtype.numpy)[:elements]
        assert len(np.unique(content.astype(np.float64))) >= 2
        if dtype is int64:
            assert content.min() == 0 and content.max() == 6
        elif dtype is not bool_:
            assert abs(content.astype(np.float64)).max() <= 1
        assert content[-1000:].any()


def test_without_memory_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timer = make_timer(monkeypatch, usual=1e-3)
    clock.room = 100
    groups = [[timed("usual"), timed("usual", 8, (float32,))], [timed("usual", 8, (float32,))]]
    timer.compile(groups)
    with pytest.warns(TimingWarning, match="cannot be timed now"):
        times = timer.time(groups)
    assert times == [[math.inf] * 2, pytest.approx([1e-3])]
    assert len(clock.unloaded) == 2
