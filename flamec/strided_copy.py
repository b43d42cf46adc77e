"""Copies between strided arrays on a GPU, by one kernel for each number of dimensions."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

from flamec.cpu_backend import PLAN_KIND, generator_digest
from flamec.device_array import DeviceArray, Shape
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import DType, int8, int16, int32, int64
from flamec.runtime.fork_locks import held_in_forks

if TYPE_CHECKING:
    from flamec.gpu import Gpu

_BY_SIZE: dict[int, DType] = {1: int8, 2: int16, 4: int32, 8: int64}

_programs: dict[tuple[int, int, int], Any] = {}
_lock = held_in_forks(threading.Lock())
_MOST_BOUND = 4096


class _Bound(threading.local):
    """A thread's programs for arrays that lie in one way."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}


_bound = _Bound()


def run(gpu: Gpu, target: DeviceArray, source: DeviceArray) -> None:
    """Copy; the arrays have one shape, not empty, and one dtype, and do not overlap."""
    known = _bound.known
    key = gpu, target.shape, target.strides, source.strides, target.dtype.itemsize
    bound = known.get(key)
    if bound is None:
        if len(known) >= _MOST_BOUND:
            known.clear()
        bound = known[key] = _bind(gpu, target, source)
    bound.launch((source.address, target.address))


def _bind(gpu: Gpu, target: DeviceArray, source: DeviceArray) -> Any:
    itemsize = target.dtype.itemsize
    dims = joined(target.shape, target.strides, source.strides)
    program = _program(gpu, len(dims), itemsize)
    sizes = (
        *(n for n, _, _ in dims),
        *(t // itemsize for _, t, _ in dims),
        *(s // itemsize for _, _, s in dims),
    )
    return program.bind(sizes)


def joined(shape: Shape, *strides: Shape) -> list[tuple[int, ...]]:
    """(size, stride in each array) of the fewest dimensions that say the same; at least one."""
    dims: list[tuple[int, ...]] = []
    for size, *steps in zip(shape, *strides, strict=True):
        if size == 1:
            continue
        if dims and all(
            outer == inner * size for outer, inner in zip(dims[-1][1:], steps, strict=True)
        ):
            dims[-1] = (dims[-1][0] * size, *steps)
        else:
            dims.append((size, *steps))
    return dims or [(1, *(0 for _ in strides))]


def _program(gpu: Gpu, rank: int, itemsize: int) -> Any:
    key = (gpu.device.index, rank, itemsize)
    program = _programs.get(key)
    if program is None:
        plan = _plan(gpu, rank, itemsize)
        with _lock:
            program = _programs.setdefault(key, gpu.runtime.load(plan))
    return program


def _plan(gpu: Gpu, rank: int, itemsize: int) -> ExecutionPlan:
    """From the cache if it is there: making it imports the templates' package."""
    cache = gpu.runtime.cache
    identity = f"strided copy {generator_digest()} {gpu.device} {rank} {itemsize}"
    key = hashlib.sha256(identity.encode()).hexdigest()
    content = cache.read(key, PLAN_KIND)
    if content is not None:
        return ExecutionPlan.from_json(content.decode())
    from flamec.codegen.triton.strided_copy import strided_copy_plan

    plan = strided_copy_plan(rank, _BY_SIZE[itemsize], gpu.device)
    cache.put(key, PLAN_KIND, plan.to_json().encode(), {"graph": plan.steps[0].name})
    return plan
