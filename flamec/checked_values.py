"""``check="nan,inf"``: compiled functions that stop at the first operation that makes such a value.

In: a traced graph. Out: a runner that evaluates it by NumPy, node by node, on the host, also for
values on a GPU. Invariant: nothing is written before all of the graph was computed, so a call that
raises leaves parameters and optimizer state as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flamec.device_array import DeviceArray
from flamec.errors import node_error
from flamec.host_memory import HostMemory
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.shape import format_shape
from flamec.ir.types import Device, TensorType
from flamec.prepared import DeviceMemory, output_allocator
from flamec.runtime.interrupts import uninterrupted

_TESTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"nan": np.isnan, "inf": np.isinf}


class CheckedRunner:
    """Evaluates a graph and looks at every value; ``kinds`` as in ``CompileOptions.check``."""

    threads = 1

    def __init__(self, graph: Graph, symbols: Sequence[str], device: Device, kinds: str) -> None:
        self.graph = graph
        self.symbols = tuple(symbols)
        self.kinds = tuple(kind for kind in ("nan", "inf") if kind in kinds.split(","))
        self.memory: DeviceMemory = HostMemory()
        if device.type != "cpu":
            from flamec.cuda_backend import CudaMemory
            from flamec.gpu import gpu

            self.memory = CudaMemory(gpu(device))

    def bind(self, sizes: tuple[int, ...]) -> CheckedInvocation:
        return CheckedInvocation(self, dict(zip(self.symbols, sizes, strict=True)))

    def watch(self, node: Node, operands: Sequence[np.ndarray], results: Sequence[Any]) -> None:
        """FloatingPointError if the node made a NaN, or an infinity, that no operand has.

        A NaN made from infinities counts; values that are written down in the program do not.
        """
        if node.op.kind is OpKind.CREATION:
            return
        for output, result in zip(node.outputs, results, strict=True):
            if output.type.dtype.kind != "float":
                continue
            for kind in self.kinds:
                found = _TESTS[kind](result)
                if found.any() and not any(_has(array, kind) for array in operands):
                    raise FloatingPointError(_message(node, kind, found, operands, result))


class CheckedInvocation:
    """Inputs and outputs in the host's memory or on a GPU; see ``prepared.Invocation``."""

    def __init__(self, runner: CheckedRunner, bindings: Mapping[str, int]) -> None:
        self._runner, self._bindings = runner, bindings
        self._inputs: list[Any] = [None] * len(runner.graph.inputs)
        self._outputs: list[Any] = [None] * len(runner.graph.outputs)

    def set_input(self, position: int, array: Any) -> None:
        self._inputs[position] = array

    def set_output(self, position: int, array: Any) -> None:
        self._outputs[position] = array

    def new_output(self, position: int, type: TensorType) -> Callable[[], Any]:
        return output_allocator(self, self._runner.memory, position, type)

    def run(self) -> None:
        runner = self._runner
        inputs = [_on_host(array) for array in self._inputs]
        self.evaluating(inputs)
        outputs, updates = evaluate_graph(
            runner.graph, inputs, self._bindings, runner.watch, True, node_error
        )
        changed = [(self._inputs[p], np.array(v)) for p, v in updates.items()]
        with uninterrupted():
            for target, result in (*zip(self._outputs, outputs, strict=True), *changed):
                _store(target, result)
        self._outputs = [None] * len(self._outputs)

    def evaluating(self, inputs: Sequence[np.ndarray]) -> None:
        """Called with the inputs in host memory before each evaluation."""


def _on_host(array: Any) -> np.ndarray:
    if isinstance(array, DeviceArray):
        from flamec.gpu import gpu_of

        return gpu_of(array).download(array)
    return array


def _store(target: Any, result: np.ndarray) -> None:
    if isinstance(target, DeviceArray):
        from flamec.gpu import gpu_of

        here = gpu_of(target)
        here.copy(target, here.upload(np.ascontiguousarray(result).reshape(target.shape)))
    else:
        np.copyto(target, result)


def _has(array: np.ndarray, kind: str) -> bool:
    """Whether an operand has the value already; a NaN is what an infinity may come from."""
    if array.dtype.kind not in "fV" and "float" not in array.dtype.name:
        return False
    if bool(_TESTS[kind](array).any()):
        return True
    return kind == "inf" and bool(np.isnan(array).any())


def _message(
    node: Node, kind: str, found: np.ndarray, operands: Sequence[np.ndarray], result: np.ndarray
) -> str:
    place = tuple(int(axis[0]) for axis in np.nonzero(found)) if found.ndim else ()
    where = f"at {list(place)} of its {format_shape(result.shape)}" if place else "as its result"
    ranges = ", ".join(_range(array) for array in operands)
    count = int(found.sum())
    line = f" (at {node.location})" if node.location else ""
    return (
        f"{node.op.name} made the first {kind}: {count} of {found.size} elements, one {where}, "
        f"from {ranges or 'nothing'}{line}"
    )


def _range(array: np.ndarray) -> str:
    """An operand in a few words."""
    name = f"{array.dtype.name}{list(array.shape)}"
    if not array.size or array.dtype == bool:
        return name
    return f"{name} of {float(array.min()):.6g} to {float(array.max()):.6g}"
