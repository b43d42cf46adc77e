"""Branches of little work become choices by element, others stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.op import lookup
from flamec.ir.parser import parse_type
from flamec.ir.passes.choose_by_element import MOST_BYTES, MOST_NODES, choose_by_element
from flamec.ir.shape import Dim
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import DType, TensorType, bool_, float32, int64

Make = Callable[[GraphBuilder, Any], Any]


def branching(first: Make, second: Make, size: int = 4, dtype: DType = float32) -> Graph:
    """A choice of two functions of an array."""
    b = GraphBuilder()
    predicate, x = b.input(TensorType((), bool_)), b.input(TensorType((size,), dtype))
    return b.build([_cond(b, predicate, x, first, second)])


def _cond(b: GraphBuilder, predicate: Any, x: Any, first: Make, second: Make) -> Any:
    bodies = {}
    for name, make in (("true_body", first), ("false_body", second)):
        inner = GraphBuilder()
        bodies[name] = inner.build([make(inner, inner.input(b.type_of(x)))], name=name)
    return b.apply(lookup("cond"), [predicate, x], bodies)


def inverse(b: GraphBuilder, x: Any) -> Any:
    return b.div(b.full(value=1.0, shape=(), dtype=float32), x)


def same(b: GraphBuilder, x: Any) -> Any:
    return x


def nested(b: GraphBuilder, x: Any) -> Any:
    first = b.reshape(b.slice(x, starts=(0,), sizes=(1,), steps=(1,)), shape=())
    zero = b.full(value=0.0, shape=(), dtype=float32)
    return _cond(b, b.lt(first, zero), x, lambda b, x: b.log(x), inverse)


@pytest.mark.parametrize(("first", "second"), [(inverse, same), (nested, inverse)])
def test_the_other_branch_leaves_nothing(first: Make, second: Make) -> None:
    """Not even where it gives infinities and NaN."""
    graph = branching(first, second)
    chosen = choose_by_element(graph)
    assert not chosen.has_bodies and "where" in {node.op.name for node in chosen.nodes}
    for x in ([0.0, -1.0, 2.0, np.nan], [-2.0, 0.0, 3.0, np.inf]):
        for predicate in (True, False):
            arrays = [np.array(predicate), np.array(x, np.float32)]
            with np.errstate(all="ignore"):
                (found,), _ = evaluate_graph(chosen, arrays, {})
                (wanted,), _ = evaluate_graph(graph, arrays, {})
            np.testing.assert_array_equal(found, wanted)


def many(b: GraphBuilder, x: Any) -> Any:
    for _ in range(MOST_NODES + 1):
        x = b.add(x, x)
    return x


def read(b: GraphBuilder, x: Any) -> Any:
    return b.index(x, b.iota(shape=(4,), axis=0, dtype=int64))


def spread(b: GraphBuilder, x: Any) -> Any:
    wide = b.expand(b.reshape(x, shape=(4, 1)), shape=(4, MOST_BYTES // 8))
    return b.reshape(b.slice(wide, starts=(0, 0), sizes=(4, 1), steps=(1, 1)), shape=(4,))


def remainder(b: GraphBuilder, x: Any) -> Any:
    return b.remainder(b.add(x, x), x)


@pytest.mark.parametrize(
    "graph",
    [
        branching(same, lambda b, x: b.sub(x, b.sum(x, axes=(0,)))),
        branching(same, many),
        branching(same, read),
        branching(same, spread),
        branching(same, remainder, dtype=int64),
        branching(same, inverse, size=MOST_BYTES // 8),
    ],
    ids=["fold", "many", "read", "spread", "integers", "large"],
)
def test_others_stay_branches(graph: Graph) -> None:
    assert choose_by_element(graph) is graph


def test_what_is_just_allowed() -> None:
    for graph in (
        branching(same, remainder),
        branching(same, inverse, size=MOST_BYTES // 8 - 1),
        branching(lambda b, x: b.add(x, x), lambda b, x: b.neg(x), dtype=int64),
    ):
        assert not choose_by_element(graph).has_bodies


class _Guarded:
    """An oracle for which all that is asked holds."""

    def decide(self, left: Dim, relation: str, right: Dim) -> bool:
        return True

    def serves(self, frame: object) -> bool:
        return False


def test_what_guards_have_settled_is_not_asked_again() -> None:
    b = GraphBuilder()
    predicate, x = b.input(TensorType((), bool_)), b.input(parse_type("float32[s0, s1]"))

    def flat(b: GraphBuilder, x: Any) -> Any:
        return b.reshape(b.reshape(x, shape=(40,)), shape=b.type_of(x).shape)

    with using_oracle(_Guarded()):  # type: ignore[arg-type]
        graph = b.build([_cond(b, predicate, x, flat, same)])
    assert not choose_by_element(graph).has_bodies
