"""Decide which memory a loop and its body mean.

In: a task that is a loop, the table of the buffers around it, its lowered body. Out: a ``Loop`` of
the plan without its actions, and the table of the buffers in the body. Constants are the buffers
around it; elements of sequences and of stacked results are windows over the whole arrays; of a
carried value the old and the new one are two places that take turns.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.buffers import BufferTable
from flamec.codegen.lower.graph import LoweredGraph
from flamec.codegen.lower.group import LoweredKernel
from flamec.ir.plan import Carried, Loop, Step, Window, dense_elements
from flamec.ir.shape import Dim
from flamec.ir.tasks import TaskGraph
from flamec.ir.types import TensorType


@dataclass(frozen=True)
class ArrangedLoop:
    """``outer``: the buffers around the loop that are in use as long as it runs."""

    loop: Loop
    table: BufferTable
    outer: tuple[int, ...]
    step: Step
    given: tuple[Window, ...]
    stacked: tuple[Window, ...]


def arrange_loop(
    lowered: LoweredKernel, context: TaskGraph, table: BufferTable, body: LoweredGraph
) -> ArrangedLoop:
    """See the module's docstring; new buffers are added to the table's."""
    task = lowered.loop
    assert task is not None and task.node is not None
    attributes = task.node.attributes
    carries, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    operands = [table.number(context.root(v)) for v in task.operands]
    results = [table.number(v) for v in task.results]
    inputs, outputs = body.context.graph.inputs, body.context.outputs
    inner = BufferTable(table.buffers)
    carried: list[Carried] = []
    for position in range(carries):
        value = inputs[position]
        old = inner.new_value(value, "window")
        new = inner.new_value(outputs[position], "window")
        start, last = operands[position], results[position]
        other = table.new_temporary("carried", value.type)
        carried.append(Carried(old, new, start, last, other, _bytes(value.type)))
    given = tuple(
        Window(inner.new_value(value, "window"), base, _bytes(value.type))
        for value, base in zip(inputs[carries:split], operands[carries:split], strict=True)
    )
    for value, buffer in zip(inputs[split:], operands[split:], strict=True):
        inner.share(value, buffer)
    stacked = tuple(
        Window(inner.new_value(value, "window"), base, _bytes(value.type))
        for value, base in zip(outputs[carries:], results[carries:], strict=True)
    )
    windows = (*given, *stacked)
    loop = Loop(attributes["length"], attributes["reverse"], windows, tuple(carried), ())
    writes = (*results, *(c.other for c in carried))
    kernel = lowered.kernel
    step = Step(
        kernel.name,
        kernel.kind,
        tuple(dict.fromkeys(operands)),
        writes,
        0,
        0,
        operations=kernel.operations,
        locations=kernel.locations,
        modules=kernel.modules,
    )
    return ArrangedLoop(loop, inner, (*operands, *writes), step, given, stacked)


def _bytes(type: TensorType) -> Dim:
    return dense_elements(type) * type.dtype.itemsize
