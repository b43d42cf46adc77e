"""A graph as tasks over buffers: what is left when views cost nothing.

In: an optimized ``Graph``. Out: a ``TaskGraph``. A *root* is a value with memory of
its own; every other value is a view of a root, found by ``TaskGraph.resolve``. A
task computes roots from values, or copies a value into a region of a root (that is
how concatenations, slice updates and copies of awkward views are expressed).
Constants, iotas and dimension sizes are computed where they are used and are
roots only where something can read nothing but memory.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flamec.ir.divided_graph import endings_of
from flamec.ir.endings import Ending
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.layout import (
    Access,
    Factor,
    Layout,
    coalesce,
    dense,
    is_dense,
    is_view,
    view_access,
)
from flamec.ir.matrix_layout import even_matrix, matrix_strides, multiplies_uneven
from flamec.ir.op import CONTROL, OpKind
from flamec.ir.ops.assemble import turn_window
from flamec.ir.shape import Dim, product, structural_key, structurally_equal
from flamec.ir.wide_pixels import wide_pixels


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
        access: Access | None = Access(dense(root.type.shape))
        for node in chain:
            assert access is not None
            access = view_access(node, access)
            if access is None:
                return None
        return access

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


def build_tasks(
    graph: Graph, guarded: bool = False, uneven_products: bool = False, endings: bool = False
) -> TaskGraph:
    """Choose the roots of a graph and list its tasks.

    ``guarded``: borders of constants get no memory; who reads them tests where it is.
    ``uneven_products``: products read operands whose rows or columns are not evenly apart, such
    as the windows of a convolution. ``endings``: those that are there several times are one task.
    """
    graph = _without_dead_nodes(graph)
    result = TaskGraph(graph, roots=set(graph.inputs), uneven_products=uneven_products)
    wide = wide_pixels(graph) if guarded else set()
    for node in graph.nodes:
        if guarded and node.outputs[0] not in wide and _is_border(result, node):
            result.borders.add(node.output)
        elif not is_view(node) and node.op.kind is not OpKind.CREATION:
            result.roots.update(node.outputs)
    _materialize(result)
    builder = _TaskBuilder(result)
    whole = endings_of(graph) if endings else ()
    inside = {node for ending in whole for node in ending.nodes}
    last = {ending.nodes[-1]: ending for ending in whole}
    for node in graph.nodes:
        if node not in inside:
            builder.add_node(node)
        elif node in last:
            builder.add_ending(last[node])
    builder.add_results()
    result.keep_roots()
    return result


def _is_border(tasks: TaskGraph, node: Node) -> bool:
    """Whether a node puts a constant around what lies in memory."""
    if node.op.name != "pad" or not isinstance(tasks.constant(node.inputs[1]), (int, float)):
        return False
    root, chain = tasks.resolve(node.inputs[0])
    others = (tasks.constant(link.inputs[1]) for link in chain if link.op.name == "pad")
    fill = repr(tasks.constant(node.inputs[1]))
    if root not in tasks.roots or any(repr(other) != fill for other in others):
        return False
    access = tasks.access(node.inputs[0])
    return access is not None and view_access(node, access) is not None


def _without_dead_nodes(graph: Graph) -> Graph:
    """Kernels are made of what is needed: a value that nobody stores has no memory."""
    needed = set(graph.results)
    live = []
    for node in reversed(graph.nodes):
        if not needed.isdisjoint(node.outputs):
            live.append(node)
            needed.update(node.inputs)
    if len(live) == len(graph.nodes):
        return graph
    return replace(graph, nodes=tuple(reversed(live)))


def _materialize(tasks: TaskGraph) -> None:
    """Give memory to the values that some reader can only take from (even) memory."""
    for node in tasks.graph.nodes:
        if is_view(node) or node.outputs[0] in tasks.borders:
            while tasks.access(node.output) is None:
                _give_memory(tasks, node)
            continue
        for position in _memory_operands(node):
            value = node.inputs[position]
            if tasks.is_inline(value) or not _suits(tasks, node, position):
                tasks.roots.add(value)


def _give_memory(tasks: TaskGraph, node: Node) -> None:
    """Make the operand of the last inexpressible view below ``node`` a root."""
    _, chain = tasks.resolve(node.output)
    for view in reversed(chain):
        if tasks.access(view.inputs[0]) is not None:
            tasks.roots.add(view.inputs[0])
            return


def _memory_operands(node: Node) -> tuple[int, ...]:
    """Positions of the operands that a node cannot take from registers."""
    match node.op.kind:
        case OpKind.CONTRACTION:
            return (0, 1)
        case OpKind.HOST | OpKind.SORT | OpKind.ATTENTION | OpKind.KERNEL:
            return tuple(range(len(node.inputs)))
        case kind if kind in CONTROL:
            return tuple(range(len(node.inputs)))
        case OpKind.GATHER | OpKind.RANDOM:
            return (0,)
        case OpKind.ASSEMBLE if node.op.name == "pad":
            return (0,)
        case _:
            return ()


def _suits(tasks: TaskGraph, node: Node, position: int) -> bool:
    """Whether the layout of an operand is even enough for its reader."""
    layout = tasks.layout(node.inputs[position])
    if layout is None:
        return False
    match node.op.kind:
        case OpKind.CONTRACTION:
            if matrix_strides(node, position, layout) is not None:
                return True
            return tasks.uneven_products and multiplies_uneven(node, position, layout)
        case OpKind.HOST | OpKind.SORT | OpKind.KERNEL:
            return tasks.is_whole(node.inputs[position])
        case kind if kind in CONTROL:
            return tasks.is_whole(node.inputs[position])
        case OpKind.ATTENTION if len(layout.dims) < len(node.inputs[0].type.shape):
            return tasks.is_whole(node.inputs[position])
        case OpKind.ATTENTION:
            found = even_matrix(layout)
            is_mask = position == 3 and len(node.inputs) in (4, 7)
            return found is not None and (is_mask or structurally_equal(found[2].stride, 1))
        case OpKind.GATHER:
            indexed = layout.dims[: len(node.inputs) - 1]
            return all(len(coalesce(dim)) <= 1 for dim in indexed)
        case _:
            return all(len(coalesce(dim)) <= 1 for dim in layout.dims)


def picks_one_per_row(tasks: TaskGraph, x: Value, indices: Sequence[Value]) -> bool:
    """Whether ``x[indices]`` is one element of each row: all leading indices count the rows."""
    shape = x.type.shape
    if len(indices) != len(shape) or len(shape) < 2:
        return False
    if structural_key(indices[0].type.shape) != structural_key(shape[:-1]):
        return False
    return all(_counts_along(tasks, value, axis) for axis, value in enumerate(indices[:-1]))


def _counts_along(tasks: TaskGraph, value: Value, axis: int) -> bool:
    node = value.node
    is_iota = node is not None and value not in tasks.roots and "axis" in node.attributes
    return is_iota and node is not None and node.attributes["axis"] == axis


class _TaskBuilder:
    def __init__(self, tasks: TaskGraph) -> None:
        self.tasks = tasks

    def _add(
        self,
        node: Node | None,
        operands: Sequence[Value],
        results: Sequence[Value],
        region: Layout | None = None,
        after: tuple[Task, ...] = (),
        source: Node | None = None,
    ) -> Task:
        memory = frozenset(_memory_operands(node)) if node and region is None else frozenset()
        position = len(self.tasks.tasks)
        task = Task(node, tuple(operands), tuple(results), position, region, after, memory, source)
        self.tasks.tasks.append(task)
        for value in results:
            self.tasks.producers.setdefault(value, []).append(task)
        return task

    def _copy(self, source: Value, target: Value, origin: Node | None) -> Task:
        return self._add(None, [source], [target], dense(source.type.shape), source=origin)

    def add_ending(self, ending: Ending) -> None:
        task = self._add(None, ending.operands, ending.results)
        task.ending, task.kind = ending, OpKind.ELEMENTWISE

    def add_node(self, node: Node) -> None:
        if is_view(node):
            if node.output in self.tasks.roots:
                self._add(node, node.inputs, node.outputs)
            return
        if node.outputs[0] in self.tasks.borders - self.tasks.roots:
            return
        match node.op.kind:
            case OpKind.CREATION:
                if node.output in self.tasks.roots:
                    self._add(node, (), node.outputs)
            case OpKind.ASSEMBLE:
                _ASSEMBLE[node.op.name](self, node)
            case OpKind.GATHER if picks_one_per_row(self.tasks, node.inputs[0], node.inputs[1:]):
                task = self._add(node, (node.inputs[0], node.inputs[-1]), node.outputs)
                task.one_per_row, task.from_memory = True, frozenset()
            case OpKind.SCATTER if self._places_one_per_row(node):
                task = self._add(node, (node.inputs[1], node.inputs[-1]), node.outputs)
                task.one_per_row = True
            case OpKind.SCATTER:
                x, *rest = node.inputs
                base = self._add(node, [x], node.outputs, dense(x.type.shape))
                self._add(node, rest, node.outputs, after=(base,))
            case _:
                self._add(node, node.inputs, node.outputs)

    def _places_one_per_row(self, node: Node) -> bool:
        x, _, *indices = node.inputs
        simple = node.attributes["mode"] in ("set", "add") and self.tasks.is_zero(x)
        return simple and picks_one_per_row(self.tasks, x, indices)

    def concatenate(self, node: Node) -> None:
        axis = node.attributes["axis"]
        whole = dense(node.output.type.shape)
        stride = whole.dims[axis][0].stride if whole.dims[axis] else 0
        offset: Dim = 0
        for piece in node.inputs:
            self._add(node, [piece], node.outputs, _window(whole, piece, axis, offset * stride))
            offset = offset + piece.type.shape[axis]

    def interleave(self, node: Node) -> None:
        whole = dense(node.output.type.shape)
        for position, piece in enumerate(node.inputs):
            starts, steps = turn_window(node.attributes, position, piece.type.ndim)
            region = _strided_region(whole, piece, starts, steps)
            self._add(node, [piece], node.outputs, region)

    def pad(self, node: Node) -> None:
        self._add(node, node.inputs, node.outputs)

    def slice_update(self, node: Node) -> None:
        x, y = node.inputs
        whole = dense(node.output.type.shape)
        base = self._add(node, [x], node.outputs, whole)
        attributes = node.attributes
        region = _strided_region(whole, y, attributes["starts"], attributes["steps"])
        self._add(node, [y], node.outputs, region, after=(base,))

    def add_results(self) -> None:
        """Every output and update a root of its own, copied where it is not."""
        tasks, graph = self.tasks, self.tasks.graph
        taken: set[Value] = set(graph.inputs)
        for value in graph.outputs:
            tasks.outputs.append(self._own_memory(value, taken))
        for position in sorted(graph.updates):
            value = graph.updates[position]
            if tasks.root(value) is graph.inputs[position] and self.tasks.is_whole(value):
                continue  # written back unchanged
            tasks.updates[position] = self._own_memory(value, taken)

    def _own_memory(self, value: Value, taken: set[Value]) -> Value:
        root = self.tasks.root(value)
        if root in self.tasks.roots and root not in taken and self.tasks.is_whole(value):
            taken.add(root)
            return root
        copy = Value(value.type, None, 0, "copy")
        self.tasks.roots.add(copy)
        taken.add(copy)
        self._copy(value, copy, value.node)
        return copy


def _strided_region(
    whole: Layout, piece: Value, starts: Sequence[Dim], steps: Sequence[Dim]
) -> Layout:
    """The region of ``whole`` that a piece with these first elements and steps fills."""
    offset: Dim = 0
    dims = []
    for factors, start, step, size in zip(whole.dims, starts, steps, piece.type.shape, strict=True):
        stride = factors[0].stride if factors else 0
        offset = offset + start * stride
        one = structurally_equal(size, 1)
        dims.append(() if one else (Factor(size, stride * step),))
    return Layout(offset, tuple(dims))


def _window(whole: Layout, piece: Value, axis: int, offset: Dim) -> Layout:
    """The region of ``whole`` that a concatenated piece fills."""
    size = piece.type.shape[axis]
    dims = list(whole.dims)
    stride = dims[axis][0].stride if dims[axis] else 0
    dims[axis] = () if structurally_equal(size, 1) else (Factor(size, stride),)
    return Layout(offset, tuple(dims))


_ASSEMBLE = {
    "concatenate": _TaskBuilder.concatenate,
    "interleave": _TaskBuilder.interleave,
    "pad": _TaskBuilder.pad,
    "slice_update": _TaskBuilder.slice_update,
}
