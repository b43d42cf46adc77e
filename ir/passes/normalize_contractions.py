"""Bring every matrix product to the form batch…, rows, depth times batch…, depth, columns.

In: any ``dot_general``. Out: one whose free and contracted dimensions are single and
stand after the batch dimensions, between permutes and reshapes that cost nothing
(``layout`` resolves them). What the back end's products cannot read as it lies is copied, once for
all of them that want it in the same order.
"""

from __future__ import annotations

from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import Dim, product, structural_key


def normalize_contractions(graph: Graph) -> Graph:
    """The graph with all contractions in normal form; itself if they are already."""
    normal = rewrite(graph, _normalize, applies=lambda op: op.kind is OpKind.CONTRACTION)
    if normal is graph:
        return graph
    return eliminate_common_subexpressions(normal)  # an array arranged for two products


def _normalize(b: RewriteBuilder, node: Node) -> Replacement:
    if node.op.kind is not OpKind.CONTRACTION or _is_normal(node):
        return None
    return _rewritten(b, node)


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


def _rewritten(b: GraphBuilder, node: Node) -> Value:
    (cx, cy), (bx, by) = node.attributes["contract"], node.attributes["batch"]
    x, y = node.inputs
    fx, fy = _free(x, cx, bx), _free(y, cy, by)
    sizes = [x.type.shape[i] for i in bx]
    rows = [x.type.shape[i] for i in fx]
    columns = [y.type.shape[i] for i in fy]
    depth = product(x.type.shape[i] for i in cx)
    left = _arranged(b, x, (*bx, *fx, *cx), (*sizes, product(rows), depth))
    right = _arranged(b, y, (*by, *cy, *fy), (*sizes, depth, product(columns)))
    count = len(sizes)
    leading = tuple(range(count))
    changed = {"contract": ((count + 1,), (count,)), "batch": (leading, leading)}
    result = b.apply(node.op, (left, right), {**node.attributes, **changed})
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
