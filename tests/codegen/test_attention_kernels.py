"""Attention on a GPU without a GPU: forms in Triton's interpreter, choices, machine code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from interpreted import run_interpreted
from triton_attention import CASES, ENGINE, OTHER, SMALL, Case, compiled, graph_of

from flamec.codegen.autotune import select_schedules
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.attention_schedule import AttentionSchedule
from flamec.codegen.triton.choice import (
    ScheduleWarning,
    candidates,
    schedule_data,
    schedule_from,
)
from flamec.codegen.triton.compile_graph import compile_graph, lower_graph
from flamec.codegen.triton.product_schedule import target_facts
from flamec.codegen.triton.trial import Trial
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.passes.lower_attention import has_kernel, lower_attention, never
from flamec.ir.plan import ExecutionPlan, Launch
from flamec.ir.types import float16, float32, float64
from flamec.runtime.kernel_cache import KernelCache

TESTS = Path(__file__).parents[1]
FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
TARGETS = ("sm_80", "sm_90", "sm_120")
SIZES = (16, 64, 128, 256)
QUICK = (("sm_80", 128), ("sm_90", 64), ("sm_120", 64))
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    """One launch forward and two backward; operands are read where they lie."""
    case, result = CASES[name], compiled(CASES[name])
    plan = result.plan
    assert ExecutionPlan.from_json(plan.to_json()) == plan
    kinds = [step.kind for step in plan.steps]
    assert kinds == ["attention", "reduction", "attention"]
    launches = [action for action in plan.actions if isinstance(action, Launch)]
    assert len(launches) == len(plan.actions) == 4
    names = [plan.kernels[launch.kernel].function.rsplit("_")[-1] for launch in launches]
    assert [names[0], *names[2:]] == ["forward", "keys", "queries"]
    described = [any(a.shape for a in launch.arguments) for launch in launches]
    engine = case.schedule.tma if case.schedule else case.target != "sm_80"
    if not name.startswith("symbolic"):  # the rows of a batch may start anywhere
        assert described == [engine, False, engine, engine]


@pytest.mark.parametrize("name", ["causal", "window", "mask"])
def test_source(name: str) -> None:
    file = TESTS / "golden" / f"triton_attention_{name}.txt"
    source = compiled(CASES[name]).plan.source
    if os.environ.get("FLAMEC_UPDATE_GOLDEN") == "1":
        file.write_text(source)
    assert source == file.read_text()


@needs_triton
def test_in_the_interpreter() -> None:
    names = list(CASES)
    results = run_interpreted("triton_attention.py", names)
    assert [r["row"] for r in results] == names
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}


def _heads(size: int, target: str, **changes: object) -> Graph:
    case = Case(1024, 1024, size, size, upper=0, heads=4, target=target)
    return graph_of(replace(case, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", (*TARGETS, "sm_86"))
@pytest.mark.parametrize("size", SIZES)
def test_candidates_fit_the_target(size: int, target: str) -> None:
    options = CodegenOptions(target=target)
    for choice in compile_graph(_heads(size, target), options).choices:
        if choice.name.dtype != "bf16":
            continue  # the sums over rows
        found = candidates(choice.part, options, 16)
        assert choice.schedule == found[0] and len(set(found)) == len(found) <= 16
        assert target_facts(target).tma or not any(getattr(s, "tma", False) for s in found)


@needs_triton
@pytest.mark.parametrize(
    ("target", "size"), [(t, s) for t in TARGETS for s in SIZES] if FULL else QUICK
)
def test_machine_code(target: str, size: int, tmp_path: Path) -> None:
    """What is proposed fits into shared memory and keeps nearly all values in registers: the
    gradients of keys with 128 numbers are fastest with a few of them on the stack."""
    from flamec.runtime.cuda.triton_compiler import build_kernel

    plan = compile_graph(_heads(size, target), CodegenOptions(target=target)).plan
    for source in plan.kernels:
        if source.function.startswith("flamec_attention_"):
            binary = build_kernel(source, target, KernelCache(tmp_path))
            assert binary.registers <= 255 and binary.stack_bytes <= 128, source.function
            assert binary.shared_bytes <= target_facts(target).shared_bytes, source.function


def test_what_has_no_kernel_is_written_with_other_operations() -> None:
    for dtype, size, taken in ((float16, 256, True), (float16, 264, False), (float32, 64, False)):
        graph = _heads(size, "sm_90", dtype=dtype, rows=64, columns=64)
        lowered = lower_attention(graph, has_kernel)
        assert any(n.op.kind is OpKind.ATTENTION for n in lowered.nodes) is taken
        assert (lowered is graph) is taken


@pytest.mark.parametrize("name", ["causal from the end", "added", "mask", "window", "fewer keys"])
def test_written_with_other_operations(name: str) -> None:
    """The same numbers; forward and backward, in float64."""
    graph = graph_of(replace(CASES[name], dtype=float64, rows=9, columns=11))
    other = lower_attention(graph, never)
    assert not any(n.op.kind is OpKind.ATTENTION for n in other.nodes)
    rng = np.random.default_rng(0)
    arrays = [
        rng.random(v.type.shape) < 0.7  # type: ignore[arg-type]
        if v.type.dtype.kind == "bool"
        else rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy)  # type: ignore[arg-type]
        for v in graph.inputs
    ]
    for got, want in zip(
        evaluate_graph(other, arrays)[0], evaluate_graph(graph, arrays)[0], strict=True
    ):
        assert np.allclose(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_keys_tell_forms_apart() -> None:
    causal = replace(CASES["causal"], upper=3)
    makes = [
        causal,
        replace(causal, upper=None),
        replace(causal, layout="heads"),
        replace(causal, dtype=float16),
        CASES["mask"],
    ]
    keys = [compile_graph(graph_of(case)).choices[0].key for case in makes]
    assert len(set(keys)) == len(keys)
    assert compile_graph(graph_of(replace(causal, upper=7))).choices[0].key == keys[0]


def test_schedules_are_data_and_are_checked() -> None:
    assert schedule_from(schedule_data(ENGINE)) == ENGINE
    with pytest.raises(ValueError, match="rows must be a power of two"):
        replace(SMALL, rows=48)
    with pytest.raises(ValueError, match="16x16 or larger"):
        replace(OTHER, columns=8)
    case = CASES["odd"]
    key = compiled(case).choices[0].key
    with pytest.warns(ScheduleWarning, match="does not fit"):
        compile_graph(graph_of(case), CodegenOptions(schedules={key: ENGINE}))


def test_bytes_are_those_of_operands_and_results() -> None:
    """No scores: 4 arrays forward (and a number for each row), 7 backward."""
    case = Case(1024, 1024, 64, 64, upper=0, heads=4)
    steps = compiled(case).plan.steps
    array, row = 2 * 4 * 1024 * 64 * 2, 2 * 4 * 1024 * 4
    assert steps[0].bytes_read + steps[0].bytes_written == 4 * array + row
    assert steps[2].bytes_read + steps[2].bytes_written == 7 * array + 2 * row


def test_schedules_are_searched_like_others() -> None:
    """Each launch gets the fastest of its candidates, and programs are generated with them."""
    graph = _heads(64, "sm_90")
    options = CodegenOptions()
    kernels = lower_graph(graph, options).kernels

    def timer(groups: Sequence[Sequence[Trial]]) -> list[list[float]]:
        """Few rows are fast."""
        return [
            [
                t.schedule.rows * 1e-3 if isinstance(t.schedule, AttentionSchedule) else 1.0
                for t in group
            ]
            for group in groups
        ]

    found = select_schedules(kernels, options, lambda key: None, timer, 64)
    tuned = [t for t in found.tuned if isinstance(t.schedule, AttentionSchedule)]
    assert len(tuned) == 3 and all(t.tried > 3 for t in tuned)
    chosen = compile_graph(graph, replace(options, schedules=found.schedules)).choices
    assert {c.key: c.schedule for c in chosen} == found.schedules
    rows = [c.schedule.rows for c in chosen if isinstance(c.schedule, AttentionSchedule)]
    assert rows == [64, 32, 64]
