"""Loops in eager mode: a ``scan`` as a program of its own, whatever the number of its steps.

In: a loop and its operands. Out: arrays. On a GPU the loop is compiled once for a body and the
types of its operands, with the number of steps as a symbol. On the CPU it is compiled in the same
way if its steps take long by NumPy, else NumPy runs the body step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamec import cpu_eager, gpu_eager
from flamec.device_array import DeviceArray
from flamec.gpu import gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import run_op
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType
from flamec.tensor import Tensor

_STEPS = "steps"


def run_loop(
    op: Op, attributes: Attributes, inputs: Sequence[Tensor], types: tuple[TensorType, ...]
) -> tuple[Any, ...]:
    """The results of a loop on tensors of one device, of these types."""
    arrays: list[Any] = [t._array for t in inputs]
    length = attributes["length"]
    if isinstance(next(iter(arrays), None), DeviceArray):
        here = gpu(types[0].device)
        bindings = {_STEPS: length}
        call = gpu_eager.bind_graph(here, _graph(op, attributes, inputs), bindings, arrays)
        return tuple(call.run(here, arrays))
    if cpu_eager.is_worth_compiling(attributes["body"], {}, length):
        program = cpu_eager.bind_graph(_graph(op, attributes, inputs), {_STEPS: length})
        return tuple(program.run(arrays))
    return run_op(op, attributes, arrays, types)


def _graph(op: Op, attributes: Mapping[str, Any], inputs: Sequence[Tensor]) -> Graph:
    """The loop alone, over sequences of any length."""
    steps = SymbolicDim.symbol(_STEPS)
    first, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    b = GraphBuilder()
    values = []
    for position, tensor in enumerate(inputs):
        type = tensor._type
        if first <= position < split:
            type = type.with_shape((steps, *type.shape[1:]))
        values.append(b.input(type))
    results = b.apply(op, values, {**attributes, "length": steps})
    return b.build(results if isinstance(results, tuple) else (results,), name=op.name)
