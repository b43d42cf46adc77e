"""Loops in plans: what is trimmed, which memory is alive, how a GPU's actions unroll."""

from __future__ import annotations

import numpy as np
import pytest
from triton_graphs import recurrence

from flamec.codegen.compile_graph import compile_graph
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.passes.trim_loops import trim_loops
from flamec.ir.plan import Copy, ExecutionPlan, Launch, Loop, unrolled
from flamec.ir.shape import SymbolicDim
from flamec.ir.verify import verify

T = SymbolicDim.symbol("T")


def optimized(length: object = T, size: int = 8) -> Graph:
    graph = recurrence(GraphBuilder(), 2, size, length)  # type: ignore[arg-type]
    return run_passes(graph, pipeline(), True)[0]


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
    for plan in (compile_graph(optimized()).plan, compile_for_gpu(optimized()).plan):
        again = ExecutionPlan.from_json(plan.to_json())
        assert again.loops == plan.loops and len(plan.loops) == 2
        assert again.actions == plan.actions and again.to_json() == plan.to_json()


def test_what_a_loop_is_given_is_alive_in_all_of_its_steps() -> None:
    plan = compile_graph(optimized()).plan
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
