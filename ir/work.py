"""How much an operation computes and moves, by its types alone.

In: an operation with the types of its operands and results. Out: arithmetic operations and bytes,
symbolic where sizes are. Invariant: what costs nothing (views, barriers) gives 0. What a kernel
really does, once operations share loops, ``codegen/traffic.py`` counts from its statements; the
arithmetic of both agrees where fusion computes nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamec.ir.graph import Graph, Node
from flamec.ir.op import CONTROL, Op, OpKind
from flamec.ir.shape import Dim, floordiv, product
from flamec.ir.types import TensorType

_FREE = frozenset(
    {OpKind.VIEW, OpKind.BARRIER, OpKind.CUSTOM, OpKind.CALL, OpKind.COMPOSITE, *CONTROL}
)


def operation_bytes(op: Op, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> Dim:
    """Bytes of all operands and results, each once.

    A gather reads as many elements of its first operand as it gives; a scatter that changes an
    array is counted with the array.
    """
    if op.kind in _FREE:
        return 0
    read: list[Dim] = [_bytes(t) for t in inputs]
    if op.kind is OpKind.GATHER and read:
        read[0] = product(outputs[0].shape) * inputs[0].dtype.itemsize
    total: Dim = 0
    for n in (*read, *map(_bytes, outputs)):
        total = total + n
    return total


def operation_flops(
    op: Op,
    attributes: Mapping[str, Any],
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> Dim:
    """Arithmetic operations: one for each element computed or folded, two for a multiplication
    that is summed. What moves elements (a copy, a gather) has none, nor has what the host computes.
    """
    match op.kind:
        case OpKind.ELEMENTWISE:
            return product(outputs[0].shape)
        case OpKind.REDUCTION | OpKind.SCAN:
            return product(inputs[0].shape)
        case OpKind.SCATTER:
            return product(inputs[1].shape) if len(inputs) > 1 else 0
        case OpKind.CONTRACTION:
            depth = product(inputs[0].shape[i] for i in attributes["contract"][0])
            return 2 * product(outputs[0].shape) * depth
        case OpKind.CONVOLUTION:
            kernel = inputs[1].shape
            return 2 * product(outputs[0].shape) * product(kernel[1:])
        case OpKind.ATTENTION:
            return _attention_flops(attributes, inputs)
    return 0


def _attention_flops(attributes: Mapping[str, Any], inputs: Sequence[TensorType]) -> Dim:
    """The products: two forward, five backward; a causal mask leaves half of them out."""
    query, key, value = (t.shape for t in inputs[:3])
    scores = product(query[:-1]) * key[-2]
    backward = len(inputs) > 4
    numbers = 3 * query[-1] + 2 * value[-1] if backward else query[-1] + value[-1]
    total = 2 * scores * numbers
    return total if attributes["upper"] is None else floordiv(total, 2)


def node_work(node: Node) -> tuple[Dim, Dim]:
    """Bytes and arithmetic operations of a node; of a loop, those of its body in every step.

    Bodies of which it is not known how often they run count once.
    """
    types = tuple(v.type for v in node.inputs)
    results = tuple(v.type for v in node.outputs)
    if node.op.kind not in CONTROL:
        flops = operation_flops(node.op, node.attributes, types, results)
        return operation_bytes(node.op, types, results), flops
    moved: Dim = 0
    computed: Dim = 0
    for body in node.bodies.values():
        body_bytes, body_flops = graph_work(body)
        moved, computed = moved + body_bytes, computed + body_flops
    times = 1 if node.attributes.get("counted") else node.attributes.get("length", 1)
    return moved * times, computed * times


def graph_work(graph: Graph) -> tuple[Dim, Dim]:
    """Bytes and arithmetic operations of all nodes, as if each were a kernel."""
    moved: Dim = 0
    computed: Dim = 0
    for node in graph.nodes:
        node_bytes, node_flops = node_work(node)
        moved, computed = moved + node_bytes, computed + node_flops
    return moved, computed


def _bytes(type: TensorType) -> Dim:
    return product(type.shape) * type.dtype.itemsize
