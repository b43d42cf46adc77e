"""Random operands of a row on the GPU, and whether flamec's results are right.

With PyTorch installed it makes the operands and is the oracle; without, they are repeated
blocks of NumPy's random numbers and nothing but dropout is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.bandwidth_rows import COLUMNS, Operand, Row
from flamec.ir.ops.random import random_words
from flamec.ir.types import TensorType, dtype_named
from flamec.runtime.cuda.device import CudaDevice

SEED = 5
_BLOCK = 1 << 20  # random numbers that are repeated
_CHECKED_ROWS = 4


class DeviceMemory:
    """Memory of flamec's own allocator with the address that it starts at."""

    def __init__(self, device: CudaDevice, nbytes: int) -> None:
        self.device, self.nbytes = device, nbytes
        self.memory, self.address = device.empty(nbytes)

    def read(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        array = np.empty(shape, dtype)
        self.device.read(array, self.address)
        return array


class Operands:
    """The inputs of a row. ``tensors`` are PyTorch's, or empty."""

    def __init__(self, row: Row, device: CudaDevice, torch: Any) -> None:
        self.row, self.device, self.torch = row, device, torch
        self.tensors: list[Any] = []
        self.held: list[Any] = []
        self._gradient: Any = None
        self._state = DeviceMemory(device, 16)
        self.reset_state()
        if torch is not None:
            torch.manual_seed(0)
            self.tensors = [self._random_tensor(o) for o in row.operands]
            for position in row.wrt:
                self.tensors[position].requires_grad_()
            torch.cuda.synchronize()
        self._arrays = [] if torch is not None else [self._random_memory(o) for o in row.operands]

    def reset_state(self) -> None:
        """The random state that the first call sees."""
        self.device.write(self._state.address, np.array([SEED, 0], np.int64))

    def address(self, position: int) -> int:
        """Where an input is; position -1: the random state."""
        if position < 0:
            return self._state.address
        return self.address_of(self.tensors[position] if self.tensors else self._arrays[position])

    @staticmethod
    def address_of(result: Any) -> int:
        return int(result.address if isinstance(result, DeviceMemory) else result.data_ptr())

    def output(self, type: TensorType) -> tuple[Any, int]:
        """Memory for a result, and its address."""
        shape = tuple(int(d) for d in type.shape)
        if self.torch is None:
            result: Any = DeviceMemory(self.device, int(np.prod(shape)) * type.dtype.itemsize)
        else:
            dtype = getattr(self.torch, type.dtype.name)
            result = self.torch.empty(shape, dtype=dtype, device="cuda")
        return result, self.address_of(result)

    def gradient_address(self) -> int:
        """Where the gradient of the row's result is; it has the shape of the first operand."""
        if self._gradient is None:
            first = self.row.operands[0]
            random = self._random_tensor if self.torch is not None else self._random_memory
            self._gradient = random(first)
            if self.torch is not None:
                self.torch.cuda.synchronize()
        return self.address_of(self._gradient)

    def torch_call(self, compiled: bool = False) -> Callable[[], Any]:
        """PyTorch's program for the timed part."""
        torch, row = self.torch, self.row
        function = row.make(torch)
        if compiled:
            torch._dynamo.reset()
            function = torch.compile(function)
        wrt = [self.tensors[i] for i in row.wrt]
        if row.part == "backward":
            result = function(*self.tensors)
            self.gradient_address()
            return lambda: torch.autograd.grad(result, wrt, self._gradient, retain_graph=True)
        if row.part == "both":

            def both() -> Any:
                loss = function(*self.tensors)
                return (loss, *torch.autograd.grad(loss, wrt))

            return both

        def forward() -> Any:
            with torch.no_grad():
                return function(*self.tensors)

        return forward

    def _random_tensor(self, operand: Operand) -> Any:
        if operand.below:
            return self.torch.randint(0, operand.below, operand.shape, device="cuda")
        dtype = getattr(self.torch, operand.dtype)
        return self.torch.empty(operand.shape, dtype=dtype, device="cuda").normal_()

    def _random_memory(self, operand: Operand) -> DeviceMemory:
        random = np.random.default_rng(operand.elements)
        if operand.below:
            array: np.ndarray = random.integers(0, operand.below, operand.shape)
        else:
            block = random.standard_normal(_BLOCK, np.float32)
            array = np.resize(block, operand.elements).astype(dtype_named(operand.dtype).numpy)
        memory = DeviceMemory(self.device, array.nbytes)
        self.device.write(memory.address, np.ascontiguousarray(array).reshape(-1))
        return memory


def check(row: Row, operands: Operands, outputs: list[Any]) -> str:
    """What is wrong with flamec's results, or ""."""
    if row.random:
        return _check_dropout(row, operands, outputs[0])
    if operands.torch is None:
        return ""
    wanted = operands.torch_call()()
    if not isinstance(wanted, tuple):
        wanted = (wanted,)
    for number, (found, right) in enumerate(zip(outputs, wanted, strict=False)):
        found, right = found.detach().float(), right.detach().float()
        off = float((found - right).abs().max() / right.abs().max().clamp(min=1e-30))
        if not off <= row.tolerance:
            return f"WRONG: result {number} is off by {off:.1e} of its largest element"
    return ""


def _check_dropout(row: Row, operands: Operands, output: Any) -> str:
    """The first rows against NumPy, with the same random words."""
    dtype = row.operands[0].dtype
    count = _CHECKED_ROWS * COLUMNS
    x, y, weight, bias = (_head(operands, i, count) for i in range(4))
    words = random_words(SEED, 0, count)
    keep = ((words >> 8) & 0xFFFFFF) * 2.0**-24 >= np.float32(0.1)
    rounded = np.where(keep, y / 0.9, 0).astype(dtype_named(dtype).numpy).astype(np.float64)
    total = (x + rounded).astype(dtype_named(dtype).numpy).astype(np.float64)
    total = total.reshape(_CHECKED_ROWS, COLUMNS)
    scale = np.sqrt(total.var(1, keepdims=True) + 1e-5)
    right = (total - total.mean(1, keepdims=True)) / scale * weight[:COLUMNS] + bias[:COLUMNS]
    found = _values(operands, output, dtype, count).reshape(_CHECKED_ROWS, COLUMNS)
    off = float(abs(found - right).max() / abs(right).max())
    return "" if off <= row.tolerance else f"WRONG: off by {off:.1e} of the largest element"


def _head(operands: Operands, position: int, count: int) -> np.ndarray:
    operand = operands.row.operands[position]
    memory = operands.tensors[position] if operands.tensors else operands._arrays[position]
    return _values(operands, memory, operand.dtype, min(count, operand.elements))


def _values(operands: Operands, memory: Any, dtype: str, count: int) -> np.ndarray:
    array = np.empty(count, dtype_named(dtype).numpy)
    operands.device.read(array, operands.address_of(memory))
    return array.astype(np.float64)
