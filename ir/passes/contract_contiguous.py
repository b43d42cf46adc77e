"""Copy operands of large float32 products so that what is contracted lies side by side.

In: a graph before its contractions have their normal form. Out: one in which the contracted axis
of every large float32 operand is its last one. Matrix instructions on operands rounded to tf32
read no others; a block in another order would be rearranged for each of its uses.
"""

from __future__ import annotations

from flamec.ir.estimates import estimate
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind, lookup
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, rewrite
from flamec.ir.shape import product
from flamec.ir.types import float32

LARGE = 1 << 27  # multiplications that are worth one more pass over an operand


def contract_contiguous(graph: Graph) -> Graph:
    """See the module's docstring."""
    return rewrite(graph, _contiguous, applies=lambda op: op.kind is OpKind.CONTRACTION)


def _contiguous(b: RewriteBuilder, node: Node) -> Replacement:
    if node.op.kind is not OpKind.CONTRACTION:
        return None
    contract, batch = list(node.attributes["contract"]), list(node.attributes["batch"])
    if any(len(axes) != 1 for axes in contract) or not _is_large(node):
        return None
    operands = list(node.inputs)
    for side, value in enumerate(node.inputs):
        last = len(value.type.shape) - 1
        axis = contract[side][0]
        if value.type.dtype is float32 and axis != last:
            order = (*(a for a in range(last + 1) if a != axis), axis)
            moved = b.permute(value, axes=order)
            operands[side] = b.apply(lookup("convert"), (moved,), {"dtype": float32})
            contract[side] = (last,)
            batch[side] = tuple(order.index(a) for a in batch[side])
    if tuple(operands) == node.inputs:
        return None
    return b.apply(node.op, operands, {"contract": tuple(contract), "batch": tuple(batch)})


def _is_large(node: Node) -> bool:
    result: Value = node.output
    (axis,) = node.attributes["contract"][0]
    return estimate(product(result.type.shape) * node.inputs[0].type.shape[axis]) >= LARGE
