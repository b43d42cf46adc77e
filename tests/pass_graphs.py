"""Small graphs for the tests of passes, and the operations that are left of them."""

from __future__ import annotations

from collections.abc import Callable

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.simplify import simplify
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType, float32
from flamec.ir.verify import verify

B = SymbolicDim.symbol("B")
X = TensorType((B, 4), float32)
Body = Callable[..., Value]


def graph_of(body: Body, *types: TensorType) -> Graph:
    b = GraphBuilder()
    values = [b.input(t) for t in types]
    return b.build([body(b, *values)])


def names(graph: Graph) -> list[str]:
    """Operations that results need, constants aside."""
    nodes = eliminate_dead_code(verify(graph)).nodes
    return [n.op.name for n in nodes if n.op.name != "full"]


def simplified(body: Body, *types: TensorType) -> list[str]:
    return names(simplify(graph_of(body, *types)))


def number(b: GraphBuilder, value: float, like: Value) -> Value:
    return b.constant(value, like.type)
