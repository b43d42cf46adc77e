"""Backward passes that eager mode refuses because another one has freed what they need.

In: the nodes of a trace, its tracked values, what passes in the traced function went through. Out:
the values from which no pass can begin any more, and which results of a program share a history.
A pass frees what the operations on its way have saved, and a second pass through one of those that
saved anything is an error. A program keeps less, since it computes again what is cheap; it refuses
the same, because a history that was meant to be cut would grow from call to call.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from flamec.ir.graph import Graph, Node, Value

if TYPE_CHECKING:
    from flamec.trace import Trace


def saves(node: Node, tracked: Collection[Value]) -> bool:
    """Whether eager mode keeps a value for the derivative of this operation."""
    if not any(v in tracked for v in node.outputs):
        return False
    inputs = node.op.saved_inputs([v in tracked for v in node.inputs])
    return bool(inputs or node.op.saved_outputs(len(node.outputs), node.attributes))


class FreedValues:
    """The tracked values of a trace whose history a pass in the function has freed."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._known: set[Value] = set()
        self._count = 0  # of the nodes that were looked at

    def __contains__(self, value: Value) -> bool:
        trace, known = self._trace, self._known
        for node in islice(trace.builder.nodes, self._count, None):
            self._count += 1
            if node.op.derivative is None:
                continue
            is_freed = id(node) in trace.freed and saves(node, trace.tracked)
            if is_freed or any(v in known for v in node.inputs):
                known.update(v for v in node.outputs if v in trace.tracked)
        return value in known


def sharing(graph: Graph, outputs: Sequence[int], tracked: Collection[Value]) -> list[int]:
    """For each of these outputs, as bits, those that need something that a pass from it frees."""
    bits: dict[Value, int] = {}
    for i, position in enumerate(outputs):
        value = graph.outputs[position]
        bits[value] = bits.get(value, 0) | 1 << i
    together = set()
    for node in reversed(graph.nodes):
        mask = 0
        for value in node.outputs:
            mask |= bits.get(value, 0)
        if not mask:
            continue
        if saves(node, tracked):
            together.add(mask)
        for value in node.inputs if node.op.derivative is not None else ():
            if value in tracked:
                bits[value] = bits.get(value, 0) | mask
    shared = [0] * len(outputs)
    for mask in together:
        for i in range(len(outputs)):
            if mask >> i & 1:
                shared[i] |= mask
    return shared
