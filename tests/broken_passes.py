"""Passes of the pipeline with a mistake put into them, for tests of what finds mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flamec.codegen.c import statements
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes import pipeline as pipeline_module
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite

Rule = Callable[[RewriteBuilder, Node], Value | None]


def break_pass(monkeypatch: pytest.MonkeyPatch, name: str, rule: Rule) -> None:
    """From now on the pass ``name`` does what it did, and then applies ``rule`` to each node."""
    honest = getattr(pipeline_module, name)

    def broken(graph: Graph, **options: Any) -> Graph:
        return rewrite(honest(graph, **options), rule)

    monkeypatch.setattr(pipeline_module, name, broken)


def break_c(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, when: Callable[[], bool] = lambda: True
) -> None:
    """From now on the lines of statements in C have ``new`` for ``old``, as long as ``when()``."""
    honest = statements.StatementWriter.write

    def broken(*arguments: Any) -> list[str]:
        change = when()
        return [line.replace(old, new) if change else line for line in honest(*arguments)]

    monkeypatch.setattr(statements.StatementWriter, "write", broken)


def negate_sines(b: RewriteBuilder, node: Node) -> Value | None:
    """A wrong identity: sin(x) = -cos(x)."""
    if node.op.name != "sin":
        return None
    return b.neg(b.cos(node.inputs[0]))


def forget_a_factor(b: RewriteBuilder, node: Node) -> Value | None:
    """A wrong constant: 3 x = 2 x."""
    if node.op.name != "full" or node.attributes["value"] != 3.0:
        return None
    return b.full(**{**node.attributes, "value": 2.0})


def swap_operands(b: RewriteBuilder, node: Node) -> Value | None:
    """A wrong commutation: x - y = y - x, for operands that were computed."""
    left, right = (*node.inputs, None, None)[:2]
    if node.op.name != "sub" or left is None or right is None or left.node is None:
        return None
    return b.sub(right, left) if left.node.op.name == "exp" else None


def refuse_hyperbolic_tangents(b: RewriteBuilder, node: Node) -> Value | None:
    """A rule that fails on an operation."""
    if node.op.name == "tanh":
        raise KeyError(f"no rule for {node.inputs[0].type}")
    return None


def refuse_sums_of_products(b: RewriteBuilder, node: Node) -> Value | None:
    """A rule that fails on two operations one after the other."""
    source = node.inputs[0].node if node.inputs else None
    if node.op.name == "sum" and source is not None and source.op.name == "mul":
        raise AssertionError(f"axes {node.attributes['axes']} of {node.inputs[0].type.shape}")
    return None
