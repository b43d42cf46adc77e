"""Counted kernels and bytes: what fusion promises, on any machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernel_cases import (
    COLUMN,
    COLUMNS,
    MATRIX,
    ROW,
    ROWS,
    Builder,
    adam,
    chain,
    cross_entropy,
    layer_norm,
    layer_norm_backward,
    linear_gelu,
    log_softmax,
    reshaped_chain,
    rms_norm,
    softmax,
    softmax_backward,
    sums,
    transposed_operand,
)

from flamec.codegen.compile_graph import CompiledGraph, compile_graph
from flamec.ir.graph import Value

# kernels, bytes read, bytes written
PROMISES: dict[Callable[[Builder], list[Value]], tuple[int, int, int]] = {
    softmax: (1, MATRIX, MATRIX),
    softmax_backward: (1, 2 * MATRIX, MATRIX),
    log_softmax: (1, MATRIX, MATRIX),
    layer_norm: (1, MATRIX + 2 * ROW, MATRIX),
    layer_norm_backward: (1, 2 * MATRIX + ROW + 2 * COLUMN, MATRIX + 2 * ROW),
    rms_norm: (1, MATRIX + ROW, MATRIX),
    cross_entropy: (1, MATRIX + 2 * COLUMN, MATRIX + 4),
    chain: (1, 2 * MATRIX, MATRIX),
    sums: (1, MATRIX, 2 * ROW + 4),
    linear_gelu: (1, (ROWS + COLUMNS) * 64 * 4 + ROW, MATRIX),
    transposed_operand: (1, (1024 + COLUMNS) * 64 * 4, 1024 * COLUMNS * 4),
    reshaped_chain: (1, MATRIX, MATRIX),
}


def compiled(make: Callable[[Builder], list[Value]]) -> CompiledGraph:
    b = Builder(share=True)
    return compile_graph(b.build(make(b)))


@pytest.mark.parametrize("make", PROMISES, ids=lambda make: make.__name__)
def test_kernels_and_bytes(make: Callable[[Builder], list[Value]]) -> None:
    kernels, read, written = PROMISES[make]
    plan = compiled(make).plan
    assert plan.kernel_count == kernels
    assert sum(step.bytes_read for step in plan.steps) == read
    assert sum(step.bytes_written for step in plan.steps) == written


def test_an_optimizer_step_is_one_kernel_that_writes_in_place() -> None:
    b = Builder(share=True)
    sizes = ((784, 512), (512,), (512, 10), (10,))
    result = compile_graph(b.build(*adam(b, sizes)))
    plan = result.plan
    elements = sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
    assert plan.kernel_count == 1
    assert plan.steps[0].bytes_read == 4 * elements * 4 + (1 + len(sizes)) * 4
    assert plan.steps[0].bytes_written == 3 * elements * 4 + len(sizes) * 4
    assert all(buffer.kind == "input" for buffer in plan.buffers)
    assert plan.source.count("static void loop_") == 1, "equal loops are one function"


def test_reasons_are_given_for_what_is_not_merged() -> None:
    b = Builder(share=True)
    x = b.tensor(ROWS, COLUMNS)
    total = b.sum(x, axes=(0, 1))
    graph = b.build([b.mul(x, total)])
    result = compile_graph(graph)
    assert result.plan.kernel_count == 2
    (left,) = [d for d in result.decisions if not d.made]
    assert left.producer.startswith("sum") and left.consumer.startswith("mul")
    assert left.reason


def test_reasons_are_given_in_the_order_of_the_graph() -> None:
    b = Builder(share=True)
    left, weight = b.tensor(ROWS, 64), b.tensor(64, 64)
    x, results = b.exp(left), []
    order = ("sin", "cos", "tan", "sqrt", "sinh", "cosh", "erf", "log1p", "sigmoid")
    for name in order:
        results.append(
            getattr(b, name)(b.dot_general(x, weight, contract=((1,), (0,)), batch=((), ())))
        )
        weight = b.tensor(64, 64)
    decisions = [d for d in compile_graph(b.build(results)).decisions if not d.made]
    consumers = [d.consumer for d in decisions if d.producer.startswith("exp")]
    assert [c.split(", ")[-1].split(" ")[0] for c in consumers] == list(order)
