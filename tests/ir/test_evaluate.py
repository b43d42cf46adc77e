"""The evaluator: dtypes, symbols, updates, memory, errors."""

from __future__ import annotations

import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
from counted_calls import called_by

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph, run_op
from flamec.ir.graph import Graph
from flamec.ir.op import Op, OpKind, lookup
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import CPU, TensorType, bfloat16, float32, int64

B = SymbolicDim.symbol("B")


def test_halves_are_computed_in_float32_and_rounded_once() -> None:
    x = np.full(1000, 0.1, ml_dtypes.bfloat16)
    (total,) = run_op(lookup("sum"), {"axes": (0,)}, (x,), (TensorType((), bfloat16),))
    assert total.dtype == ml_dtypes.bfloat16
    assert float(total) == float(x.astype(np.float32).sum().astype(ml_dtypes.bfloat16))


def test_no_warning_leaves_an_operation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = np.array([0.0, np.inf], np.float32)
        types = (TensorType((2,), float32),)
        run_op(lookup("div"), {}, (x, x), types)
        run_op(lookup("log"), {}, (-x,), types)


def test_wrong_shape_is_an_internal_error_that_names_the_op() -> None:
    op = Op("broken", OpKind.VIEW, lambda types, _: types[0], lambda _, x: x[:1])
    with pytest.raises(RuntimeError, match=r"broken gave .*\[1\].*\[3\]"):
        run_op(op, {}, (np.zeros(3, np.float32),), (TensorType((3,), float32),))


def symbolic_graph() -> Graph:
    b = GraphBuilder()
    x = b.input(TensorType((B, 3), float32))
    y = b.input(TensorType((B * 2,), float32))
    flat = b.reshape(x, shape=(B * 3,))
    size = b.dim_size(size=B, dtype=int64, device=CPU)
    return b.build([flat, size, b.sum(y, axes=(0,))], {0: b.add(x, x), 1: y})


@pytest.mark.parametrize("size", [0, 1, 4])
def test_symbols_are_bound_from_the_inputs(size: int) -> None:
    x = np.arange(3 * size, dtype=np.float32).reshape(size, 3)
    y = np.ones(2 * size, np.float32)
    (flat, found, total), updates = evaluate_graph(symbolic_graph(), [x, y])
    assert np.array_equal(flat, x.reshape(-1)) and int(found) == size and float(total) == 2 * size
    assert np.array_equal(updates[0], 2 * x) and np.array_equal(updates[1], y)


def test_results_do_not_share_memory_with_inputs() -> None:
    x, y = np.zeros((2, 3), np.float32), np.zeros(4, np.float32)
    (flat, *_), updates = evaluate_graph(symbolic_graph(), [x, y])
    for result in (flat, *updates.values()):
        assert not np.shares_memory(result, x) and not np.shares_memory(result, y)


def test_inputs_that_do_not_fit() -> None:
    graph = symbolic_graph()
    x, y = np.zeros((2, 3), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="has 2 inputs, 1 were given"):
        evaluate_graph(graph, [x])
    with pytest.raises(TypeError, match=r"input 1 is .* not float64"):
        evaluate_graph(graph, [x, y.astype(np.float64)])
    with pytest.raises(ValueError, match=r"input 1 .* cannot have shape"):
        evaluate_graph(graph, [x, y[:3]])
    with pytest.raises(ValueError, match=r"input 0 .* cannot have shape"):
        evaluate_graph(graph, [x[0], y])


def test_symbols_that_no_input_determines_are_asked_for() -> None:
    b = GraphBuilder()
    graph = b.build([b.sum(b.input(TensorType((B * 2,), float32)), axes=(0,))])
    with pytest.raises(ValueError, match="do not determine B"):
        evaluate_graph(graph, [np.ones(4, np.float32)])
    assert float(evaluate_graph(graph, [np.ones(4, np.float32)], {"B": 2})[0][0]) == 4.0


@pytest.mark.parametrize("position", [5, -6])
def test_index_out_of_range(position: int) -> None:
    x, where = np.zeros((5, 2), np.float32), np.array([position])
    with pytest.raises(IndexError, match=f"index {position} .* dimension 0 of size 5"):
        run_op(lookup("index"), {}, (x, where), (TensorType((1, 2), float32),))
    with pytest.raises(IndexError, match=f"index {position} .* dimension 0 of size 5"):
        arrays = (x, np.zeros((1, 2), np.float32), where)
        run_op(lookup("index_put"), {"mode": "add"}, arrays, (TensorType((5, 2), float32),))


def test_values_are_freed_after_their_last_use() -> None:
    b = GraphBuilder()
    value = x = b.input(TensorType((1 << 20,), float32))
    for _ in range(40):
        value = b.neg(value)
    graph = b.build([b.add(value, x)])
    tracemalloc.start()
    evaluate_graph(graph, [np.zeros(1 << 20, np.float32)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * (4 << 20)


def test_one_operation_calls_little_but_numpy() -> None:
    x = np.ones(8, np.float32)
    op, types = lookup("add"), (TensorType((8,), float32),)
    run_op(op, {}, (x, x), types)
    called = called_by(lambda: run_op(op, {}, (x, x), types))
    ours = [name for name in called if "errstate" not in name and "ContextVar" not in name]
    assert len(ours) <= 6, called
