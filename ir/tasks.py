"""A graph as tasks over buffers: what is left when views cost nothing.

In: what ``build_tasks.py`` made of an optimized ``Graph``. Out: answers about it. A *root* is a
value with memory of its own; every other value is a view of a root, found by
``TaskGraph.resolve``. A task computes roots from values, or copies a value into a region of a root
(that is how concatenations, slice updates and copies of awkward views are expressed). Constants,
iotas and dimension sizes are computed where they are used and are roots only where something can
read nothing but memory.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flamec.ir.endings import Ending
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.layout import (
    Access,
    Layout,
    dense,
    is_dense,
    is_view,
    through_views,
)
from flamec.ir.op import CONTROL, OpKind
from flamec.ir.shape import product, structurally_equal


@dataclass(eq=False)
class Task:
    """One unit of work. ``node`` is None for a plain copy, and for the operations of an ``ending``.

    ``region`` is given for copies: the layout, over the operand's shape, in the buffer of
    the result. ``after`` are tasks that must be finished although no operand says so.
    ``from_memory`` are the positions of operands that must be loaded. ``one_per_row``: a gather
    or scatter with one computed index for each row of a matrix; its operands are the matrix or
    the values, and the column indices.
    """

    node: Node | None
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    position: int
    region: Layout | None = None
    after: tuple[Task, ...] = ()
    from_memory: frozenset[int] = frozenset()
    source: Node | None = None  # the node in whose place a copy stands, for comments
    one_per_row: bool = False
    ending: Ending | None = None
    kind: OpKind | None = field(init=False)  # of the operation; None for a copy

    def __post_init__(self) -> None:
        self.kind = None if self.is_copy or self.node is None else self.node.op.kind

    @cached_property
    def parts(self) -> tuple[Task, ...]:
        """The task itself, or those of an ending's operations, each by itself."""
        if self.ending is None:
            return (self,)
        return tuple(
            Task(node, node.inputs, node.outputs, self.position) for node in self.ending.operations
        )

    @property
    def size(self) -> int:
        """The number of operations."""
        return 1 if self.ending is None else len(self.ending.operations)

    @property
    def is_copy(self) -> bool:
        return self.region is not None

    @property
    def is_control(self) -> bool:
        """Whether the task runs graphs of its own: a loop or a branch."""
        return self.kind in CONTROL

    @property
    def origin(self) -> Node | None:
        if self.ending is not None:
            return self.ending.operations[-1]
        return self.node or self.source

    @property
    def origins(self) -> tuple[Node, ...]:
        """The nodes whose work it is."""
        if self.ending is not None:
            return self.ending.operations
        origin = self.node or self.source
        return () if origin is None else (origin,)

    @property
    def name(self) -> str:
        if self.ending is not None:
            return ", ".join(self.names)
        return self.node.op.name if self.node and not self.is_copy else "copy"

    @property
    def names(self) -> tuple[str, ...]:
        """Those of its operations."""
        if self.ending is None:
            return (self.name,)
        return tuple([node.op.name for node in self.ending.operations])


@dataclass
class TaskGraph:
    """Tasks in a valid order, with the memory they work on.

    ``outputs[i]`` is the root whose buffer holds graph output i; ``updates`` maps an input
    position to the root that holds the new value, in row-major order. ``borders`` are the
    results of ``pad`` that have no memory: their readers look where an element lies, if anywhere.
    ``uneven_products``: see ``build_tasks``.
    """

    graph: Graph
    tasks: list[Task] = field(default_factory=list)
    roots: set[Value] = field(default_factory=set)
    producers: dict[Value, list[Task]] = field(default_factory=dict)
    outputs: list[Value] = field(default_factory=list)
    updates: dict[int, Value] = field(default_factory=dict)
    borders: set[Value] = field(default_factory=set)
    uneven_products: bool = False
    _resolved: dict[Value, tuple[Value, tuple[Node, ...]]] | None = None
    _operand_roots: dict[Task, tuple[Value, ...]] = field(default_factory=dict)
    _accesses: dict[tuple[object, ...], Access | None] = field(default_factory=dict)

    def resolve(self, value: Value) -> tuple[Value, tuple[Node, ...]]:
        """The root that a value is a view of, and the view nodes from the root downwards.

        ``pad`` nodes of ``borders`` are among them. A creation node that is computed where it
        is used counts as a root here.
        """
        if self._resolved is not None:
            known = self._resolved.get(value)
            if known is not None:
                return known
        if value in self.roots:
            return value, ()
        chain: list[Node] = []
        root = value
        while root not in self.roots and (is_view(root.node) or root in self.borders):
            assert root.node is not None
            chain.append(root.node)
            root = root.node.inputs[0]
        found = root, tuple(reversed(chain))
        if self._resolved is not None:
            self._resolved[value] = found
        return found

    def of_ending(self, task: Task) -> TaskGraph:
        """The operations of an ending as a graph of their own."""
        assert task.ending is not None
        tasks = [replace(part, position=i) for i, part in enumerate(task.parts)]
        graph = Graph(task.operands, task.ending.nodes, task.results)
        producers = {value: [part] for part in tasks for value in part.results}
        alone = replace(self, graph=graph, tasks=tasks, producers=producers, _operand_roots={})
        return replace(alone, outputs=list(task.results), updates={})

    def open_endings(self, wanted: Container[Task]) -> None:
        """Divide endings into their operations again."""
        opened: list[Task] = []
        for task in self.tasks:
            parts = task.parts if task in wanted else (task,)
            for part in parts:
                part.position = len(opened)
                opened.append(part)
                if len(parts) > 1:
                    self.producers.update({value: [part] for value in part.results})
        self.tasks = opened

    def keep_roots(self) -> None:
        """From now on the roots stay as they are, and what ``resolve`` finds is remembered."""
        self._resolved = {}

    def access(self, value: Value) -> Access | None:
        """Where a value lies in the buffer of its root; None if only a copy can give it."""
        root, chain = self.resolve(value)
        views = [(node.op.name, node.attributes_key, node.output.type.number) for node in chain]
        key = (root.type.number, *views)
        if key not in self._accesses:
            self._accesses[key] = through_views(Access(dense(root.type.shape)), chain)
        return self._accesses[key]

    def layout(self, value: Value) -> Layout | None:
        """The same of a value that is all in memory; None for others."""
        access = self.access(value)
        return None if access is None or access.bounds else access.layout

    def root(self, value: Value) -> Value:
        return self.resolve(value)[0]

    def roots_of(self, task: Task) -> tuple[Value, ...]:
        """The roots of a task's operands, one for each."""
        known = self._operand_roots.get(task)
        if known is None:
            known = tuple([self.resolve(value)[0] for value in task.operands])
            if self._resolved is not None:
                self._operand_roots[task] = known
        return known

    def is_whole(self, value: Value) -> bool:
        """Whether a value is all of its root's buffer, in order."""
        layout, shape = self.layout(value), value.type.shape
        covered = product(self.root(value).type.shape)
        same_size = structurally_equal(product(shape), covered)
        return same_size and layout is not None and is_dense(layout, shape)

    def is_inline(self, value: Value) -> bool:
        """Whether the value comes from a creation node that has no memory."""
        root = self.root(value)
        return root not in self.roots

    def constant(self, value: Value) -> Any:
        """The number that a value is everywhere; None if it is none."""
        root = self.root(value)
        if root in self.roots or root.node is None:
            return None
        return root.node.attributes.get("value")

    def is_zero(self, value: Value) -> bool:
        """Whether a value is the constant 0 (not -0) everywhere."""
        number = self.constant(value)
        return isinstance(number, (int, float)) and number == 0 and math.copysign(1, number) > 0

    def zeros_around(self, root: Value) -> Node | None:
        """The ``pad`` that put zeros around what lies in the memory of a root; None of others."""
        node = root.node if root in self.roots else None
        return node if node and node.op.name == "pad" and self.is_zero(node.inputs[1]) else None

    def dependencies(self, task: Task) -> list[Task]:
        found = list(task.after)
        for root in self.roots_of(task):
            found.extend(self.producers.get(root, ()))
        return found


def only_scalars(tasks: Sequence[Task]) -> bool:
    """Whether tasks read and give single elements only, and copy none."""
    return all(
        not task.is_copy and not any(v.type.shape for v in (*task.operands, *task.results))
        for task in tasks
    )


def shared_scalars(segments: Sequence[Sequence[Task]]) -> Sequence[Task]:
    """The first of several sets of tasks if it gives the others scalars: statements without a
    loop, whose results the kernel's loops find in registers."""
    return segments[0] if len(segments) > 1 and only_scalars(segments[0]) else ()
