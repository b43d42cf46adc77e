"""Loops and branches in eager mode: each is a program of its own.

In: a loop or branch and its operands. Out: arrays. On a GPU it is compiled once for its bodies and
the types of its operands; of a ``scan`` the number of steps is a symbol. On the CPU a scan is
compiled in the same way if its steps take long by NumPy, else NumPy runs the bodies step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamec import cpu_eager, eager_programs
from flamec.device_array import DeviceArray
from flamec.gpu import gpu, move
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import run_op
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType
from flamec.tensor import Tensor

_STEPS = "steps"


def run_loop(
    op: Op, attributes: Attributes, inputs: Sequence[Tensor], types: tuple[TensorType, ...]
) -> tuple[Any, ...]:
    """The results of a loop or branch on tensors of one device, of these types."""
    arrays: list[Any] = [t._array for t in inputs]
    if op.kind is OpKind.LOOP:
        bindings, make = {_STEPS: attributes["length"]}, _scan_graph
    else:
        bindings, make = {}, _plain_graph
    device = next((t._type.device for t in inputs if t._type.device.type != "cpu"), None)
    if device is not None:
        here = gpu(device)
        there = [a if isinstance(a, DeviceArray) else move(a, device) for a in arrays]
        call = eager_programs.bind_graph(here, make(op, attributes, inputs), bindings, there)
        results = zip(call.run(there), types, strict=True)
        return tuple(move(r, t.device) if t.device.type == "cpu" else r for r, t in results)
    length = bindings.get(_STEPS)
    if length is not None and cpu_eager.is_worth_compiling(attributes["body"], {}, length):
        program = cpu_eager.bind_graph(make(op, attributes, inputs), bindings)
        return tuple(program.run(arrays))
    return run_op(op, attributes, arrays, types)


def _plain_graph(op: Op, attributes: Mapping[str, Any], inputs: Sequence[Tensor]) -> Graph:
    """The operation alone."""
    b = GraphBuilder()
    results = b.apply(op, [b.input(t._type) for t in inputs], attributes)
    return b.build(results if isinstance(results, tuple) else (results,), name=op.name)


def _scan_graph(op: Op, attributes: Mapping[str, Any], inputs: Sequence[Tensor]) -> Graph:
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
