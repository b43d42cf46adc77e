"""Operations that a program leaves to the host: NumPy on the memory of its buffers.

In: a plan's ``HostCall``s, the values of its symbols, addresses of its buffers. Out: a C function
that a program calls, or arrays over memory. Invariant: every operand is read before a result is
written, so that both may share memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flamec.ir.plan import ExecutionPlan, HostCall, HostOperand
from flamec.ir.shape import evaluate_shape

Evaluate = Callable[[HostCall, Sequence[np.ndarray]], Sequence[np.ndarray]]

_FAILED = -1
_HostFunction = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def no_host(call: HostCall, operands: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """For devices that are given nothing better: ValueError."""
    raise ValueError(f"{call.op}: the device was not told how the host computes operations")


class HostCalls:
    """The calls of one bound program in C. ``function``: the address of what the program calls,
    None for a program that calls nothing.

    An exception cannot cross the C code: the program is told that it failed, and the exception
    is kept for ``raise_error``.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        bindings: Mapping[str, int],
        addresses: Any,
        evaluate: Evaluate,
    ) -> None:
        self._addresses = addresses
        self._evaluate = evaluate
        self._error: BaseException | None = None
        self._calls = [
            (
                action.bound(bindings),
                _shapes(action.operands, bindings),
                _shapes(action.results, bindings),
            )
            for action in plan.actions
            if isinstance(action, HostCall)
        ]
        self._function = _HostFunction(self._run) if self._calls else None
        self.function: int | None = None
        if self._function is not None:
            self.function = ctypes.cast(self._function, ctypes.c_void_p).value

    def _run(self, number: int) -> int:
        try:
            call, operands, results = self._calls[number]
            arrays = self._evaluate(call, [self._array(*operand) for operand in operands])
            for array, result in zip(arrays, results, strict=True):
                np.copyto(self._array(*result), array)
        except BaseException as error:  # raised again when the program has returned
            self._error = error
            return _FAILED
        return 0

    def _array(self, operand: HostOperand, shape: tuple[int, ...]) -> np.ndarray:
        return host_array(self._addresses[operand.buffer], shape, operand.dtype.numpy)

    def raise_error(self) -> None:
        """Raise what the last call raised, if it failed."""
        error, self._error = self._error, None
        if error is not None:
            raise error


def _shapes(
    operands: Sequence[HostOperand], bindings: Mapping[str, int]
) -> list[tuple[HostOperand, tuple[int, ...]]]:
    return [(operand, evaluate_shape(operand.shape, bindings)) for operand in operands]


def host_array(address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The dense array at an address of the host's memory."""
    if 0 in shape:
        return np.empty(shape, dtype)
    count = int(np.prod(shape, dtype=np.int64))
    memory = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(memoryview(memory), dtype).reshape(shape)
