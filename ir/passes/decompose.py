"""Rewrite operations that a backend does not lower into ones that it does.

In: a graph and, by operation name, rules written with the builder. Out: a graph
without the named operations, as far as the rules accepted them.
"""

from __future__ import annotations

from collections.abc import Mapping

from flamec.ir.graph import Graph, Node
from flamec.ir.passes.rewrite import Replacement, RewriteBuilder, Rule, rewrite


def decompose(graph: Graph, rules: Mapping[str, Rule]) -> Graph:
    """Replace each node whose operation has a rule ``(builder, node) -> value``.

    A rule returns None to leave a node as it is. What it emits is decomposed again.
    """

    def expand(builder: RewriteBuilder, node: Node) -> Replacement:
        return rules[node.op.name](builder, node) if node.op.name in rules else None

    return rewrite(graph, expand, applies=lambda op: op.name in rules)
