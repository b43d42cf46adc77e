"""Launches of a GPU: independent ones share a kernel; what follows a fold needs none of its own."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from interpreted import run_interpreted
from triton_graphs import GRAPHS, softmax_graph

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.triton import side_by_side
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.codegen.triton.source import EmittedLaunch
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.plan import Copy, ExecutionPlan, Launch
from flamec.ir.types import CPU, TensorType, float32, int64
from flamec.runtime.kernel_cache import KernelCache

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


def updates(count: int) -> Graph:
    """One step of gradient descent for parameters of different sizes."""
    b = GraphBuilder()
    rate = b.input(TensorType((), float32))
    changed = {}
    for i in range(count):
        type = TensorType((5000 * (i + 1),), float32)
        x, gradient = b.input(type), b.input(type)
        changed[1 + 2 * i] = b.sub(x, b.mul(gradient, rate))
    return b.build([], changed)


def launches(plan: ExecutionPlan) -> list[Launch]:
    return [a for a in plan.actions if isinstance(a, Launch)]


def test_an_update_of_all_parameters_is_one_launch_of_one_function() -> None:
    plan = compile_graph(updates(6)).plan
    (launch,) = launches(plan)
    assert launch.grid[0] >= 6
    assert plan.source.count("_part0(") == 7 and "_part1(" not in plan.source


def test_a_kernel_has_a_bounded_number_of_functions() -> None:
    count = 2 * side_by_side.MOST_TOGETHER + 1
    assert len(launches(compile_graph(updates(count)).plan)) == 3


def test_what_follows_a_fold_over_few_rows_is_in_its_launch() -> None:
    def plan(rows: int) -> ExecutionPlan:
        b = GraphBuilder()
        x, y = (b.input(TensorType((rows, 64), float32)) for _ in range(2))
        return compile_graph(
            b.build([b.mul(b.sum(b.mul(x, y), axes=(0,)), b.constant(2.0, x.type))])
        ).plan

    assert len(launches(plan(16))) == 1
    assert len(launches(plan(100_000))) == 2


@pytest.mark.parametrize("dependent", [False, True])
def test_dependent_launches_stay_apart(dependent: bool) -> None:
    plan = compile_graph(softmax_graph(GraphBuilder(), (4, 8))).plan
    (action,) = launches(plan)
    source = plan.kernels[action.kernel]
    emitted = EmittedLaunch(source, 1, tuple(n for n, _ in source.parameters))

    def planned(reads: set[int], writes: set[int]) -> side_by_side.PlannedLaunch:
        sets = frozenset(reads), frozenset(writes)
        return side_by_side.PlannedLaunch(emitted, action.arguments, *sets, alone=False)

    pair = [planned({0}, {1}), planned({1}, {2}) if dependent else planned({3}, {4})]
    assert len(side_by_side.together(pair, "name", "doc", lambda _: 9)) == (2 if dependent else 1)


def test_the_last_block_overwrites_what_the_others_read() -> None:
    """The state of random numbers, whatever the order in which blocks run."""
    b = GraphBuilder()
    state = b.input(TensorType((2,), int64))
    words = b.random_bits(state, shape=(5000,))
    used = b.mul(b.iota(shape=(2,), axis=0, dtype=int64, device=CPU), b.constant(1250, state.type))
    plan = compile_graph(b.build((words,), {0: b.add(state, used)})).plan
    (launch,) = plan.actions
    assert isinstance(launch, Launch)
    (kernel,) = plan.kernels
    assert 'sem="acq_rel"' in kernel.text and kernel.parameters[-1][0] == "counters"
    inputs = [a.buffer for a in launch.arguments].count(plan.inputs[0])
    assert inputs == 3  # words read it, the last block reads and writes it


LAST = ("exchanged", "replaced_symbolic", "advanced", "advanced_symbolic")


def test_no_kernel_has_two_parts_that_overwrite_what_others_read() -> None:
    """The second might read what the first has overwritten."""
    plan = compile_graph(GRAPHS["exchanged"](GraphBuilder())).plan
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    kernels = [plan.kernels[a.kernel] for a in launches(plan)]
    assert sum("acq_rel" in kernel.text for kernel in kernels) == 1
    assert [a.target for a in plan.actions if isinstance(a, Copy)] == [1, 2]


@needs_triton
def test_the_last_block_in_the_interpreter() -> None:
    """Also where the other parts have no elements, and what comes last has many blocks."""
    names = [*LAST, "exchanged_symbolic"]
    results = run_interpreted("triton_cases.py", names)
    assert [r["row"] for r in results] == names
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}


@needs_triton
@pytest.mark.parametrize("name", LAST)
def test_machine_code_of_the_last_block(name: str, tmp_path: Path) -> None:
    """All threads have read before their block counts itself, and write after it has."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    plan = compile_graph(GRAPHS[name](GraphBuilder())).plan
    (kernel,) = (k for k in plan.kernels if "acq_rel" in k.text and "block_number" in k.text)
    ptx = build_kernel(kernel, "sm_90", KernelCache(tmp_path)).texts["ptx"]
    lines = [line.strip() for line in ptx.splitlines()]
    (atomic,) = (i for i, line in enumerate(lines) if "atom.global" in line)
    assert "acq_rel" in lines[atomic] and ".gpu." in lines[atomic]
    loads = [i for i, line in enumerate(lines[:atomic]) if "ld.global" in line]
    assert any(line.startswith("bar.sync") for line in lines[loads[-1] : atomic])
    after = [i for i, line in enumerate(lines) if i > atomic and "ld.global" in line]
    assert any(line.startswith("bar.sync") for line in lines[atomic : after[0]])


def counted_updates(count: int) -> Graph:
    """An update whose step count is kept for each parameter, as Adam's."""
    b = GraphBuilder()
    beta = b.input(TensorType((), float32))
    changed = {}
    for i in range(count):
        x, steps = b.input(TensorType((100,), float32)), b.input(TensorType((), float32))
        now = b.add(steps, b.constant(1.0, steps.type))
        changed[1 + 2 * i] = b.mul(x, b.pow(beta, now))
        changed[2 + 2 * i] = now
    return b.build([], changed)


def test_what_is_computed_once_for_each_parameter_is_computed_side_by_side() -> None:
    plan = compile_graph(counted_updates(5)).plan
    before, update = launches(plan)
    assert before.grid == (5, 1, 1) and update.grid == (5, 1, 1)
    source = plan.kernels[before.kernel].text
    assert "_part0(" in source and "_part2(" not in source  # constants may stand elsewhere
