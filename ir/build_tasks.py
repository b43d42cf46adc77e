"""The tasks of a graph: which values get memory of their own, and what fills it.

In: an optimized ``Graph``. Out: its ``TaskGraph`` (``tasks.py``), whose roots are fixed and whose
tasks are in the order of the nodes. Values get memory where nothing else will do: results that are
views, operands that only memory serves, constants that are read at places which vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flamec.ir.divided_graph import endings_of
from flamec.ir.endings import Ending
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.layout import (
    Factor,
    Layout,
    coalesce,
    dense,
    is_view,
    view_access,
)
from flamec.ir.matrix_layout import even_matrix, matrix_strides, multiplies_uneven
from flamec.ir.op import CONTROL, OpKind
from flamec.ir.ops.assemble import turn_window
from flamec.ir.shape import Dim, structural_key, structurally_equal
from flamec.ir.tasks import Task, TaskGraph
from flamec.ir.wide_pixels import wide_pixels


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
            case OpKind.SCATTER if node.attributes["mode"] == "over":  # what was there is not read
                self._add(node, node.inputs[1:], node.outputs)
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
