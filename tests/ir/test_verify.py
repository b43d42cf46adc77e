"""Each numbered invariant has a graph that breaks it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind, lookup
from flamec.ir.shape import SymbolicDim
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import TensorType, float32, int64
from flamec.ir.verify import VerifyError, verify

T = TensorType((2, 3), float32)


def operand(index: int = 0) -> Value:
    return Value(T, None, index)


def repeated_input() -> Graph:
    x = operand()
    return Graph((x, x), (), ())


def misplaced_input() -> Graph:
    return Graph((operand(1),), (), ())


def out_of_order() -> Graph:
    x = operand()
    first = Node(lookup("neg"), [x])
    second = Node(lookup("neg"), [first.output])
    return Graph((x,), (second, first), (second.output,))


def repeated_node() -> Graph:
    x = operand()
    node = Node(lookup("neg"), [x])
    return Graph((x,), (node, node), (node.output,))


def foreign_op() -> Graph:
    x = operand()
    op = Op("neg", OpKind.ELEMENTWISE, lambda types, _: types[0], lambda _, x: x)
    return Graph((x,), (Node(op, [x]),), ())


def list_attribute() -> Graph:
    x = operand()
    node = Node(lookup("sum"), [x], {"axes": [0]}, types=(TensorType((3,), float32),))
    return Graph((x,), (node,), ())


def wrong_type() -> Graph:
    x = operand()
    return Graph((x,), (Node(lookup("neg"), [x], types=(TensorType((3, 2), float32),)),), ())


def rejected_by_rule() -> Graph:
    x = operand()
    return Graph((x,), (Node(lookup("sum"), [x], {"axes": (5,)}, types=(T,)),), ())


def too_many_results() -> Graph:
    x = operand()
    return Graph((x,), (Node(lookup("neg"), [x], types=(T, T)),), ())


def unknown_output() -> Graph:
    return Graph((operand(),), (), (operand(),))


def unknown_update() -> Graph:
    x = operand()
    return Graph((x,), (), (), {1: x})


def update_of_another_type() -> Graph:
    x = operand()
    node = Node(lookup("eq"), [x, x])
    return Graph((x,), (node,), (), {0: node.output})


@pytest.mark.parametrize(
    ("broken", "invariant", "message"),
    [
        (repeated_input, "V1", "not an input value of that position"),
        (misplaced_input, "V1", "not an input value"),
        (out_of_order, "V2", "not defined before"),
        (repeated_node, "V3", "stands in the graph twice"),
        (foreign_op, "V4", "not registered"),
        (list_attribute, "V5", "attribute axes of sum"),
        (wrong_type, "V6", "the shape rule gives float32"),
        (rejected_by_rule, "V6", "axis 5 is out of range"),
        (too_many_results, "V6", "the shape rule gives"),
        (unknown_output, "V7", "output 0"),
        (unknown_update, "V8", "input 1"),
        (update_of_another_type, "V8", "its update bool"),
    ],
    ids=lambda v: v.__name__ if callable(v) else None,
)
def test_broken_graph(broken: Callable[[], Graph], invariant: str, message: str) -> None:
    with pytest.raises(VerifyError) as raised:
        verify(broken())
    assert raised.value.invariant == invariant
    assert str(raised.value).startswith(f"{invariant}: ")
    assert message in str(raised.value)


def test_node_text_is_in_the_message() -> None:
    with pytest.raises(VerifyError, match=r"= neg\(%0\)"):
        verify(wrong_type())


def test_relations_between_symbols_that_a_guard_settled_are_accepted() -> None:
    class Yes:
        def decide(self, left: object, relation: str, right: object) -> bool:
            return relation == "=="

        def serves(self, frame: object) -> bool:
            return False

    b = GraphBuilder()
    x = b.input(TensorType((SymbolicDim.symbol("B"), 2), float32))
    y = b.input(TensorType((SymbolicDim.symbol("C"), 2), float32))
    with using_oracle(Yes()):  # type: ignore[arg-type]
        graph = b.build([b.add(x, y)])
    assert verify(graph) is graph


def test_wrong_symbol_is_found() -> None:
    B, C = SymbolicDim.symbol("B"), SymbolicDim.symbol("C")
    x = Value(TensorType((B, 2), int64), None, 0)
    node = Node(lookup("neg"), [x], types=(TensorType((C, 2), int64),))
    with pytest.raises(VerifyError, match="V6"):
        verify(Graph((x,), (node,), ()))
