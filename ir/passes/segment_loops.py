"""A scan in segments: fewer steps are saved for its derivative, the others are run again.

In: a scan's attributes and how many bytes a step saves. Out: how the steps are divided, and the
attributes of a scan over segments, whose body is the scan over the steps of one. The inner scan is
marked as ``checkpoint``: its derivative gets its residuals by running it again from the carried
values at the beginning of the segment, which is all that the outer scan stacks for that (Griewank
and Walther, "Revolve", 2000, with one level; Chen et al., "Training deep nets with sublinear memory
cost", 2016).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, lookup
from flamec.ir.passes.differentiate_loops import with_residuals

MOST_LENGTHS = 4096  # that are tried


class StepBytes(NamedTuple):
    """``saved``: what the derivative needs of a step; ``carried``: what is carried to the next one;
    ``moved``: elements of sequences and of stacked results."""

    saved: int
    carried: int
    moved: int


class Division(NamedTuple):
    """``segments`` of ``length`` steps that are run again, and the ``rest``, which is saved."""

    segments: int
    length: int
    rest: int

    def nbytes(self, step: StepBytes) -> int:
        """What waits for the backward pass, and what it needs at once; where the steps are cut in
        two parts, sequences are copied."""
        steps = self.segments * self.length + self.rest
        copied = steps * step.moved if self.rest else 0
        segments = self.segments * step.carried + self.length * step.saved
        return segments + self.rest * step.saved + copied


def divide(steps: int, step: StepBytes, budget: float) -> Division | None:
    """The division that runs the fewest steps again, of those that take at most ``budget`` (0 to
    1) of the way from the fewest bytes to those of all steps; None where all are to be saved."""
    whole = steps * step.saved
    found = list(_divisions(steps))
    if not found:
        return None
    least = min(division.nbytes(step) for division in found)
    allowed = least + budget * (whole - least)
    if whole <= allowed:
        return None
    fitting = (d for d in found if d.nbytes(step) <= allowed)
    return min(fitting, key=lambda d: (d.segments * d.length, d.nbytes(step)))


def _divisions(steps: int) -> Iterator[Division]:
    """Lengths with as many segments as there may be, and with fewer for shares of the steps."""
    stride = -(-steps // MOST_LENGTHS)
    for length in range(1, steps, stride):
        most = steps // length
        for eighths in range(1, 9):
            segments = most * eighths // 8
            if segments > 0:
                yield Division(segments, length, steps - segments * length)


def in_segments(attributes: Attributes, length: int, count: int, needs: Sequence[bool]) -> Any:
    """The attributes of the scan over ``count`` segments; its operands are those of the scan, but
    that sequences have the segments as their first dimension and the steps as their second.

    ``needs``: which operands want gradients. Results are stacked in the same way.
    """
    body: Graph = attributes["body"]
    carries, split = attributes["carries"], attributes["carries"] + attributes["sequences"]
    builder = GraphBuilder()
    operands = []
    for position, value in enumerate(body.inputs):
        type = value.type
        if carries <= position < split:
            type = type.with_shape((length, *type.shape))
        operands.append(builder.input(type, value.name))
    floating = [v.type.dtype.is_floating_point for v in body.inputs[:carries]]
    inner = {**attributes, "length": length, "checkpoint": True}
    inner = with_residuals(inner, [*floating, *needs[carries:]])
    results = builder.apply_all(lookup("scan"), operands, inner)
    kept = len(results) - inner["residuals"]
    whole = builder.build(list(results[:kept]), name=f"{body.name}_segment")
    return with_residuals({**attributes, "body": whole, "length": count}, needs)
