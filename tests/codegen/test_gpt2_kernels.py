"""What GPT-2's training step in bfloat16 is on a GPU: counted kernels and bytes of one layer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

from gpt2_example import example

import flamec
from flamec.codegen.compile_graph import CompiledGraph
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.passes.forget_derivatives import forget_derivatives
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.recognize_attention import attention_of
from flamec.ir.plan import Step
from flamec.program import Program

BATCH, LENGTH, WIDTH, HEADS, WORDS = 8, 128, 256, 4, 4096
TOKENS = BATCH * LENGTH
WIDE, HALF = TOKENS * WIDTH * 4, TOKENS * WIDTH * 2  # an activation in float32, in bfloat16


@cache
def compiled(layers: int) -> CompiledGraph:
    gpt2 = example()
    config = gpt2.Config(WORDS, LENGTH, layers, HEADS, WIDTH)
    training = gpt2.Training(config, dtype="bfloat16", clip=None)
    step = CompiledFunction(training.step, replace(default_options(), backend="evaluate"))
    tokens = flamec.zeros(BATCH, LENGTH, dtype=flamec.int64)
    program = step.compile_variant((tokens, tokens), {})
    assert isinstance(program, Program)
    traced = forget_derivatives(program.prepared.graph)  # on a CPU: attention is as written
    return compile_graph(run_passes(attention_of(traced)[0], pipeline())[0])


def of_one_layer() -> list[Step]:
    """The steps that a third layer adds to two."""
    two, three = (Counter(map(_look, compiled(n).plan.steps)) for n in (2, 3))
    added = three - two
    assert not two - three
    found = []
    for step in compiled(3).plan.steps:
        if added[_look(step)]:
            added[_look(step)] -= 1
            found.append(step)
    return found


def _look(step: Step) -> Any:
    count = 0 if step.kind == "pointwise" and len(step.operations) > 100 else step.bytes_written
    return step.kind, step.operations if count else "optimizer", count


def test_kernels_of_one_layer() -> None:
    kinds = Counter(step.kind for step in of_one_layer())
    assert kinds["attention"] == 2
    assert kinds["matmul"] == 12  # forward 4, backward twice as many
    assert kinds["pointwise"] == 4  # weights are rounded to bfloat16
    assert kinds["reduction"] == 6  # the bias of the first layer is folded where its product is
    assert set(kinds) == {"attention", "matmul", "pointwise", "reduction"}


def test_attention_moves_its_operands_and_results_only() -> None:
    """Heads are read from the product of queries, keys and values, and nothing is rearranged."""
    forward, backward = (s for s in of_one_layer() if s.kind == "attention")
    rows = BATCH * HEADS * LENGTH * 4
    assert (forward.bytes_read, forward.bytes_written) == (3 * HALF, HALF + rows)
    assert (backward.bytes_read, backward.bytes_written) == (4 * HALF + 2 * rows, 3 * HALF)
    moved = [(s.bytes_read, s.bytes_written) for s in of_one_layer() if s.kind == "reduction"]
    # gradients are written side by side, and summed for the bias
    assert moved.count((3 * HALF, 3 * WIDTH * 2)) == 1


def test_row_kernels_read_and_write_once() -> None:
    """layer_norm backward; statistics of rows and biases are small."""
    steps = [s for s in of_one_layer() if {"sum", "neg", "mul"} <= set(s.operations)]
    assert len(steps) == 2 and all(s.kind == "reduction" for s in steps)
    for step in steps:
        assert isinstance(step.bytes_read, int) and isinstance(step.bytes_written, int)
        assert step.bytes_read <= 4 * WIDE * 1.15
        assert step.bytes_written <= 2 * WIDE * 1.15


def test_nothing_is_only_transposed_or_copied() -> None:
    for step in of_one_layer():
        assert not set(step.operations) <= {"reshape", "copy", "permute"}, step


def test_gelu_is_the_epilogue_of_its_product_both_ways() -> None:
    steps = [s for s in of_one_layer() if "sigmoid" in s.operations]
    assert [s.kind for s in steps] == ["matmul", "matmul"]
    forward, backward = steps
    assert forward.bytes_written == 2 * 4 * HALF  # its argument and its value
    assert "sum" in backward.operations  # the gradient of the bias
    assert 4 * HALF < backward.bytes_written <= 1.01 * 4 * HALF


def test_cross_entropy_and_its_gradient_are_one_kernel() -> None:
    """The targets are counted before, so that a row's gradient need not wait for the last row;
    and it takes the place of the logits."""
    logits = TOKENS * WORDS * 2
    steps = [s for s in compiled(2).plan.steps if "exp" in s.operations and s.bytes_read >= logits]
    (step,) = [s for s in steps if "index_put" in s.operations]
    assert step.bytes_read < 1.01 * logits and step.bytes_written < 1.01 * logits
    assert len(step.in_place) == 1


def test_equal_layers_are_the_same_kernels() -> None:
    two, three = (
        {k.to_json() for k in compiled(n).plan.kernels if "pointwise" not in k.function}
        for n in (2, 3)
    )
    assert len(three - two) <= 1
