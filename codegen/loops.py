"""Decide which memory a loop or branch and its bodies mean.

In: a lowered graph with a task that runs graphs of its own, the table of the buffers around it.
Out: a ``Loop`` or ``Branch`` of the plan without its actions, and the tables of the buffers in the
bodies. Constants are the buffers around; elements of sequences and of stacked results are windows
over the whole arrays; of a carried value the old and the new one are two places that take turns.
Both branches write straight into the buffers of the results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flamec.codegen.buffers import BufferTable
from flamec.codegen.lower.graph import LoweredGraph
from flamec.ir.graph import Value
from flamec.ir.kernel import Kernel
from flamec.ir.op import Attributes, OpKind
from flamec.ir.plan import Branch, Carried, Loop, Step, Window, dense_elements
from flamec.ir.shape import Dim
from flamec.ir.types import TensorType


@dataclass(frozen=True)
class Body:
    """A graph that a loop or branch runs, and the table of its buffers."""

    graph: LoweredGraph
    table: BufferTable


@dataclass(frozen=True)
class ArrangedLoop:
    """``outer``: the buffers around the loop that are in use as long as it runs; ``test``: its
    condition, if it has one."""

    loop: Loop
    body: Body
    test: Body | None
    outer: tuple[int, ...]
    step: Step
    given: tuple[Window, ...]
    stacked: tuple[Window, ...]

    @property
    def times(self) -> Dim:
        """How often the steps are run, 1 where only the running program knows."""
        count = self.loop.count
        return count if count is not None and self.loop.is_counted_before else 1


@dataclass(frozen=True)
class ArrangedBranch:
    """``first`` is run if the predicate is true, else ``second``; ``outer``: see the loop's."""

    branch: Branch
    first: Body
    second: Body
    outer: tuple[int, ...]
    step: Step


def arrange_control(
    lowered: LoweredGraph, position: int, table: BufferTable
) -> ArrangedLoop | ArrangedBranch:
    """The loop or branch that is a graph's kernel at a position; see the module's docstring.

    New buffers are added to the table's.
    """
    kernel = lowered.kernels[position]
    task = kernel.control
    assert task is not None and task.node is not None
    control = _Control(
        kernel.kernel,
        task.node.attributes,
        lowered.bodies[position],
        table,
        tuple(table.number(lowered.context.root(v)) for v in task.operands),
        tuple(table.number(v) for v in task.results),
    )
    return control.branch() if task.kind is OpKind.BRANCH else control.loop()


@dataclass(frozen=True)
class _Control:
    """A node that runs ``bodies``, and the buffers of its operands and results in ``table``."""

    kernel: Kernel
    attributes: Attributes
    bodies: Mapping[str, LoweredGraph]
    table: BufferTable
    operands: tuple[int, ...]
    results: tuple[int, ...]

    def loop(self) -> ArrangedLoop:
        attributes, operands, results, table = (
            self.attributes,
            self.operands,
            self.results,
            self.table,
        )
        repeats = "condition" in self.bodies
        carries = attributes["carries"]
        split = carries + (0 if repeats else attributes["sequences"])
        body = self.bodies["body"]
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
            condition = self.bodies["condition"]
            known = (*(c.old for c in carried), *operands[carries:])
            test = Body(condition, self._sharing(condition.context.graph.inputs, known))
            predicate = test.table.new_value(condition.context.outputs[0], "temporary")
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
                location=self._location,
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
                location=self._location,
            )
        outer = (*operands, *writes)
        return ArrangedLoop(
            loop, Body(body, inner), test, outer, self._step(writes), given, stacked
        )

    def branch(self) -> ArrangedBranch:
        first, second = (self._branch(self.bodies[n]) for n in ("true_body", "false_body"))
        branch = Branch(self.operands[0], (), (), self._location)
        outer = (*self.operands, *self.results)
        return ArrangedBranch(branch, first, second, outer, self._step(self.results))

    def _branch(self, body: LoweredGraph) -> Body:
        values = (*body.context.graph.inputs, *body.context.outputs)
        return Body(body, self._sharing(values, (*self.operands[1:], *self.results)))

    def _sharing(self, values: Sequence[Value], buffers: Sequence[int]) -> BufferTable:
        """A table in which values of a body live in buffers around it."""
        table = BufferTable(self.table.buffers)
        for value, buffer in zip(values, buffers, strict=True):
            table.share(value, buffer)
        return table

    @property
    def _location(self) -> str:
        return next(iter(self.kernel.locations), "")

    def _step(self, writes: Sequence[int]) -> Step:
        kernel = self.kernel
        return Step(
            kernel.name,
            kernel.kind,
            tuple(dict.fromkeys(self.operands)),
            tuple(writes),
            0,
            0,
            operations=kernel.operations,
            locations=kernel.locations,
            modules=kernel.modules,
        )


def _windows(
    inner: BufferTable, values: Sequence[Value], bases: Sequence[int]
) -> tuple[Window, ...]:
    return tuple(
        Window(inner.new_value(value, "window"), base, _bytes(value.type))
        for value, base in zip(values, bases, strict=True)
    )


def _bytes(type: TensorType) -> Dim:
    return dense_elements(type) * type.dtype.itemsize
