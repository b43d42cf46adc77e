"""The mechanism that local rewrites share: one walk over the nodes with a value map.

In: a graph and a rule. Out: a graph with the same inputs (the same objects), as
many outputs and updates of the same types; the graph itself if the rule changed
nothing. Nodes that nothing reads any more stay, for ``eliminate_dead_code``.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op

Replacement = Value | tuple[Value, ...] | None
Rule = Callable[["RewriteBuilder", Node], Replacement]


class RewriteBuilder(GraphBuilder):
    """Emits what rules ask for, and applies the rule to that too.

    ``original``: the graph's own node for which the rule is asked, before its operands changed.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self._rule = rule
        self.original: Node | None = None

    def apply(self, op: Op, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Any:
        outputs = self.rewritten(Node(op, inputs, attributes, self.location, self.scope))
        return outputs if len(outputs) != 1 else outputs[0]

    def rewritten(self, node: Node) -> tuple[Value, ...]:
        """The values that stand for the results of ``node``, which is added if it stays."""
        replacement = self._rule(self, node)
        if replacement is None:
            self.nodes.append(node)
            return node.outputs
        values = replacement if isinstance(replacement, tuple) else (replacement,)
        for value, output in zip(values, node.outputs, strict=True):
            if value.type != output.type:
                raise TypeError(
                    f"{node.op.name} of type {output.type} was replaced by a value of type "
                    f"{value.type}"
                )
        return values


def rewrite(graph: Graph, rule: Rule, only: Container[Node] | None = None) -> Graph:
    """Apply ``rule(builder, node)`` to every node, in order, and to what the rule emits.

    ``only``: of the graph's own nodes, apply it to these.

    The rule sees a node whose operands are rewritten already. It returns None to
    keep it, or a value (a tuple, for several results) to take the place of its
    results; values are types equal, else TypeError. New nodes have the source line
    and scope of the node they replace.
    """
    builder = RewriteBuilder(rule)
    replaced: dict[Value, Value] = {}
    changed = False
    for node in graph.nodes:
        operands = tuple([replaced.get(v, v) for v in node.inputs])
        candidate = node
        if any(map(_differs, operands, node.inputs)):
            candidate = moved(node, operands)
        builder.location, builder.scope = node.location, node.scope
        builder.original = node
        if only is None or node in only:
            values = builder.rewritten(candidate)
        else:
            builder.nodes.append(candidate)
            values = candidate.outputs
        if values is not node.outputs:
            changed = True
            replaced.update(zip(node.outputs, values, strict=True))
    if not changed:
        return graph
    return Graph(
        graph.inputs,
        tuple(builder.nodes),
        tuple(replaced.get(v, v) for v in graph.outputs),
        {i: replaced.get(v, v) for i, v in graph.updates.items()},
        graph.name,
    )


def _differs(a: Value, b: Value) -> bool:
    return a is not b


def moved(node: Node, operands: tuple[Value, ...]) -> Node:
    """The same operation on other operands of the same types."""
    types = tuple(v.type for v in node.outputs)
    copy = Node(node.op, operands, node.attributes, node.location, node.scope, types)
    for new, old in zip(copy.outputs, node.outputs, strict=True):
        new.name = old.name
    return copy
