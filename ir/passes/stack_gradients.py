"""The gradients of attention's operands, put side by side: one array, written once.

In: any graph. Out: one in which ``attention_backward`` gives its three gradients in one array
where all that is done with them is to lay them side by side (what the derivative of splitting a
packed projection does, with borders around each and their sum), so that nothing is copied.
"""

from __future__ import annotations

from collections import Counter

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.shape import product, structurally_equal

_RESULTS = 3


def stack_gradients(graph: Graph) -> Graph:
    """See the module's docstring; the graph itself if there is nothing to stack."""
    if not any(_gives_gradients(node) for node in graph.nodes):
        return graph
    uses = Counter(v for node in graph.nodes for v in node.inputs)
    uses.update(graph.results)
    chosen = {node for node in graph.nodes if _stacked(node, uses) is not None}
    if not chosen:
        return graph

    def rule(b: RewriteBuilder, node: Node) -> Value | None:
        found = _stacked(node, None) if b.original in chosen else None
        if found is None:
            return None
        attention, axis = found
        together: Value = b.apply(
            attention.op, attention.inputs, {**attention.attributes, "stacked": axis}
        )
        result: Value = b.reshape(together, shape=node.output.type.shape)
        return result

    return eliminate_dead_code(rewrite(graph, rule, chosen))


def _gives_gradients(node: Node) -> bool:
    return node.op.kind is OpKind.ATTENTION and len(node.outputs) == _RESULTS


def _stacked(node: Node, uses: Counter[Value] | None) -> tuple[Node, int] | None:
    """The attention whose gradients a sum lays side by side, and where its results have their new
    dimension. With ``uses``: only if nothing else reads them."""
    leaves = _summands(node, uses)
    if len(leaves) != _RESULTS:
        return None
    attention, axes = None, set()
    for leaf in leaves:
        pad = leaf.node
        if pad is None or pad.op.name != "pad" or not _is_zero(pad.inputs[1]):
            return None
        view = pad.inputs[0].node
        source = pad.inputs[0] if view is None or view.op.name != "reshape" else view.inputs[0]
        if uses is not None and (uses[pad.inputs[0]] > 1 or uses[source] > 1):
            return None
        if source.node is None or not _gives_gradients(source.node):
            return None
        if attention not in (None, source.node):
            return None
        attention = source.node
        place = attention.outputs.index(source)
        axes.add(_axis(source, pad, place))
    if attention is None or len({leaf.node.inputs[0] for leaf in leaves if leaf.node}) < _RESULTS:
        return None
    same = {value.type for value in attention.outputs}
    axis = axes.pop() if len(axes) == 1 else None
    return None if axis is None or len(same) > 1 else (attention, axis)


def _summands(node: Node, uses: Counter[Value] | None) -> list[Value]:
    """What is added up, in order."""
    if node.op.name != "add":
        return []
    found: list[Value] = []
    for value in node.inputs:
        inner = value.node
        alone = uses is None or uses[value] == 1
        if inner is not None and inner.op.name == "add" and alone:
            found += _summands(inner, uses)
        else:
            found.append(value)
    return found


def _is_zero(value: Value) -> bool:
    node = value.node
    return node is not None and node.op.name == "full" and node.attributes["value"] == 0


def _axis(source: Value, pad: Node, place: int) -> int | None:
    """Before which dimension of a gradient a new one makes it lie where ``pad`` puts it."""
    shape, line = source.type.shape, pad.inputs[0].type.shape
    low, high = pad.attributes["low"], pad.attributes["high"]
    *outer, width = line
    if any(not structurally_equal(n, 0) for n in (*low[:-1], *high[:-1])):
        return None
    if not structurally_equal(low[-1], width * place):
        return None
    if not structurally_equal(high[-1], width * (_RESULTS - 1 - place)):
        return None
    axis = len(outer)
    if len(shape) < axis or not all(map(structurally_equal, shape[:axis], outer)):
        return None
    return axis if structurally_equal(product(shape[axis:]), width) else None
