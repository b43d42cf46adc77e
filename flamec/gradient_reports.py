"""What a backward program tells Python of gradients: hooks, and gradients that are kept.

In: a differentiated graph and what its builder was asked to report. Out: for each report which of
the graph's last outputs it is of, and which gradients of results they depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.ir.builder import Report
from flamec.ir.graph import Graph
from flamec.tensor import Tensor


@dataclass(frozen=True)
class GradientReport:
    """What a backward program's call ends with: ``function`` of gradients that it gives, None where
    there is none; a number is an output whose gradient is kept. ``seeds``: the gradients of results
    that they depend on, as bits."""

    function: Callable[[list[Any]], Any] | int
    is_there: tuple[bool, ...]
    seeds: int

    @property
    def count(self) -> int:
        return sum(self.is_there)

    def given(self, values: Iterator[Tensor]) -> list[Any]:
        return [next(values) if there else None for there in self.is_there]


def gradient_reports(
    joint: Graph, input_count: int, seed_count: int, reports: Sequence[Report]
) -> Iterator[GradientReport]:
    """The reports with what they depend on; their values are the last outputs of ``joint``."""
    if not reports:
        return
    seeds = joint.inputs[input_count : input_count + seed_count]
    known = {seed: 1 << i for i, seed in enumerate(seeds)}
    for node in joint.nodes:
        bits = 0
        for value in node.inputs:
            bits |= known.get(value, 0)
        known.update(dict.fromkeys(node.outputs, bits))
    position = len(joint.outputs) - sum(v is not None for _, vs in reports for v in vs)
    for function, values in reports:
        bits = 0
        for value in values:
            if value is not None:
                bits |= known.get(joint.outputs[position], 0)
                position += 1
        yield GradientReport(function, tuple([v is not None for v in values]), bits)
