"""Loops in plans: what is trimmed, which memory is alive, how a GPU's actions unroll."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from op_rows_loops import branches, looped, while_graphs
from plan_batch import Batch
from triton_graphs import decided, recurrence

from flamec.codegen.compile_graph import compile_graph
from flamec.codegen.errors import LoweringError
from flamec.codegen.one_kernel import one_kernel
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.op import lookup
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.passes.trim_loops import trim_loops
from flamec.ir.plan import CONTROL_STEPS, Copy, ExecutionPlan, Launch, Loop, unrolled
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType, bool_, float64, int64
from flamec.ir.verify import verify

T = SymbolicDim.symbol("T")


def optimized(length: object = T, size: int = 8) -> Graph:
    graph = recurrence(GraphBuilder(), 2, size, length)  # type: ignore[arg-type]
    return run_passes(graph, pipeline(), True)[0]


def with_choices(size: int = 8) -> Graph:
    """A scan over a loop that a value ends, with a branch in each step, and its gradients."""
    return run_passes(decided(GraphBuilder(), size, T), pipeline(), True)[0]


def test_nothing_is_stacked_that_nobody_reads() -> None:
    graph = recurrence(GraphBuilder(), 2, 8, 5)
    results = eliminate_dead_code(Graph(graph.inputs, graph.nodes, graph.outputs[2:3]))
    trimmed = verify(trim_loops(results))
    (loop,) = [n for n in trimmed.nodes if n.op.name == "scan" and not n.attributes["reverse"]]
    assert loop.attributes["residuals"] == 0 and loop.attributes["carries"] == 2
    assert len(loop.outputs) == 3
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=v.type.shape).astype(np.float32) for v in graph.inputs]
    (found,), _ = evaluate_graph(trimmed, arrays)
    (wanted,), _ = evaluate_graph(results, arrays)
    np.testing.assert_array_equal(found, wanted)


def test_a_loop_that_nobody_reads_is_gone() -> None:
    graph = recurrence(GraphBuilder(), 2, 8, 5)
    nothing = Graph(graph.inputs, graph.nodes[:1], graph.inputs[:1])
    assert graph.nodes[0].op.name == "scan" and trim_loops(nothing).nodes == ()


def test_plans_with_loops_read_back() -> None:
    for graph, count in ((optimized(), 2), (with_choices(), 6)):
        for plan in (compile_graph(graph).plan, compile_for_gpu(graph).plan):
            again = ExecutionPlan.from_json(plan.to_json())
            assert again.loops == plan.loops and len(plan.loops) == count
            assert again.actions == plan.actions and again.to_json() == plan.to_json()


@pytest.mark.parametrize("graph", [optimized, with_choices], ids=lambda g: g.__name__)
def test_what_a_loop_is_given_is_alive_in_all_of_its_steps(graph: Any) -> None:
    plan = compile_graph(graph()).plan
    layout = plan_memory(plan, {"T": 5})
    sizes = {b: plan.buffers[b].elements for b in layout.offsets}
    for loop in plan.loops:
        inside = {b for s in plan.steps[loop.first : loop.last + 1] for b in (*s.reads, *s.writes)}
        for kept in set(loop.buffers) & set(layout.offsets):
            for other in (inside & set(layout.offsets)) - {kept}:
                first, second = layout.offsets[kept], layout.offsets[other]
                assert first != second, (plan.buffers[kept], plan.buffers[other], sizes[kept])


def test_a_gpu_launches_the_same_kernels_for_every_step() -> None:
    plan = compile_for_gpu(optimized()).plan
    loops = [a for a in plan.actions if isinstance(a, Loop)]
    outside = len(plan.actions) - len(loops)
    inside = sum(len(loop.actions) for loop in loops)
    for length in (1, 4, 9):
        actions = list(unrolled(plan.actions, {"T": length}))
        assert len(actions) == outside + length * inside
        assert all(isinstance(a, (Launch, Copy)) for a in actions)
        kinds = {plan.buffers[x.buffer].kind for a in actions if isinstance(a, Launch)
                 for x in a.arguments if x.buffer >= 0}  # fmt: skip
        assert "window" not in kinds
    none = list(unrolled(plan.actions, {"T": 0}))
    assert len(none) == outside + sum(len(loop.carried) for loop in loops)


@pytest.mark.parametrize(("size", "staged"), [(8, False), (3, True)])
def test_windows_at_odd_addresses_are_copied(size: int, staged: bool) -> None:
    plan = compile_for_gpu(optimized(size=size)).plan
    copies = [a for p in plan.actions if isinstance(p, Loop) for a in p.actions
              if isinstance(a, Copy)]  # fmt: skip
    assert bool(copies) is staged


def test_choices_in_c_agree_with_the_evaluator(tmp_path: Path) -> None:
    """Also with no steps, for which stacks are empty and carried values are copied."""
    batch = Batch(tmp_path)
    graph = with_choices(5)
    batch.add(graph)
    batch.load()
    rng = np.random.default_rng(3)
    for length in (4, 0, 1, 9):
        shapes = [[length if d == T else d for d in v.type.shape] for v in graph.inputs]
        arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
        found, _ = batch.run(0, arrays)
        wanted, _ = evaluate_graph(graph, arrays, {"T": length})
        for f, w in zip(found, wanted, strict=True):
            np.testing.assert_allclose(f, w, rtol=1e-4, atol=1e-4)


def test_of_a_branch_is_left_what_is_read_and_differs() -> None:
    """A result that both branches take from one operand is that operand."""
    b = GraphBuilder()
    choice = b.input(TensorType((), bool_))
    x, y = (b.input(TensorType((3,), float64)) for _ in range(2))
    made = b.apply(lookup("cond"), [choice, x, y], branches(float64))
    (second,) = trim_loops(eliminate_dead_code(b.build([made[1]]))).nodes
    assert [len(g.outputs) for g in second.bodies.values()] == [1, 1]
    inner = GraphBuilder()
    z = inner.input(TensorType((3,), float64))
    same = inner.build([inner.exp(z), z], name="same")
    passed = b.apply(lookup("cond"), [choice, y], {"true_body": same, "false_body": same})
    trimmed = verify(trim_loops(eliminate_dead_code(b.build([passed[1], x]))))
    assert trimmed.nodes == () and trimmed.outputs == (y, x)


def test_of_a_loop_with_a_condition_is_left_what_it_and_the_results_need() -> None:
    b = GraphBuilder()
    types = [((2,), float64), ((), int64), ((2,), float64), ((), int64)]
    inputs = [b.input(TensorType(shape, dtype)) for shape, dtype in types]
    attributes = looped(while_graphs(float64), 2, None)
    made = b.apply(lookup("while_loop"), inputs, attributes)
    (counting,) = trim_loops(b.build([made[2]])).nodes  # the steps: x and w do not matter
    assert counting.attributes["carries"] == 1
    assert counting.inputs == (inputs[1], inputs[3])
    assert [v.type.dtype for v in counting.outputs] == [int64, int64]
    arrays = [np.ones(2), np.array(0), np.ones(2), np.array(4)]
    (steps,), _ = evaluate_graph(trim_loops(b.build([made[2]])), arrays)
    assert steps == 4


def test_steps_are_the_kernels_in_the_order_in_which_they_were_lowered() -> None:
    """What runs other kernels cannot be written alone."""
    compiled = compile_graph(with_choices())
    names = [kernel.kernel.name for kernel in compiled.lowered]
    assert [step.name for step in compiled.plan.steps[: len(names)]] == names
    control = [i for i, s in enumerate(compiled.plan.steps) if s.kind in CONTROL_STEPS]
    assert len(control) == 6
    for number in control:
        with pytest.raises(LoweringError, match="runs other kernels: no kernel"):
            one_kernel(compiled, number)
