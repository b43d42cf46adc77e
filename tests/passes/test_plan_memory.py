"""The arena: live buffers never overlap, dead ones are used again."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from kernel_cases import Builder

from flamec.codegen.compile_graph import CodegenOptions, compile_graph
from flamec.ir.passes.live_ranges import ALIGNMENT, live_bytes
from flamec.ir.passes.plan_memory import LEAST_LENT, accesses_of, plan_memory
from flamec.ir.plan import Buffer, ExecutionPlan, LoopSpan, MemoryLayout, OutputSpec, Step
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import TensorType, float32

Interval = tuple[int, int]
LENT = LEAST_LENT // 4  # elements of a result that lends its memory


def plan_of(elements: list[int], steps: list[Step], outputs: tuple[int, ...] = ()) -> ExecutionPlan:
    """A plan in which the buffers of ``outputs`` are results, all others temporaries."""
    buffers = tuple(
        Buffer(f"t{i}", "output" if i in outputs else "temporary", float32, n)
        for i, n in enumerate(elements)
    )
    specs = tuple(OutputSpec(i, TensorType((elements[i],), float32)) for i in outputs)
    return ExecutionPlan(buffers, tuple(steps), (), (), specs, (), ("B",), "")


def step(reads: tuple[int, ...], writes: tuple[int, ...], *in_place: tuple[int, int]) -> Step:
    return Step("step", "pointwise", reads, writes, 0, 0, in_place=in_place)


def lifetimes(plan: ExecutionPlan) -> dict[int, Interval]:
    found: dict[int, Interval] = {}
    for position, s in enumerate(plan.steps):
        for buffer in (*s.reads, *s.writes):
            found[buffer] = (found.get(buffer, (position, 0))[0], position)
    return found


def check(plan: ExecutionPlan, bindings: dict[str, int]) -> MemoryLayout:
    """Buffers that live at the same time lie apart, but for pairs that share in place; guests of a
    result lie inside of it and are dead when it is first touched."""
    layout = plan_memory(plan, bindings)
    ranges = lifetimes(plan)
    alive = {b: i for b, i in ranges.items() if plan.buffers[b].kind == "temporary"}
    size = {b: evaluate_dim(plan.buffers[b].bytes, bindings) for b in (*ranges, *layout.guests)}
    assert set(layout.offsets) | set(layout.guests) == set(alive)
    assert not set(layout.offsets) & set(layout.guests)
    places = {b: (-1, offset) for b, offset in layout.offsets.items()} | layout.guests
    for b, (first, last) in alive.items():
        memory, offset = places[b]
        assert offset % ALIGNMENT == 0
        if memory < 0:
            assert offset + size[b] <= layout.peak_bytes
        else:
            assert plan.buffers[memory].kind == "output" and size[memory] >= LEAST_LENT
            assert offset + size[b] <= size[memory] and last < ranges[memory][0]
        for other, (other_first, other_last) in alive.items():
            if other <= b or other_last < first or last < other_first or places[other][0] != memory:
                continue
            other_offset = places[other][1]
            apart = offset + size[b] <= other_offset or other_offset + size[other] <= offset
            shared = any((b, other) in s.in_place or (other, b) in s.in_place for s in plan.steps)
            assert apart or (shared and min(last, other_last) == max(first, other_first))
    return layout


def test_a_chain_needs_two_buffers() -> None:
    steps = [step((), (0,)), *(step((i,), (i + 1,)) for i in range(9))]
    layout = plan_memory(plan_of([100] * 10, steps), {})
    assert layout.peak_bytes == 2 * 448


def test_in_place_steps_need_one() -> None:
    steps = [step((), (0,)), *(step((i,), (i + 1,), (i + 1, i)) for i in range(9))]
    layout = plan_memory(plan_of([100] * 10, steps), {})
    assert layout.peak_bytes == 448


def test_what_is_read_later_is_not_shared() -> None:
    plan = plan_of([16] * 3, [step((), (0,)), step((0,), (1,), (1, 0)), step((0, 1), (2,))])
    layout = plan_memory(plan, {})
    assert layout.offsets[0] != layout.offsets[1]


def test_sizes_are_bound() -> None:
    size = SymbolicDim.symbol("B") * 3
    buffer = Buffer("t", "temporary", float32, size)
    plan = ExecutionPlan((buffer,), (step((), (0,)),), (), (), (), (), ("B",), "")
    assert plan_memory(plan, {"B": 0}).peak_bytes == 0
    assert plan_memory(plan, {"B": 7}).peak_bytes == 128


@pytest.mark.parametrize("lending", [False, True])
def test_random_plans(lending: bool) -> None:
    guests = best = 0
    for seed in range(200):
        rng = random.Random(seed)
        count = rng.randrange(1, 20)
        choices = (1, 7, 16, 100, 1000) if not lending else (7, LENT // 3, LENT, 2 * LENT)
        elements = [rng.choice(choices) for _ in range(count)]
        outputs = tuple(i for i in range(count) if lending and rng.random() < 0.3)
        steps = []
        for i in range(count):
            read = tuple(rng.sample(range(i), min(i, rng.randrange(3))))
            pairs = [(i, r) for r in read if rng.random() < 0.5 and not {i, r} & {*outputs}]
            steps.append(step(read, (i,), *pairs))
        plan = plan_of(elements, steps, outputs)
        layout = check(plan, {})
        guests += len(layout.guests)
        accesses, size, spans = accesses_of(plan, {})
        rest = {b: n for b, n in size.items() if b not in layout.guests}
        best += layout.peak_bytes == max(live_bytes(accesses, rest, spans), default=0)
    assert (guests > 100) == lending
    assert best >= 190  # there are few plans in which gaps are left


def test_results_lend_their_memory_before_they_are_written() -> None:
    """Three values wait for the last steps, each of which makes a result as large as one."""
    steps = [step((), (i,)) for i in range(3)] + [step((2 - i,), (3 + i,)) for i in range(3)]
    alone = check(plan_of([LENT] * 6, steps), {})
    assert alone.peak_bytes == 4 * LEAST_LENT and not alone.guests
    lent = check(plan_of([LENT] * 6, steps, (3, 4, 5)), {})
    assert lent.peak_bytes == LEAST_LENT  # the value that the first result is made of
    assert len(lent.guests) == 2
    small = check(plan_of([LENT - 1] * 6, steps, (3, 4, 5)), {})
    assert small.peak_bytes == 3 * LEAST_LENT and not small.guests


def test_a_result_of_a_loop_lends_nothing_while_the_loop_runs() -> None:
    steps = [step((), (0,)), step((0,), ()), step((), ()), step((), (1,))]
    plan = plan_of([LENT] * 2, steps, (1,))
    assert check(plan, {}).guests == {0: (1, 0)}
    for first, guests in ((2, {0: (1, 0)}), (1, {})):
        looped = replace(plan, loops=(LoopSpan(first, 3, (1,)),))
        assert plan_memory(looped, {}).guests == guests


def test_a_compiled_program() -> None:
    b = Builder(share=True)
    x = b.tensor(64, 32)
    for _ in range(6):
        w = b.tensor(32, 32)
        x = b.tanh(b.dot_general(x, w, contract=((1,), (0,)), batch=((), ())))
    plan = compile_graph(b.build([x])).plan
    check(plan, {})
    layout = plan_memory(plan, {})
    assert layout.peak_bytes == 2 * 64 * 32 * np.dtype(np.float32).itemsize
    check(compile_graph(b.build([x]), CodegenOptions(fuse=False)).plan, {})


def test_a_product_takes_the_place_of_what_is_read_beside_it() -> None:
    """(y @ w @ w) * y: the product is computed in panels, and the result lies where y was."""
    b = Builder(share=True)
    x, w = b.tensor(512, 512), b.tensor(512, 512)
    other = b.tanh(b.dot_general(x, x, contract=((1,), (0,)), batch=((), ())))
    first = b.dot_general(other, w, contract=((1,), (0,)), batch=((), ()))
    scaled = b.mul(b.dot_general(first, w, contract=((1,), (0,)), batch=((), ())), other)
    last = b.dot_general(scaled, w, contract=((1,), (0,)), batch=((), ()))
    compiled = compile_graph(b.build([last]))
    check(compiled.plan, {})
    names = [entry.name[:3] for entry in compiled.plan.buffers]
    shared = {(names[w], names[r]) for s in compiled.plan.steps for w, r in s.in_place}
    assert ("mul", "tan") in shared
    assert int(str(compiled.plan.scratch)) <= 2 << 20
