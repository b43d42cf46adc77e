"""Launches of scatters: rows side by side where there are many, no work for each pair of rows."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from triton_scatters import Case, cases

from flamec.ir.plan import ExecutionPlan, Launch

MANY = 1 << 20


def texts(plan: ExecutionPlan) -> str:
    return "".join(kernel.text for kernel in plan.kernels)


def blocks(plan: ExecutionPlan) -> int:
    found = 0
    for action in plan.actions:
        assert isinstance(action, Launch)
        assert isinstance(action.grid[0], int)
        found += action.grid[0]
    return found


@pytest.mark.parametrize("case", [c for c in cases() if not c.symbolic], ids=lambda c: c.name)
def test_many_rows_run_side_by_side(case: Case) -> None:
    """No block looks at all indices, and blocks are as many as elements need."""
    plan = replace(case, rows=MANY).plan()
    assert "owned" not in texts(plan)
    elements = MANY
    for size in case.inner:
        elements *= size
    assert elements // 4096 <= blocks(plan) <= elements // 64


def test_few_places_have_copies() -> None:
    """Rows that follow each other meet in other copies; enough of them for all of a cache."""
    few, many = (Case("amax", "float64", (n,), MANY).plan() for n in (100, 1 << 17))
    assert len(few.actions) == len(many.actions) == 4  # a copy of the table first
    for plan, copies in ((few, 512), (many, 1)):
        (elements,) = (b.elements for b in plan.buffers if b.kind == "temporary")
        assert elements == copies * (100 if plan is few else 1 << 17)


@pytest.mark.parametrize(
    ("mode", "dtype", "launches", "combined"),
    [
        ("add", "int64", 2, {"add_i64"}),  # the table; rows
        ("add", "float32", 5, {"max_i32", "add_i64"}),  # zeros; exponents; integers; floats
        ("add", "int8", 4, {"add_i32"}),
        ("amin", "float32", 4, {"max_i32"}),
        ("set", "float32", 4, {"max_i32"}),
    ],
)
def test_few_places_are_a_table_of_each_block(
    mode: str, dtype: str, launches: int, combined: set[str]
) -> None:
    """Memory combines what blocks have combined, and no place has copies."""
    plan = Case(mode, dtype, (100,), MANY).plan()
    assert len(plan.actions) == launches
    assert set(re.findall(r"flamec_table_(add_i\d+|max_i\d+)", texts(plan))) == combined
    assert all(b.elements == 100 for b in plan.buffers if b.kind == "temporary")
    assert "flamec_table" not in texts(Case(mode, dtype, (1 << 17,), MANY).plan())
    assert "flamec_table" not in texts(Case(mode, dtype, (100,), 2000).plan())


@pytest.mark.parametrize("mode", ["set", "add", "amax"])
def test_rows_that_bring_their_first_index_are_one_launch(mode: str) -> None:
    """Nobody else puts anything in the places of a line: they are a table of its block."""
    plan = Case(mode, rows=1024, places=(1000,), lines=4096).plan()
    assert len(plan.actions) == 2 and blocks(plan) >= 4096  # a copy of the table first
    assert "tl.atomic" not in texts(plan) and "flamec_table" in texts(plan)
    assert not [b for b in plan.buffers if b.kind == "temporary"]
    large = Case(mode, rows=1024, places=(20_000,), lines=4096).plan()
    assert "flamec_table" not in texts(large)


def test_maxima_are_looked_at_before_they_grow() -> None:
    """Where many rows meet most change nothing; where few do, looking would cost as much."""
    many = Case("add", places=(1000,), rows=1 << 16, inner=(128,)).plan()
    few = Case("add", places=(1 << 17,), rows=1 << 17, inner=(16,)).plan()
    for plan, looks in ((many, True), (few, False)):
        (text,) = (k.text for k in plan.kernels if "tl.atomic_max" in k.text)
        assert (len(re.findall(r"tl\.atomic_max\(.*grows_\d+, sem", text)) == 1) == looks


def test_few_and_wide_rows_are_shared_by_blocks() -> None:
    for case in (Case("add", rows=1000), Case("add", rows=8192, inner=(768,))):
        plan = case.plan()
        assert "owned" in texts(plan) and len(plan.actions) == 2


@pytest.mark.parametrize(
    ("mode", "dtype", "launches"),
    [
        ("set", "float32", 4),  # the table, places without rows; the last row of each; its values
        ("add", "float32", 5),  # the table, zeros; the largest exponents; sums of integers; floats
        ("add", "float64", 5),
        ("add", "int8", 4),  # the table, zeros; sums of wider integers; what they are added to
        ("add", "int64", 2),  # the table; memory adds
        ("amax", "float32", 4),
        ("amin", "int64", 2),
    ],
)
def test_launches(mode: str, dtype: str, launches: int) -> None:
    plan = Case(mode, dtype, (1 << 17,), MANY).plan()
    assert len(plan.actions) == len(plan.kernels) == launches


def test_what_cannot_meet_is_put_at_once() -> None:
    """Equal values, and mode ``any``, need not know the last row of a place."""
    assert "tl.atomic_max" in texts(Case("set", rows=MANY).plan())
    plan = Case("any", rows=MANY).plan()
    assert "tl.atomic" not in texts(plan) and len(plan.actions) == 2
