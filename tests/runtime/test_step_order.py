"""What launches of a captured graph wait for: all that touches their memory, and little else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from gpu_kernels import action_plan

from flamec.ir.plan import MOST_OVERTAKEN, Buffer, ExecutionPlan, LoopSpan, MemoryLayout, Step
from flamec.ir.types import int8
from flamec.runtime.cuda.step_order import Order, step_order

LARGE = 1 << 30  # bytes of a step that takes long


def plan_of(
    kinds: Sequence[str], accesses: Sequence[tuple[Any, Any]], parts: Sequence[int] = ()
) -> ExecutionPlan:
    """Steps that read and write these buffers of 64 bytes, and take long."""
    buffers = [Buffer(f"b{i}", kind, int8, 64) for i, kind in enumerate(kinds)]
    steps = tuple(Step("s", "pointwise", tuple(r), tuple(w), LARGE, 0) for r, w in accesses)
    plan = action_plan(buffers, [])
    return replace(plan, steps=steps, notes={"filled_in_parts": list(parts)})


def order_of(
    plan: ExecutionPlan,
    offsets: dict[int, int] | None = None,
    numbers: Sequence[int] = (),
    **more: Any,
) -> Order:
    """One launch a step, unless ``numbers`` says otherwise."""
    numbers = list(numbers or range(len(plan.steps)))
    layout = MemoryLayout(offsets or {}, 1 << 20, more.pop("guests", {}))
    uses: dict[int, list[int]] = {}
    for launch, number in enumerate(numbers):
        step = plan.steps[number]
        for buffer in {*step.reads, *step.writes} if number >= 0 else ():
            uses.setdefault(buffer, []).append(launch)
    return step_order(plan, layout, {}, numbers, uses, **more)


def reached(order: Order) -> list[set[int]]:
    """All that each launch follows."""
    found: list[set[int]] = []
    for edges in order:
        found.append(set(edges).union(*(found[e] for e in edges)))
    return found


PAIR = (((0,), (1,)), ((0,), (2,)), ((0,), (3,)))
KINDS = ("input", "temporary", "temporary", "output")
APART = {1: 0, 2: 64}


def test_what_shares_no_memory_waits_for_nothing() -> None:
    assert order_of(plan_of(KINDS, PAIR), APART) == ((), (), ())


@pytest.mark.parametrize(
    ("second", "offsets"),
    [
        (((1,), (2,)), APART),  # reads what was written
        (((0,), (1,)), APART),  # writes it again
        (((0,), (2,)), {1: 0, 2: 32}),  # lies in half of its place
    ],
)
def test_what_shares_memory_waits(second: Any, offsets: dict[int, int]) -> None:
    plan = plan_of(KINDS, (PAIR[0], second, PAIR[2]))
    assert order_of(plan, offsets) == ((), (0,), ())


def test_what_is_read_is_not_written_before() -> None:
    accesses = (((0,), (1,)), ((1,), (3,)), ((0,), (2,)))
    assert order_of(plan_of(KINDS, accesses), {1: 0, 2: 0}) == ((), (0,), (1,))


def test_an_input_that_is_written_may_be_any_input() -> None:
    kinds = ("input", "input", "temporary", "output")
    accesses = (((0,), (2,)), ((), (1,)), ((0,), (3,)))
    assert order_of(plan_of(kinds, accesses), {2: 0}) == ((), (0,), (1,))


def test_parts_of_one_array_are_filled_side_by_side() -> None:
    kinds = ("input", "output", "output")
    accesses = (((0,), (1,)), ((0,), (1,)), ((1,), (2,)))
    assert order_of(plan_of(kinds, accesses, parts=[1])) == ((), (), (0, 1))
    assert order_of(plan_of(kinds, accesses)) == ((), (0,), (1,))
    # launches of one step are one part
    assert order_of(plan_of(kinds, accesses, parts=[1]), numbers=[0, 0, 1]) == ((), (0,), ())


def test_each_part_waits_for_what_was_in_its_place() -> None:
    kinds = ("temporary", "temporary", "output")
    accesses = (((0,), (2,)), ((), (1,)), ((), (1,)))
    assert order_of(plan_of(kinds, accesses, parts=[1]), {0: 0, 1: 0}) == ((), (0,), (0,))


def test_parts_of_inputs_that_may_be_one_array_are_not_parts_of_one() -> None:
    kinds = ("input", "input")
    accesses = (((), (0,)), ((), (0,)), ((), (1,)), ((), (1,)))
    assert order_of(plan_of(kinds, accesses, parts=[0, 1])) == ((), (), (0, 1), (0, 1))


def test_counters_and_scratch_are_shared_and_errors_are_not() -> None:
    kinds = ("counters", "counters", "output", "output", "output", "errors")
    accesses = (((), (0, 2, 5)), ((), (1, 3, 5)), ((), (4, 5)))
    assert order_of(plan_of(kinds, accesses)) == ((), (0,), ())
    scratch = [0, 2]
    assert order_of(plan_of(kinds, accesses), alone=scratch) == ((), (0,), (0,))


def test_temporaries_in_results_follow_them() -> None:
    kinds = ("input", "temporary", "output", "output")
    accesses = (((0,), (1,)), ((1,), (3,)), ((0,), (2,)))
    assert order_of(plan_of(kinds, accesses), guests={1: (2, 0)}) == ((), (0,), (1,))


def test_what_belongs_to_no_step_waits_for_all_and_is_waited_for() -> None:
    plan = plan_of(KINDS, PAIR)
    assert order_of(plan, APART, numbers=[0, 1, -1, 2]) == ((), (), (0, 1), (2,))


def test_short_steps_and_loops_go_on_one_after_the_other() -> None:
    plan = plan_of(KINDS, PAIR)
    short = replace(plan, steps=tuple(replace(step, bytes_read=1) for step in plan.steps))
    assert order_of(short, APART) == ()
    assert order_of(short, APART, shortest=True) == ((), (), ())
    mixed = replace(plan, steps=(*short.steps[:2], plan.steps[2]))
    assert order_of(mixed, APART) == ((), (0,), ())
    assert order_of(replace(plan, loops=(LoopSpan(0, 1, ()),)), APART) == ()


def test_nothing_overtakes_many() -> None:
    count = 3 * MOST_OVERTAKEN
    plan = plan_of(("input", *["output"] * count), [((0,), (i + 1,)) for i in range(count)])
    before = reached(order_of(plan))
    assert [len(b) for b in before[:MOST_OVERTAKEN]] == [0] * MOST_OVERTAKEN
    assert all(i - MOST_OVERTAKEN in b for i, b in enumerate(before) if i >= MOST_OVERTAKEN)


@pytest.mark.parametrize("seed", range(20))
def test_all_that_meet_are_in_order(seed: int) -> None:
    """Bytes that launches touch, one by one; of edges, none says what others say already."""
    choice = random.Random(seed)
    kinds = ["input", "input", *["temporary"] * 6, "output", "output"]
    numbers = range(len(kinds))
    offsets = {b: 16 * choice.randrange(12) for b in numbers if kinds[b] == "temporary"}
    accesses = []
    for _ in range(30):
        some = choice.sample(numbers, choice.randrange(1, 5))
        cut = choice.randrange(len(some))
        accesses.append((some[:cut], [b for b in some[cut:] if b != 0] or [9]))
    parts = {8} if seed % 2 else set()
    launches = sorted(choice.choices(range(30), k=40))
    order = order_of(plan_of(kinds, accesses, [*parts]), offsets, launches)
    before = reached(order)

    def bytes_of(buffer: int) -> set[tuple[Any, int]]:
        if kinds[buffer] == "input":
            return {("inputs", 0)}
        place = offsets.get(buffer)
        return {("arena" if place is not None else buffer, (place or 0) + i) for i in range(64)}

    for later, number in enumerate(launches):
        for earlier, other in enumerate(launches[:later]):
            (reads, writes), (old_reads, old_writes) = accesses[number], accesses[other]
            meets = any(
                bytes_of(a) & bytes_of(b)
                for mine, theirs in ((writes, old_writes), (writes, old_reads), (reads, old_writes))
                for a in mine
                for b in theirs
                if not (
                    a == b and a in parts and number != other and a in writes and a in old_writes
                )
            )
            assert not meets or earlier in before[later], (earlier, later)
    for edges in order:
        assert all(a not in before[b] for a in edges for b in edges)
