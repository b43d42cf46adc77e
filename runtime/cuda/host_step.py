"""A step that the host computes: operands are fetched, results are brought back.

In: a ``HostCall`` and addresses on the device. Out: results in their buffers, in the order of the
stream. The call waits for all work before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flamec.ir.plan import HostCall
from flamec.ir.shape import evaluate_shape
from flamec.runtime.cuda import transfer
from flamec.runtime.cuda.error_words import error_words
from flamec.runtime.cuda.stream import Stream
from flamec.runtime.host_calls import Evaluate


class HostStep:
    """See the module's docstring; addresses may change between calls."""

    def __init__(self, call: HostCall, bindings: Mapping[str, int], evaluate: Evaluate) -> None:
        self.call = call.bound(bindings)
        self.evaluate = evaluate
        self._count = len(call.operands)
        operands = (*call.operands, *call.results)
        self._types = [(evaluate_shape(o.shape, bindings), o.dtype.numpy) for o in operands]
        self._addresses = [0] * len(operands)

    def set_address(self, position: int, offset: int, address: int) -> None:
        """Where the buffer of an operand, or behind those of a result, is, and its offset there."""
        self._addresses[position] = address + offset

    def __call__(self, stream: Stream) -> None:
        arrays = []
        for position in range(self._count):
            array = np.empty(*self._types[position])
            if array.nbytes:
                host, address = array.ctypes.data, self._addresses[position]
                transfer.copy_to_host(host, address, array.nbytes, stream)
            arrays.append(array)
        error = error_words().take()  # of kernels before, which may have made the operands
        if error is not None:
            raise error
        results = self.evaluate(self.call, arrays)
        for position, result in enumerate(results, self._count):
            array = np.ascontiguousarray(result)
            if array.nbytes:
                address = self._addresses[position]
                transfer.copy_to_device(address, array.ctypes.data, array.nbytes, stream)

    def update_node(self, graph: Any, node: Any, stream: Stream) -> None:
        raise ValueError(f"{self.call.op}: what the host computes is not part of a graph")
