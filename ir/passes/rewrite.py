"""The mechanism that local rewrites share: one walk over the nodes with a value map.

In: a graph and a rule. Out: a graph with the same inputs (the same objects), as
many outputs and updates of the same types; the graph itself if the rule changed
nothing. Nodes that nothing reads any more stay, for ``eliminate_dead_code``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Mapping, Sequence
from itertools import chain
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op
from flamec.ir.passes.visits import count_visits

Replacement = Value | tuple[Value, ...] | None
Rule = Callable[["RewriteBuilder", Node], Replacement]


class RewriteBuilder(GraphBuilder):
    """Emits what rules ask for, and applies the rule to that too.

    ``original``: the graph's own node for which the rule is asked, before its operands changed.
    """

    def __init__(self, rule: Rule, settled: set[Node] | None = None) -> None:
        super().__init__()
        self._rule = rule
        self._settled = settled
        self.original: Node | None = None

    def apply(self, op: Op, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Any:
        outputs = self.rewritten(Node(op, inputs, attributes, self.location, self.scope))
        return outputs if len(outputs) != 1 else outputs[0]

    def rewritten(self, node: Node) -> tuple[Value, ...]:
        """The values that stand for the results of ``node``, which is added if it stays."""
        replacement = self._rule(self, node)
        if replacement is None:
            self.nodes.append(node)
            if self._settled is not None:
                self._settled.add(node)
            return node.outputs
        values = replacement if isinstance(replacement, tuple) else (replacement,)
        for value, output in zip(values, node.outputs, strict=True):
            if value.type != output.type:
                raise TypeError(
                    f"{node.op.name} of type {output.type} was replaced by a value of type "
                    f"{value.type}"
                )
        return values


def rewrite(
    graph: Graph,
    rule: Rule,
    only: Container[Node] | None = None,
    applies: Callable[[Op], bool] | None = None,
    settled: set[Node] | None = None,
) -> Graph:
    """Apply ``rule(builder, node)`` to every node, in order, and to what the rule emits.

    ``only``: of the graph's own nodes, apply it to these. ``applies``: whether the rule has
    anything to say of an operation. ``settled``: the nodes that the rule left as they are, also in
    earlier graphs, are kept there and not asked about again; for rules that look at nothing but a
    node and what it is computed from, which never change.

    The rule sees a node whose operands are rewritten already. It returns None to
    keep it, or a value (a tuple, for several results) to take the place of its
    results; values are types equal, else TypeError. New nodes have the source line
    and scope of the node they replace.
    """
    wanted = graph.ops if applies is None else {op for op in graph.ops if applies(op)}
    if not wanted:
        return graph
    builder = RewriteBuilder(rule, settled)
    replaced: dict[Value, Value] = {}
    start, asked = _first_change(graph, builder, wanted, only, settled, replaced)
    keep = builder.nodes.append
    unchanged, now = replaced.keys().isdisjoint, replaced.get
    for node in graph.nodes[start:]:
        read = node.inputs
        candidate = node if unchanged(read) else node.on([now(v, v) for v in read])
        if (
            node.op not in wanted
            or (only is not None and node not in only)
            or (settled is not None and candidate in settled)
        ):
            keep(candidate)
            values = candidate.outputs
        else:
            asked += 1
            builder.location, builder.scope = node.location, node.scope
            builder.original = node
            values = builder.rewritten(candidate)
        if values is not node.outputs:
            replaced.update(zip(node.outputs, values, strict=True))
    count_visits(asked)
    if not replaced:
        return graph
    return graph.with_nodes(builder.nodes, replaced)


def _first_change(
    graph: Graph,
    builder: RewriteBuilder,
    wanted: Collection[Op],
    only: Container[Node] | None,
    settled: Container[Node] | None,
    replaced: dict[Value, Value],
) -> tuple[int, int]:
    """Ask about nodes until the rule replaces one: how many are done, and were asked about.

    Until then there is nothing to do for the others, which are most if ``wanted`` are few.
    """
    nodes = graph.nodes
    done = asked = 0
    for place in sorted(chain.from_iterable([graph.places[op] for op in wanted])):
        node = nodes[place]
        if (only is not None and node not in only) or (settled is not None and node in settled):
            continue
        builder.nodes.extend(nodes[done:place])
        done = place + 1
        asked += 1
        builder.location, builder.scope = node.location, node.scope
        builder.original = node
        values = builder.rewritten(node)
        if values is not node.outputs:
            replaced.update(zip(node.outputs, values, strict=True))
            return done, asked
    return len(nodes), asked
