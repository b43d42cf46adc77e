"""A GPU that is not there: its memory is the host's, its programs are evaluated by NumPy.

What the frontend does with a GPU (addresses, strides, transfers, programs of one operation,
graphs over several devices) so is tested on any machine. Kernels are not: for those there is
Triton's interpreter, and the tests marked ``gpu``. New memory, and
memory that was given back, is full of bytes that make NaNs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np
from forgotten_gpus import forget_gpus

from flamec import gpu
from flamec.config import CompileOptions, default_options
from flamec.cuda_backend import CudaInvocation, CudaMemory
from flamec.device_array import DeviceArray
from flamec.gpu import Gpu
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.shape import evaluate_shape
from flamec.ir.types import Device
from flamec.prepared import Prepared
from flamec.runtime.cuda.host_memory import base_of

ALIGNMENT = 256


class HostBytes:
    """Memory of the simulated device."""

    def __init__(self, nbytes: int) -> None:
        self.bytes = np.full(nbytes + ALIGNMENT, 0xFF, np.uint8)
        start: int = self.bytes.__array_interface__["data"][0]
        self.address = -(-start // ALIGNMENT) * ALIGNMENT
        self.end = self.address + nbytes

    def __del__(self) -> None:
        self.bytes[...] = 0xFF


def at(address: int, shape: Sequence[int], dtype: np.dtype, strides: Any = None) -> np.ndarray:
    """Host memory as an array."""
    if 0 in shape:
        return np.empty(tuple(shape), dtype)
    first = np.frombuffer((ctypes.c_char * dtype.itemsize).from_address(address), dtype)
    if strides is None:
        strides = np.empty(tuple(shape), np.uint8).strides
        strides = tuple(s * dtype.itemsize for s in strides)
    return np.lib.stride_tricks.as_strided(first, tuple(shape), strides, writeable=True)


def contents(array: DeviceArray) -> np.ndarray:
    """The elements of an array on a simulated device."""
    return at(array.address, array.shape, array.dtype.numpy, array.strides)


class PinnedBytes:
    """Host memory from which transfers are put off; what ``np.asarray`` makes an array of."""

    def __init__(self, nbytes: int) -> None:
        self.memory = HostBytes(nbytes)
        self.__array_interface__ = {
            "data": (self.memory.address, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


class SimulatedPinnedPool:
    def empty(self, nbytes: int) -> tuple[np.ndarray, int]:
        block = PinnedBytes(nbytes)
        return np.asarray(block), block.memory.address


class SimulatedRuntime:
    """What ``flamec.gpu`` asks of ``CudaDevice``.

    ``pending``: transfers from pinned memory that nobody has waited for; they happen before the
    next other work. ``work``: what the device was asked for so far, programs by name.
    """

    def __init__(self) -> None:
        self.pinned = SimulatedPinnedPool()
        self.pending: list[tuple[int, np.ndarray]] = []
        self.blocks: WeakSet[HostBytes] = WeakSet()
        self.work: list[str] = []

    def is_pinned(self, array: np.ndarray) -> bool:
        return isinstance(base_of(array), PinnedBytes)

    def finish(self) -> None:
        """Do what was put off."""
        pending, self.pending = self.pending, []
        for address, array in pending:
            at(address, array.shape, array.dtype)[...] = array

    def empty(self, nbytes: int) -> tuple[HostBytes, int]:
        memory = self.allocate(nbytes)
        return memory, memory.address

    def allocate(self, nbytes: int) -> HostBytes:
        block = HostBytes(nbytes)
        self.blocks.add(block)
        return block

    def there(self, address: int, nbytes: int) -> np.ndarray:
        """So many bytes from ``address`` on, up to the end of the block that it is in."""
        ends = [b.end for b in self.blocks if b.address <= address < b.end]
        return at(address, (min([nbytes, *(end - address for end in ends)]),), np.dtype(np.uint8))

    def write(self, address: int, array: np.ndarray, wait: bool = True) -> None:
        self.finish()
        self.work.append("write")
        self.pending.append((address, array))
        if wait or not self.is_pinned(array):
            self.finish()

    def read(self, array: np.ndarray, address: int) -> None:
        self.finish()
        self.work.append("read")
        array[...] = at(address, array.shape, array.dtype)

    def read_word(self, address: int) -> int:
        word = np.empty((), np.int64)
        self.read(word, address)
        return int(word)

    def copy(self, to: int, source: int, nbytes: int) -> None:
        assert abs(to - source) >= nbytes, "copies within a device must not overlap"
        self.finish()
        self.work.append("copy")
        ctypes.memmove(to, source, nbytes)

    def fill(self, to: int, value: int, nbytes: int, width: int = 1) -> None:
        assert to % width == nbytes % width == 0
        self.finish()
        self.work.append("fill")
        word = value.to_bytes(width, "little")
        ctypes.memmove(to, word * (nbytes // width), nbytes)

    def copy_from(self, to: int, device: SimulatedRuntime, source: int, nbytes: int) -> None:
        self.copy(to, source, nbytes)

    def synchronize(self) -> None:
        self.finish()


class SimulatedGpu(Gpu):
    """``prepared``: the programs made so far, ``symbols``: those of each."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.__dict__["runtime"] = SimulatedRuntime()
        self.prepared: list[Prepared] = []
        self.symbols: list[tuple[str, ...]] = []

    def prepare(self, graph: Graph, symbols: Sequence[str], options: CompileOptions) -> Prepared:
        prepared = Prepared(graph, None, options, None)
        prepared.runner = SimulatedRunner(self, prepared.optimized, symbols)
        self.prepared.append(prepared)
        self.symbols.append(tuple(symbols))
        return prepared

    def prepare_operation(
        self,
        graph: Graph,
        symbols: Sequence[str],
        size_hints: Mapping[str, int],
        narrow: bool,
        strict: bool = False,
        unaligned: Sequence[int] = (),
    ) -> Prepared:
        prepared = self.prepare(graph, symbols, default_options())
        runner: Any = prepared.runner
        runner.unaligned = unaligned
        return prepared

    def stream_number(self) -> int:
        return 1

    def let_wait(self, stream: int) -> None:
        pass

    def _copy_strided(self, target: DeviceArray, source: DeviceArray) -> None:
        runtime: Any = self.runtime
        runtime.finish()
        runtime.work.append("strided copy")
        contents(target)[...] = contents(source)


class SimulatedRunner:
    def __init__(self, gpu: SimulatedGpu, graph: Graph, symbols: Sequence[str]) -> None:
        assert {v.type.device for v in graph.values()} <= {gpu.device}, "a value is elsewhere"
        self.memory = CudaMemory(gpu)
        self.gpu, self.graph, self.symbols = gpu, graph, symbols
        self.unaligned: Sequence[int] = ()

    def bind(self, sizes: tuple[int, ...]) -> Any:
        bound: Any = BoundGraph(self.graph, self.symbols, sizes, self.gpu.runtime, self.unaligned)
        return CudaInvocation(self.gpu, bound)


class BoundGraph:
    """Called like ``BoundCudaProgram``."""

    def __init__(
        self,
        graph: Graph,
        symbols: Sequence[str],
        sizes: tuple[int, ...],
        runtime: Any,
        unaligned: Sequence[int] = (),
    ) -> None:
        self.unaligned = unaligned
        count = len(graph.inputs)
        self.runtime = runtime
        self.graph = graph
        self.bindings = dict(zip(symbols, sizes, strict=True))
        self.plan = SimpleNamespace(
            inputs=range(count),
            outputs=[SimpleNamespace(buffer=count + i) for i in range(len(graph.outputs))],
            updated=tuple(sorted(graph.updates)),
        )
        self.addresses = [0] * (count + len(graph.outputs))

    def _array(self, value: Any, address: int) -> np.ndarray:
        shape = evaluate_shape(value.type.shape, self.bindings)
        return at(address, shape, value.type.dtype.numpy)

    def _read(self, value: Any, address: int) -> np.ndarray:
        """A copy of an input, of which what is behind the end of its memory is never used."""
        shape = evaluate_shape(value.type.shape, self.bindings)
        array = np.empty(shape, value.type.dtype.numpy)
        content = array.reshape(-1).view(np.uint8)
        there = self.runtime.there(address, array.nbytes)
        content[: there.size] = there
        content[there.size :] = 0xFF
        return array

    def launch(self, addresses: Sequence[int]) -> None:
        aligned = [a for i, a in enumerate(addresses) if i not in self.unaligned]
        assert all(a % 16 == 0 for a in aligned), "a kernel cannot use the address"
        self.addresses[:] = addresses
        self()

    def __call__(self) -> None:
        self.runtime.finish()
        self.runtime.work.append(self.graph.name)
        graph, addresses = self.graph, self.addresses
        inputs = [self._read(v, a) for v, a in zip(graph.inputs, addresses, strict=False)]
        outputs, updates = evaluate_graph(graph, inputs, self.bindings)
        for value, address, result in zip(
            graph.outputs, addresses[len(inputs) :], outputs, strict=True
        ):
            self._array(value, address)[...] = result
        for position, result in updates.items():
            there = self.runtime.there(addresses[position], result.nbytes)
            there[...] = np.ascontiguousarray(result).reshape(-1).view(np.uint8)[: there.size]


def install(monkeypatch: Any, count: int = 2) -> list[SimulatedGpu]:
    """Let the process have ``count`` simulated GPUs and no others."""
    gpus = [SimulatedGpu(i) for i in range(count)]
    forget_gpus(monkeypatch, dict(enumerate(gpus)))
    monkeypatch.setattr(gpu, "unavailable_reason", lambda: None)
    monkeypatch.setattr(gpu, "device_count", lambda: count)
    return gpus


GPU = Device("cuda", 0)
