"""Decide which memory a loop or branch and its bodies mean.

In: a task that runs graphs of its own, the table of the buffers around it, its lowered bodies. Out:
a ``Loop`` or ``Branch`` of the plan without its actions, and the tables of the buffers in the
bodies. Constants are the buffers around; elements of sequences and of stacked results are windows
over the whole arrays; of a carried value the old and the new one are two places that take turns.
Both branches write straight into the buffers of the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.codegen.buffers import BufferTable
from flamec.codegen.lower.graph import LoweredGraph
from flamec.codegen.lower.group import LoweredKernel
from flamec.ir.graph import Value
from flamec.ir.op import OpKind
from flamec.ir.plan import Branch, Carried, Loop, Step, Window, dense_elements
from flamec.ir.shape import Dim
from flamec.ir.tasks import TaskGraph
from flamec.ir.types import TensorType


@dataclass(frozen=True)
class ArrangedLoop:
    """``outer``: the buffers around the loop that are in use as long as it runs; ``test``: the
    table of the condition's buffers, None where there is no condition."""

    loop: Loop
    table: BufferTable
    outer: tuple[int, ...]
    step: Step
    given: tuple[Window, ...]
    stacked: tuple[Window, ...]
    test: BufferTable | None

    @property
    def times(self) -> Dim:
        """How often the steps are run, 1 where only the running program knows."""
        count = self.loop.count
        return count if count is not None and self.loop.is_counted_before else 1


@dataclass(frozen=True)
class ArrangedBranch:
    """``tables``: of the buffers in each body, by attribute."""

    branch: Branch
    tables: Mapping[str, BufferTable]
    outer: tuple[int, ...]
    step: Step


def arrange_loop(
    lowered: LoweredKernel,
    context: TaskGraph,
    table: BufferTable,
    bodies: Mapping[str, LoweredGraph],
) -> ArrangedLoop:
    """See the module's docstring; new buffers are added to the table's."""
    attributes, operands, results = _buffers(lowered, context, table)
    repeats = "condition" in bodies
    carries = attributes["carries"]
    split = carries + (0 if repeats else attributes["sequences"])
    body = bodies["body"]
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
    given = _windows(inner, inputs[carries:split], operands[carries:split])
    for value, buffer in zip(inputs[split:], operands[split:], strict=False):
        inner.share(value, buffer)
    stacked = _windows(inner, outputs[carries:], results[carries + repeats :])
    writes = [*results, *(c.other for c in carried)]
    if repeats:
        test = BufferTable(table.buffers)
        condition = bodies["condition"].context
        known = (*(c.old for c in carried), *operands[carries:])
        for value, buffer in zip(condition.graph.inputs, known, strict=True):
            test.share(value, buffer)
        predicate = test.new_value(condition.outputs[0], "temporary")
        writes.append(predicate)
        loop = Loop(
            attributes["limit"],
            False,
            stacked,
            tuple(carried),
            (),
            predicate=predicate,
            made=results[carries],
            stacked=stacked,
            location=_location(lowered),
        )
    else:
        test = None
        loop = Loop(
            attributes["length"],
            attributes["reverse"],
            (*given, *stacked),
            tuple(carried),
            (),
            counter=operands[-1] if attributes.get("counted") else -1,
            stacked=stacked,
            location=_location(lowered),
        )
    step = _step(lowered, operands, writes)
    return ArrangedLoop(loop, inner, (*operands, *writes), step, given, stacked, test)


def arrange_branch(
    lowered: LoweredKernel,
    context: TaskGraph,
    table: BufferTable,
    bodies: Mapping[str, LoweredGraph],
) -> ArrangedBranch:
    """See the module's docstring."""
    _, operands, results = _buffers(lowered, context, table)
    tables = {}
    for name, body in bodies.items():
        inner = tables[name] = BufferTable(table.buffers)
        for value, buffer in zip(body.context.graph.inputs, operands[1:], strict=True):
            inner.share(value, buffer)
        for value, buffer in zip(body.context.outputs, results, strict=True):
            inner.share(value, buffer)
    branch = Branch(operands[0], (), (), _location(lowered))
    return ArrangedBranch(branch, tables, (*operands, *results), _step(lowered, operands, results))


def is_branch(lowered: LoweredKernel) -> bool:
    """Whether a task that runs graphs of its own is a branch, not a loop."""
    task = lowered.control
    assert task is not None and task.node is not None
    return task.node.op.kind is OpKind.BRANCH


def _location(lowered: LoweredKernel) -> str:
    return next(iter(lowered.kernel.locations), "")


def _buffers(
    lowered: LoweredKernel, context: TaskGraph, table: BufferTable
) -> tuple[dict[str, Any], list[int], list[int]]:
    """The node's attributes, and the buffers of its operands and results."""
    task = lowered.control
    assert task is not None and task.node is not None
    operands = [table.number(context.root(v)) for v in task.operands]
    return task.node.attributes, operands, [table.number(v) for v in task.results]


def _windows(
    inner: BufferTable, values: Sequence[Value], bases: Sequence[int]
) -> tuple[Window, ...]:
    return tuple(
        Window(inner.new_value(value, "window"), base, _bytes(value.type))
        for value, base in zip(values, bases, strict=True)
    )


def _step(lowered: LoweredKernel, reads: Sequence[int], writes: Sequence[int]) -> Step:
    kernel = lowered.kernel
    return Step(
        kernel.name,
        kernel.kind,
        tuple(dict.fromkeys(reads)),
        tuple(writes),
        0,
        0,
        operations=kernel.operations,
        locations=kernel.locations,
        modules=kernel.modules,
    )


def _bytes(type: TensorType) -> Dim:
    return dense_elements(type) * type.dtype.itemsize
