"""Choosing schedules with a timer that is a function: what is tried, kept, and equal."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
from interpreted import run_interpreted
from triton_graphs import B, layer_norm, matmul, softmax

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.codegen.autotune import MOST_TRIED, Selection, select_schedules
from flamec.codegen.options import CodegenOptions, Schedule
from flamec.codegen.triton.choice import (
    ScheduleWarning,
    candidates,
    fits,
    schedule_data,
    schedule_from,
)
from flamec.codegen.triton.compile_graph import LoweredGraph, emit_graph, lower_graph
from flamec.codegen.triton.part_key import PartKey
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.codegen.triton.tiling import Tile
from flamec.codegen.triton.trial import Trial
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.shape import Dim
from flamec.ir.types import DType, TensorType, bfloat16, float32, int64

OPTIONS = CodegenOptions()
FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"


def given(b: GraphBuilder, *shape: Dim, dtype: DType = float32) -> Any:
    return b.input(TensorType(shape, dtype))


def softmax_graph(rows: Dim = 4096, columns: Dim = 1000) -> Graph:
    b = GraphBuilder()
    return b.build([softmax(b, given(b, rows, columns))])


def columns_graph(rows: Dim = 4096, columns: Dim = 1000) -> Graph:
    b = GraphBuilder()
    return b.build([b.sum(given(b, rows, columns), axes=(0,))])


def linear_graph(m: Dim = 512, n: int = 768, k: int = 256, dtype: DType = bfloat16) -> Graph:
    b = GraphBuilder()
    product = matmul(b, given(b, m, k, dtype=dtype), given(b, k, n, dtype=dtype))
    return b.build([b.exp(b.add(product, given(b, n, dtype=dtype)))])


def normed_graph() -> Graph:
    """A product whose epilogue is a launch of its own."""
    b = GraphBuilder()
    product = matmul(b, given(b, 512, 256), given(b, 256, 384))
    return b.build([layer_norm(b, product, given(b, 384), given(b, 384))])


def gather_graph() -> Graph:
    b = GraphBuilder()
    return b.build([b.index(given(b, 300, 512), given(b, 4096, dtype=int64), axes=(0,))])


class FakeTimer:
    """Gives each schedule a time that depends on it alone, and keeps what was asked."""

    def __init__(self, seconds: Any) -> None:
        self.seconds = seconds
        self.groups: list[list[Trial]] = []

    def __call__(self, groups: Sequence[Sequence[Trial]]) -> list[list[float]]:
        self.groups += [list(group) for group in groups]
        return [[self.seconds(trial.schedule) for trial in group] for group in groups]


def unknown(key: PartKey) -> Schedule | None:
    return None


def select(graph: Graph, timer: Any, mode: str = "fast", known: Any = unknown) -> Selection:
    lowered = lower_graph(graph, OPTIONS)
    return select_schedules(lowered.kernels, OPTIONS, known, timer, MOST_TRIED[mode])


def scrambled(schedule: Schedule) -> float:
    """A time that has nothing to do with the order of candidates."""
    text = json.dumps(schedule_data(schedule), sort_keys=True)
    return 1e-6 * (1 + sum(ord(c) * 7919**i for i, c in enumerate(text)) % 1009)


GRAPHS = {
    "softmax": softmax_graph,
    "columns": columns_graph,
    "linear": linear_graph,
    "normed": normed_graph,
    "gather": gather_graph,
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("mode", MOST_TRIED)
def test_the_fastest_wins_and_the_bound_holds(name: str, mode: str) -> None:
    timer = FakeTimer(scrambled)
    found = select(GRAPHS[name](), timer, mode)
    assert found.tuned
    assert len(timer.groups) == len([t for t in found.tuned if t.seconds is not None])
    for group in timer.groups:
        assert 2 <= len(group) <= MOST_TRIED[mode]
        assert len({trial.schedule for trial in group}) == len(group)
    for tuned in found.tuned:
        times = [g for g in timer.groups if any(t.schedule == tuned.schedule for t in g)]
        best = [min(map(scrambled, (t.schedule for t in g))) for g in times]
        assert tuned.seconds is None or tuned.seconds in best
        assert found.schedules[tuned.key.text] == tuned.schedule


def test_max_tries_more_than_fast() -> None:
    counts = {}
    for mode in MOST_TRIED:
        timer = FakeTimer(scrambled)
        select(softmax_graph(), timer, mode)
        counts[mode] = sum(map(len, timer.groups))
    assert counts["fast"] < counts["max"]


def test_the_rule_of_thumb_comes_first_and_stays_without_a_clear_gain() -> None:
    (plain,) = emit_graph(lower_graph(softmax_graph(), OPTIONS), OPTIONS).choices

    def hardly(schedule: Schedule) -> float:
        return 1.0 if schedule == plain.schedule else 0.985

    timer = FakeTimer(hardly)
    (tuned,) = select(softmax_graph(), timer).tuned
    assert timer.groups[0][0].schedule == plain.schedule == tuned.schedule
    assert (tuned.seconds, tuned.heuristic_seconds, tuned.tried) == (1.0, 1.0, 8)
    (tuned,) = select(softmax_graph(), FakeTimer(lambda s: hardly(s) ** 2)).tuned
    assert tuned.schedule != plain.schedule
    assert (tuned.seconds, tuned.heuristic_seconds) == (0.985**2, 1.0)


def test_schedules_that_cannot_run_are_never_chosen() -> None:
    (plain,) = emit_graph(lower_graph(softmax_graph(), OPTIONS), OPTIONS).choices
    warps = plain.schedule.warps

    def some(schedule: Schedule) -> float:
        return math.inf if schedule.warps >= warps else 2.0

    (tuned,) = select(softmax_graph(), FakeTimer(some), "max").tuned
    assert tuned.schedule.warps < warps
    assert (tuned.seconds, tuned.heuristic_seconds) == (2.0, None)
    (tuned,) = select(softmax_graph(), FakeTimer(lambda s: math.inf)).tuned
    assert tuned.seconds is None


def test_a_part_is_searched_for_once() -> None:
    """Twelve layers, other names and other constants: one search."""
    b = GraphBuilder()
    outputs = []
    for number in range(4):
        x = b.mul(given(b, 1024, 512), b.constant(1.5 + number, TensorType((1024, 512), float32)))
        outputs.append(softmax(b, x))
    timer = FakeTimer(scrambled)
    found = select(b.build(outputs), timer)
    assert len(timer.groups) == len(found.tuned) == 1


def test_what_is_known_is_not_timed() -> None:
    first = select(normed_graph(), FakeTimer(scrambled))
    known = {tuned.key: tuned.schedule for tuned in first.tuned}
    again = select(normed_graph(), lambda groups: pytest.fail("timed"), known=known.get)
    assert not again.tuned
    assert again.schedules == first.schedules
    assert set(again.parts) == set(known)
    without = select(normed_graph(), None, known=known.get)
    assert without.schedules == first.schedules


def test_little_work_is_not_timed() -> None:
    found = select(softmax_graph(8, 64), lambda groups: pytest.fail("timed"))
    assert [(t.seconds, t.tried) for t in found.tuned] == [(None, 0)]


def test_unknown_sizes_are_not_timed_and_hints_make_them_known() -> None:
    lowered = lower_graph(softmax_graph(B, 1000), OPTIONS)
    timer = FakeTimer(scrambled)
    found = select_schedules(lowered.kernels, OPTIONS, unknown, timer)
    assert not timer.groups and not found.tuned and len(found.parts) == 1
    hinted = replace(OPTIONS, size_hints={"B": 3000})
    found = select_schedules(lowered.kernels, hinted, unknown, timer)
    assert len(found.tuned) == 1
    assert {trial.sizes for trial in timer.groups[0]} == {(4096,)}
    assert timer.groups[0][0].plan.symbols == ("B",)


def test_trials_say_which_indices_are_valid() -> None:
    timer = FakeTimer(scrambled)
    select(gather_graph(), timer)
    assert {trial.index_bound for group in timer.groups for trial in group} == {300}


def key_of(graph: Graph, options: CodegenOptions = OPTIONS) -> PartKey:
    return emit_graph(lower_graph(graph, options), options).choices[0].name


def test_keys_have_buckets_of_sizes() -> None:
    assert key_of(softmax_graph(4096, 1000)) == key_of(softmax_graph(3008, 904))
    assert key_of(softmax_graph(4096, 1000)).bucket == "4096x1024"
    assert key_of(softmax_graph(4096, 1000)) != key_of(softmax_graph(4097, 1000))
    assert key_of(softmax_graph(4096, 1000)) != key_of(softmax_graph(4096, 1001))  # not by eights
    assert key_of(linear_graph(512)) == key_of(linear_graph(496))
    assert key_of(linear_graph(512)).bucket == "1x512x768x256"
    assert key_of(linear_graph(512)) != key_of(linear_graph(448))
    symbolic = replace(OPTIONS, size_hints={"B": 4096})
    assert key_of(softmax_graph(B, 1000), symbolic).bucket == "4096x1024"
    assert key_of(softmax_graph(B, 1000), symbolic) != key_of(softmax_graph(4096, 1000))
    assert key_of(softmax_graph(B, 1000)).bucket == "?x1024"


def test_keys_of_products_know_the_precision() -> None:
    graph = linear_graph(dtype=float32)
    exact, fast = OPTIONS, replace(OPTIONS, float32_products="tf32")
    assert key_of(graph, exact) != key_of(graph, fast)
    assert key_of(softmax_graph(), exact) == key_of(softmax_graph(), fast)


@pytest.mark.parametrize("name", GRAPHS)
def test_one_set_of_schedules_gives_one_plan(name: str) -> None:
    """In any process and order: what is written does not depend on how a schedule was found."""
    lowered = lower_graph(GRAPHS[name](), OPTIONS)
    found = select_schedules(lowered.kernels, OPTIONS, unknown, FakeTimer(scrambled), 64)
    plans = set()
    for schedules in (found.schedules, dict(reversed(found.schedules.items()))):
        read = {
            k: schedule_from(json.loads(json.dumps(schedule_data(s)))) for k, s in schedules.items()
        }
        options = replace(OPTIONS, schedules=read)
        again: LoweredGraph = lower_graph(GRAPHS[name](), options)
        plan = emit_graph(again, options)
        assert {c.key: c.schedule for c in plan.choices} == found.schedules
        plans.add(plan.plan.to_json())
    assert len(plans) == 1


@pytest.mark.parametrize("name", GRAPHS)
def test_every_candidate_can_be_written(name: str) -> None:
    lowered = lower_graph(GRAPHS[name](), OPTIONS)
    for choice in emit_graph(lowered, OPTIONS).choices:
        found = candidates(choice.part, OPTIONS, 1000)
        assert found[0] == choice.schedule
        assert len(set(found)) == len(found)
        for schedule in found:
            assert fits(schedule, choice.part, OPTIONS), schedule


@pytest.mark.skipif(find_spec("triton") is None, reason="the package triton is not installed")
def test_other_tiles_give_the_same_results() -> None:
    quick = ["layer_norm", "wide_softmax", "layer_norm_backward_wide", "masked", "transposed"]
    rest = ["long_softmax", "layer_norm_backward_long", "softmax_symbolic", "columns", "everything"]
    names = [*quick, *rest, "dropout_norm", "attention", "embedding_backward"] if FULL else quick
    results = run_interpreted("triton_tiles.py", ["--rounds", "7" if FULL else "4", *names])
    assert [r["row"] for r in results] == names
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}
    tried = " ".join(tile for r in results for tile in r["tiles"])
    assert all(text in tried for text in ("whole=False", "blocks=2"))


def test_schedules_that_do_not_fit_are_refused_aloud() -> None:
    (choice,) = emit_graph(lower_graph(softmax_graph(), OPTIONS), OPTIONS).choices
    good = choice.schedule
    assert isinstance(good, Tile)
    wrong: list[Schedule] = [
        replace(good, columns=512),  # not the whole row
        replace(good, rows=3),
        replace(good, split=True),
        replace(good, chunks=4),
        replace(good, warps=64),
        ProductSchedule(64, 64, 64, 4, 3),
    ]
    for schedule in wrong:
        options = replace(OPTIONS, schedules={choice.key: schedule})
        with pytest.warns(ScheduleWarning, match="does not fit"):
            plan = emit_graph(lower_graph(softmax_graph(), options), options)
        assert [c.schedule for c in plan.choices] == [good]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = replace(OPTIONS, schedules={choice.key: replace(good, warps=8)})
        plan = emit_graph(lower_graph(softmax_graph(), options), options)
    assert plan.choices[0].schedule.warps == 8


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"form": "rows"},
        {"form": "unknown", "rows": 1},
        {
            "form": "rows",
            "rows": 1,
            "columns": 1,
            "split": 1,
            "whole": False,
            "chunks": 0,
            "warps": 4,
        },
        {"form": "product", "rows": "16", "columns": 16, "depth": 16, "warps": 4, "stages": 1},
        {"form": "product", "rows": 17, "columns": 16, "depth": 16, "warps": 4, "stages": 1},
    ],
)
def test_data_that_is_no_schedule_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        schedule_from(data)
