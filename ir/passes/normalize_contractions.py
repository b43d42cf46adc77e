"""Bring every matrix product to the form batch…, rows, depth times batch…, depth, columns.

In: any ``dot_general``. Out: one whose free and contracted dimensions are single and
stand after the batch dimensions, between permutes and reshapes that cost nothing
(``layout`` resolves them). What no stride can express is copied by the back end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.shape import Dim, product, structural_key


def normalize_contractions(graph: Graph) -> Graph:
    """The graph with all contractions in normal form; itself if they are already."""
    todo = [n for n in graph.nodes if n.op.kind is OpKind.CONTRACTION and not _is_normal(n)]
    if not todo:
        return graph
    new: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = [new.get(v, v) for v in node.inputs]
        if node in todo:
            builder = GraphBuilder()
            builder.location, builder.scope = node.location, node.scope
            new[node.output] = _rewrite(builder, node, inputs)
            nodes.extend(builder.nodes)
        elif all(a is b for a, b in zip(inputs, node.inputs, strict=True)):
            nodes.append(node)
        else:
            types = tuple(v.type for v in node.outputs)
            copy = Node(node.op, inputs, node.attributes, node.location, node.scope, types)
            new.update(zip(node.outputs, copy.outputs, strict=True))
            nodes.append(copy)
    return Graph(
        graph.inputs,
        tuple(nodes),
        tuple(new.get(v, v) for v in graph.outputs),
        {i: new.get(v, v) for i, v in graph.updates.items()},
        graph.name,
    )


def _is_normal(node: Node) -> bool:
    contract, batch = node.attributes["contract"], node.attributes["batch"]
    count = len(batch[0])
    leading = tuple(range(count))
    ranks = [len(v.type.shape) for v in node.inputs]
    return (
        batch == (leading, leading)
        and ranks == [count + 2, count + 2]
        and len(contract[0]) == 1
        and min(contract[0][0], contract[1][0]) >= count
    )


def _rewrite(b: GraphBuilder, node: Node, inputs: Sequence[Value]) -> Value:
    (cx, cy), (bx, by) = node.attributes["contract"], node.attributes["batch"]
    x, y = inputs
    fx, fy = _free(x, cx, bx), _free(y, cy, by)
    sizes = [x.type.shape[i] for i in bx]
    rows = [x.type.shape[i] for i in fx]
    columns = [y.type.shape[i] for i in fy]
    depth = product(x.type.shape[i] for i in cx)
    left = _arranged(b, x, (*bx, *fx, *cx), (*sizes, product(rows), depth))
    right = _arranged(b, y, (*by, *cy, *fy), (*sizes, depth, product(columns)))
    count = len(sizes)
    leading = tuple(range(count))
    result = b.dot_general(left, right, contract=((count + 1,), (count,)), batch=(leading, leading))
    shape = (*sizes, *rows, *columns)
    same = structural_key(result.type.shape) == structural_key(shape)
    return result if same else b.reshape(result, shape=shape)


def _free(x: Value, contract: tuple[int, ...], batch: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(i for i in range(len(x.type.shape)) if i not in (*contract, *batch))


def _arranged(b: GraphBuilder, x: Value, order: tuple[int, ...], shape: tuple[Dim, ...]) -> Any:
    if order != tuple(range(len(order))):
        x = b.permute(x, axes=order)
    same = structural_key(x.type.shape) == structural_key(shape)
    return x if same else b.reshape(x, shape=shape)
