"""``grad_fn.next_functions``: walking a tensor's history, against PyTorch."""

from __future__ import annotations

from typing import Any

import pytest

import flamec

torch = pytest.importorskip("torch")


def history(node: Any, leaves: dict[int, str]) -> Any:
    """The history of a tensor as nested tuples, leaves by name."""
    if node is None:
        return None
    if hasattr(node, "variable"):
        return leaves[id(node.variable)], node.name(), node.next_functions
    made = tuple((history(next_node, leaves), index) for next_node, index in node.next_functions)
    return node.name(), made


FUNCTIONS = {
    "chain": lambda x, w: (x * w).exp().sin(),
    "constant": lambda x, w: x * w.detach() + w,
    "leaf twice": lambda x, w: x * x,
    "result twice": lambda x, w: (lambda h: h.exp() + h)(x * w),
    "sum": lambda x, w: (x + w).sum(),
    "second result": lambda x, w: (x * w).sort()[0] * (x + w).abs(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_histories_of_the_same_operations_are_the_same(name: str) -> None:
    def run(package: Any) -> Any:
        x, w = (package.tensor(v, requires_grad=True) for v in ([1.0, 2.0], [0.5, 3.0]))
        return history(FUNCTIONS[name](x, w).grad_fn, {id(x): "x", id(w): "w"})

    assert run(flamec) == run(torch)


def test_a_node_is_one_object_however_it_is_reached() -> None:
    x = flamec.ones(2, requires_grad=True)
    h = x * 2
    y = h.exp() + h
    (exp, _), (direct, _) = y.grad_fn.next_functions
    assert direct is h.grad_fn and exp.next_functions[0][0] is direct
    ends = {direct.next_functions[0][0], (x + 1).grad_fn.next_functions[0][0]}
    assert len(ends) == 1 and ends.pop().variable is x


def test_results_of_a_compiled_function_are_numbered() -> None:
    x = flamec.ones(2, requires_grad=True)
    first, second = flamec.compile(lambda x: (x * 2, x.exp()))(x)
    y = second * first
    (node, one), (same, zero) = y.grad_fn.next_functions
    assert node is same and (one, zero) == (1, 0)
    assert [end.variable for end, _ in node.next_functions] == [x]


def test_a_history_can_be_walked_after_backward() -> None:
    x = flamec.ones(2, requires_grad=True)
    y = (x * 2).exp().sum()
    y.backward()
    assert y.grad_fn.next_functions[0][0].next_functions[0][0].name() == "MulBackward0"


def test_a_leaf_that_was_dropped_has_no_variable() -> None:
    y = flamec.ones(2, requires_grad=True) * 2
    assert y.grad_fn.next_functions[0][0].variable is None
