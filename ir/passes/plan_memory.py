"""Place the temporary buffers of a plan in one arena, and in the memory of its results.

In: an ``ExecutionPlan`` and the values of its symbols. Out: a ``MemoryLayout``.
Invariant: two buffers share memory only if one is dead before the other is first written, or if the
step between them may write in place. Before a large result is written its memory has guests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flamec.ir.passes.arrange_memory import Rest, arrange
from flamec.ir.passes.live_ranges import Access, Span, aligned
from flamec.ir.plan import MOST_OVERTAKEN, ExecutionPlan, MemoryLayout
from flamec.ir.shape import evaluate_dim

# Bytes of a result that lends its memory: below, an address more to set costs more than it saves,
# and results need not be aligned.
LEAST_LENT = 1 << 18
# Bytes of a buffer whose memory is not used again at once: what would use it could not begin early.
MOST_RESTING = 4 << 20


class MemoryUse(NamedTuple):
    """Bytes of a call: of its inputs, of the outputs that it makes, and of the arena."""

    inputs: int
    outputs: int
    arena: int

    @property
    def total(self) -> int:
        """All that is in memory while the program runs."""
        return self.inputs + self.outputs + self.arena


def plan_memory(plan: ExecutionPlan, bindings: Mapping[str, int]) -> MemoryLayout:
    """The layout of a plan for these values of its symbols."""
    results = {
        output.buffer: evaluate_dim(plan.buffers[output.buffer].bytes, bindings)
        for output in plan.outputs
    }
    large = {buffer: nbytes for buffer, nbytes in results.items() if nbytes >= LEAST_LENT}
    side_by_side = plan.language == "triton" and any(s.is_long(bindings) for s in plan.steps)
    rest = Rest(MOST_OVERTAKEN, MOST_RESTING) if side_by_side else None
    return MemoryLayout(*arrange(*accesses_of(plan, bindings), large, rest))


def accesses_of(
    plan: ExecutionPlan, bindings: Mapping[str, int]
) -> tuple[list[Access[int]], dict[int, int], list[Span[int]]]:
    """What a plan does with its temporaries, as ``arrange`` takes it: steps, sizes, loops."""
    steps = [Access(step.reads, step.writes, step.in_place) for step in plan.steps]
    spans = [Span(loop.first, loop.last, loop.buffers) for loop in plan.loops]
    touched = {b for step in steps for b in (*step.reads, *step.writes)}
    size = {
        position: evaluate_dim(buffer.bytes, bindings)
        for position, buffer in enumerate(plan.buffers)
        if buffer.kind == "temporary" and position in touched
    }
    return steps, size, spans


def memory_use(plan: ExecutionPlan, bindings: Mapping[str, int], threads: int = 1) -> MemoryUse:
    """What a call is predicted to take; each of ``threads`` has private memory in the arena."""

    def together(buffers: Iterable[int]) -> int:
        return sum(evaluate_dim(plan.buffers[b].bytes, bindings) for b in set(buffers))

    private = aligned(evaluate_dim(plan.scratch, bindings)) * threads
    return MemoryUse(
        together(plan.inputs),
        together(output.buffer for output in plan.outputs),
        plan_memory(plan, bindings).peak_bytes + private,
    )
