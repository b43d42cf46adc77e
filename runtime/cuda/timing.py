"""Time programs on a device, so that one of several can be chosen.

In: groups of plans whose buffers are all inputs. Out: seconds for each, infinite for one that
cannot be compiled or launched. Invariants: buffers are memory of their own, filled with random
numbers, so nobody's data is touched; every run finds a cold L2 cache.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim
from flamec.ir.types import DType
from flamec.runtime.cuda import transfer
from flamec.runtime.cuda.compile_worker import CompiledKernel, Progress, compile_kernels
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.driver import CudaError
from flamec.runtime.cuda.memory import OutOfMemoryError
from flamec.runtime.cuda.module import LoadedKernel
from flamec.runtime.cuda.program import BoundCudaProgram, CudaProgram
from flamec.runtime.cuda.stream import Event
from flamec.runtime.cuda.triton_compiler import TritonError
from flamec.runtime.device import PlanMemory

_SECONDS_TO_COMPILE = 60.0  # a kernel that needs longer is not worth it
_FIRST_RUNS, _FEWEST_RUNS, _MOST_RUNS = 3, 7, 30
_SECONDS_A_PLAN = 0.02
_HOPELESS = 3.0  # times the best: not measured more closely
_WARM_UP_RUNS = 200
_SMALLEST_L2 = 32 << 20
_PATTERN = 1 << 18  # random numbers, repeated


class TimingWarning(UserWarning):
    """Programs could not be timed."""


@dataclass(frozen=True, slots=True)
class TimedPlan:
    """A plan with values for its symbols; integers in its buffers are below ``index_bound``."""

    plan: ExecutionPlan
    sizes: tuple[int, ...]
    index_bound: int


class PlanTimer:
    """Times plans in the current stream of the thread that calls it."""

    def __init__(self, device: CudaDevice, plan_memory: PlanMemory) -> None:
        self._device = device
        self._plan_memory = plan_memory
        self._stream = device.current_stream()
        self._kernels: dict[str, CompiledKernel] = {}
        self._flush_bytes = 3 * max(_SMALLEST_L2, device.properties.L2_cache_size)
        self._flush, self._flush_address = device.empty(self._flush_bytes)
        self._events = [
            (Event(enable_timing=True), Event(enable_timing=True)) for _ in range(_MOST_RUNS)
        ]
        for _ in range(_WARM_UP_RUNS):  # clocks rise with work
            self._make_cold()
        self._stream.synchronize()

    def compile(
        self, groups: Sequence[Sequence[TimedPlan]], progress: Progress | None = None
    ) -> None:
        """Compile the kernels of all plans, several at a time."""
        plans = [timed.plan for group in groups for timed in group]
        sources = {s.to_json(): s for plan in plans for s in plan.kernels}
        device = self._device
        compiled = compile_kernels(
            list(sources.values()),
            device.target,
            device.cache,
            device.jobs,
            progress,
            _SECONDS_TO_COMPILE,
        )
        self._kernels |= dict(zip(sources, compiled, strict=True))

    def time(
        self, groups: Sequence[Sequence[TimedPlan]], progress: Progress | None = None
    ) -> list[list[float]]:
        """Seconds of each plan; ``compile`` was called with them.

        The plans of a group compete, so the slow ones are timed less. TimingWarning for plans that
        need more memory than there is; CudaError if the device can no longer be used.
        """
        times = []
        for number, group in enumerate(groups):
            try:
                times.append(self._time_group(group))
            except OutOfMemoryError as error:
                times.append([math.inf] * len(group))
                warnings.warn(
                    f"schedules of a kernel cannot be timed now: {error}",
                    TimingWarning,
                    stacklevel=2,
                )
            if progress is not None:
                progress(number + 1, len(groups), "")
        return times

    def _time_group(self, group: Sequence[TimedPlan]) -> list[float]:
        memory = _Memory(self._device)
        loaded: list[LoadedKernel] = []
        try:
            bound = [self._bind(timed, memory, loaded) for timed in group]
            seconds: list[float] = []
            for program in bound:
                best = min(seconds, default=math.inf)
                seconds.append(math.inf if program is None else self._time(program, best))
            best = min(seconds, default=math.inf)
            if seconds and best < seconds[0]:  # once more, one after the other
                for number in (0, seconds.index(best)):
                    program = bound[number]
                    if program is not None:
                        seconds[number] = min(seconds[number], self._time(program, math.inf))
            return seconds
        finally:
            for kernel in loaded:
                kernel.unload()

    def _bind(
        self, timed: TimedPlan, memory: _Memory, loaded: list[LoadedKernel]
    ) -> BoundCudaProgram | None:
        """The program on the device, run once; None if it cannot run."""
        device, plan = self._device, timed.plan
        try:
            kernels = []
            for source in plan.kernels:
                binary = self._kernels[source.to_json()].result()
                kernels.append(LoadedKernel(device.context, binary))
                loaded.append(kernels[-1])
            program = CudaProgram(
                plan,
                device.context,
                kernels,
                self._plan_memory,
                graphs=False,
            )
            bound = program.bind(timed.sizes)
            bindings = dict(zip(plan.symbols, timed.sizes, strict=True))
            for number, buffer in enumerate(plan.buffers):
                elements = evaluate_dim(buffer.elements, bindings)
                bound.addresses[number] = memory.address(
                    number, buffer.dtype, elements, timed.index_bound
                )
            bound()
            self._stream.synchronize()
        except (TritonError, ValueError):
            return None
        except CudaError as error:
            if error.context_lost:
                raise
            return None
        return bound

    def _time(self, bound: BoundCudaProgram, best: float) -> float:
        """The median of some runs; of few if the program is far from the best."""
        samples = self._runs(bound, _FIRST_RUNS)
        typical = statistics.median(samples)
        if typical < _HOPELESS * best:
            more = int(_SECONDS_A_PLAN / max(typical, 1e-6))
            samples += self._runs(bound, min(_MOST_RUNS, max(_FEWEST_RUNS, more)))
        return statistics.median(samples)

    def _runs(self, bound: BoundCudaProgram, count: int) -> list[float]:
        stream = self._stream
        for start, end in self._events[:count]:
            self._make_cold()
            start.record(stream)
            for step in bound.steps:
                step(stream)
            end.record(stream)
        stream.synchronize()
        return [1e-3 * start.elapsed_time(end) for start, end in self._events[:count]]

    def _make_cold(self) -> None:
        """Fill the L2 cache with other things; meanwhile the host gets ahead of the device."""
        transfer.fill_bytes(self._flush_address, 1, self._flush_bytes, self._stream)


class _Memory:
    """Buffers with random content, used by one plan of a group after the other."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._rng = np.random.default_rng(0)
        self._known: dict[tuple[int, DType, int], tuple[object, int]] = {}

    def address(self, number: int, dtype: DType, elements: int, index_bound: int) -> int:
        """Memory for a buffer of this number, type and size."""
        key = (number, dtype, elements)
        if key not in self._known:
            memory, address = self._device.empty(max(1, elements * dtype.itemsize))
            self._known[key] = (memory, address)
            self._fill(address, dtype, elements, index_bound)
        return self._known[key][1]

    def _fill(self, address: int, dtype: DType, elements: int, index_bound: int) -> None:
        pattern = self._pattern(dtype, min(elements, _PATTERN), index_bound)
        if elements == 0:
            return
        self._device.write(address, pattern)
        done, total = pattern.nbytes, elements * dtype.itemsize
        while done < total:
            step = min(done, total - done)
            self._device.copy(address + done, address, step)
            done += step

    def _pattern(self, dtype: DType, count: int, index_bound: int) -> np.ndarray:
        if dtype.kind == "float":
            return self._rng.uniform(-1, 1, count).astype(dtype.numpy)
        if dtype.kind == "bool":
            return self._rng.random(count) < 0.5
        bound = min(index_bound, np.iinfo(dtype.numpy).max)
        return self._rng.integers(0, bound, count).astype(dtype.numpy)
