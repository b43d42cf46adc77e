"""Let contractions and attention read and write permuted arrays themselves.

In: any graph. Out: the graph in which a ``dot_general`` names the axes of an array
as it lies in memory, rather than reading a permutation of it, and produces its
dimensions in the order in which they are wanted, where it can: it is free to
order batch dimensions, and to take its operands in either order. Attention reads any array in
which the numbers of a head lie together, and names the order in which it gives its results.
"""

from __future__ import annotations

from collections import Counter

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind
from flamec.ir.ops.contraction import free_axes
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite

Axes = tuple[int, ...]


def absorb_permutations(graph: Graph) -> Graph:
    """The same program with fewer permutations around contractions.

    A contraction whose result is read unpermuted too stays as it is.
    """
    graph = rewrite(graph, _absorb_into_operands, applies=_contracts)
    permuted = [node for node in graph.nodes if _permutes_contraction(node)]
    uses: Counter[Value] = Counter()
    if permuted:
        uses.update([v for node in graph.nodes for v in node.inputs])
        uses.update(graph.results)
    absorbed = {node for node in permuted if uses[node.inputs[0]] == 1}
    if absorbed:
        graph = rewrite(graph, _reordered, absorbed)
    return _order_attention(graph)


def _order_attention(graph: Graph) -> Graph:
    """Attention gives its results in the order in which all their readers want them.

    The numbers of a head stay together. What is then permuted back and forth is simplified.
    """
    wanted = _wanted_orders(graph)
    if not wanted:
        return graph

    def reorder(b: RewriteBuilder, node: Node) -> tuple[Value, ...] | None:
        if node.op.kind is not OpKind.ATTENTION or b.original not in wanted:
            return None
        orders = wanted.pop(b.original)
        before = node.attributes["orders"]
        after = tuple(tuple(o[a] for a in w) for o, w in zip(before, orders, strict=True))
        results = b.apply(node.op, node.inputs, {**node.attributes, "orders": after})
        count = len(orders)
        turned = (
            value
            if order == tuple(range(len(order)))
            else b.permute(value, axes=inverse_permutation(order))
            for value, order in zip(results, orders, strict=False)
        )
        return (*turned, *results[count:])

    return rewrite(graph, reorder, set(wanted))


def _wanted_orders(graph: Graph) -> dict[Node, tuple[Axes, ...]]:
    """For attention nodes of which all readers want a result permuted, how each result is."""
    if not any(op.kind is OpKind.ATTENTION for op in graph.ops):
        return {}
    attention = [n for n in graph.nodes if n.op.kind is OpKind.ATTENTION]
    users, results = graph.users(), set(graph.results)
    found = {}
    for node in attention:
        orders = []
        for value in node.outputs[: len(node.attributes["orders"])]:
            plain = tuple(range(value.type.ndim))
            axes = {_order_for(user, plain) for user in users.get(value, ())} - {None}
            order = axes.pop() if len(axes) == 1 and value not in results else None
            orders.append(order if order and order[-1] == plain[-1] else plain)
        if any(order != tuple(range(len(order))) for order in orders):
            found[node] = tuple(orders)
    return found


def _order_for(user: Node, plain: Axes) -> Axes | None:
    """The order in which a reader wants an array; None where any will do."""
    if user.op.name == "permute":
        axes: Axes = user.attributes["axes"]
        return axes
    return None if user.op.kind in (OpKind.ELEMENTWISE, OpKind.ATTENTION) else plain


def _contracts(op: Op) -> bool:
    return op.kind is OpKind.CONTRACTION


def _absorb_into_operands(b: RewriteBuilder, node: Node) -> Value | None:
    if node.op.kind is not OpKind.CONTRACTION:
        return None
    operands = list(node.inputs)
    contract, batch = list(node.attributes["contract"]), list(node.attributes["batch"])
    for side, value in enumerate(node.inputs):
        producer = value.node
        if producer is None or producer.op.name != "permute":
            continue
        order: Axes = producer.attributes["axes"]
        free = [order[a] for a in free_axes(len(order), contract[side], batch[side])]
        if free == sorted(free):
            operands[side] = producer.inputs[0]
            contract[side] = tuple(order[a] for a in contract[side])
            batch[side] = tuple(order[a] for a in batch[side])
    if tuple(operands) == node.inputs:
        return None
    changed = {"contract": tuple(contract), "batch": tuple(batch)}
    return b.apply(node.op, operands, {**node.attributes, **changed})


def _permutes_contraction(node: Node) -> bool:
    producer = node.inputs[0].node if node.op.name == "permute" else None
    return producer is not None and producer.op.kind is OpKind.CONTRACTION


def _reordered(b: RewriteBuilder, node: Node) -> Value | None:
    """The contraction that gives the permuted result at once, if there is one."""
    if not _permutes_contraction(node):
        return None
    order: Axes = node.attributes["axes"]
    producer = node.inputs[0].node
    assert producer is not None
    left, right = producer.inputs
    contract, batch = producer.attributes["contract"], producer.attributes["batch"]
    batched = len(batch[0])
    middle = batched + len(free_axes(left.type.ndim, contract[0], batch[0]))
    left_dims, right_dims = tuple(range(batched, middle)), tuple(range(middle, len(order)))
    if any(axis >= batched for axis in order[:batched]):
        return _with_wanted_innermost(b, node, left_dims, right_dims)
    batch = tuple(tuple(axes[i] for i in order[:batched]) for axes in batch)
    if order[batched:] == left_dims + right_dims:
        changed = {**producer.attributes, "batch": batch}
        return b.apply(producer.op, (left, right), changed)
    if order[batched:] == right_dims + left_dims:
        changed = {**producer.attributes, "contract": contract[::-1], "batch": batch[::-1]}
        return b.apply(producer.op, (right, left), changed)
    return None


def _with_wanted_innermost(
    b: RewriteBuilder, node: Node, left_dims: Axes, right_dims: Axes
) -> Value | None:
    """A permutation of the contraction with its operands swapped, if the left one's dimension is
    wanted innermost: results are then written in the order in which they lie."""
    order: Axes = node.attributes["axes"]
    producer = node.inputs[0].node
    assert producer is not None
    if order[-1] not in left_dims or not right_dims:
        return None
    contract, batch = producer.attributes["contract"], producer.attributes["batch"]
    right_first = (*range(len(batch[0])), *right_dims, *left_dims)
    changed = {**producer.attributes, "contract": contract[::-1], "batch": batch[::-1]}
    swapped = b.apply(producer.op, producer.inputs[::-1], changed)
    return b.permute(swapped, axes=tuple(right_first.index(axis) for axis in order))
