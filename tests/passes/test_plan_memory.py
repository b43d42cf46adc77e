"""The arena: live buffers never overlap, dead ones are used again."""

from __future__ import annotations

import random

import numpy as np
from kernel_cases import Builder

from flamec.codegen.compile_graph import CodegenOptions, compile_graph
from flamec.ir.passes.plan_memory import ALIGNMENT, plan_memory
from flamec.ir.plan import Buffer, ExecutionPlan, Step
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import float32

Interval = tuple[int, int]


def plan_of(elements: list[int], steps: list[Step]) -> ExecutionPlan:
    buffers = tuple(Buffer(f"t{i}", "temporary", float32, n) for i, n in enumerate(elements))
    return ExecutionPlan(buffers, tuple(steps), (), (), (), (), ("B",), "")


def step(reads: tuple[int, ...], writes: tuple[int, ...], *in_place: tuple[int, int]) -> Step:
    return Step("step", "pointwise", reads, writes, 0, 0, in_place=in_place)


def lifetimes(plan: ExecutionPlan) -> dict[int, Interval]:
    found: dict[int, Interval] = {}
    for position, s in enumerate(plan.steps):
        for buffer in (*s.reads, *s.writes):
            found[buffer] = (found.get(buffer, (position, 0))[0], position)
    return found


def check(plan: ExecutionPlan, bindings: dict[str, int]) -> None:
    """Buffers that live at the same time lie apart, but for pairs that share in place."""
    layout = plan_memory(plan, bindings)
    alive = {b: i for b, i in lifetimes(plan).items() if plan.buffers[b].kind == "temporary"}
    size = {b: evaluate_dim(plan.buffers[b].bytes, bindings) for b in alive}
    assert set(layout.offsets) == set(alive)
    for b, (first, last) in alive.items():
        offset = layout.offsets[b]
        assert offset % ALIGNMENT == 0
        assert offset + size[b] <= layout.peak_bytes
        for other, (other_first, other_last) in alive.items():
            if other <= b or other_last < first or last < other_first:
                continue
            apart = (
                offset + size[b] <= layout.offsets[other]
                or layout.offsets[other] + size[other] <= offset
            )
            shared = any((b, other) in s.in_place or (other, b) in s.in_place for s in plan.steps)
            assert apart or (shared and min(last, other_last) == max(first, other_first))


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


def test_random_plans() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        count = rng.randrange(1, 20)
        elements = [rng.choice((1, 7, 16, 100, 1000)) for _ in range(count)]
        steps = []
        for i in range(count):
            read = tuple(rng.sample(range(i), min(i, rng.randrange(3))))
            pairs = [(i, r) for r in read if rng.random() < 0.5]
            steps.append(step(read, (i,), *pairs))
        check(plan_of(elements, steps), {})


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
