"""Group tasks into kernels.

In: the tasks of a graph. Out: fusion groups in execution order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flamec.ir.graph import Value
from flamec.ir.tasks import Task, TaskGraph


@dataclass(frozen=True, slots=True)
class FusionOptions:
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class FusionDecision:
    """Whether a producer was merged into a consumer, and why (not)."""

    producer: str
    consumer: str
    made: bool
    reason: str


@dataclass(frozen=True)
class FusionGroup:
    """Tasks that become one kernel. ``segments`` are sets of tasks that share loops."""

    segments: tuple[tuple[Task, ...], ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(task for segment in self.segments for task in segment)


@dataclass(frozen=True)
class Fusion:
    groups: tuple[FusionGroup, ...]
    decisions: tuple[FusionDecision, ...]
    escapes: set[Value]


def fuse(context: TaskGraph, options: FusionOptions) -> Fusion:
    groups = tuple(FusionGroup(((task,),)) for task in context.tasks)
    escapes = {v for task in context.tasks for v in task.results}
    return Fusion(groups, (), escapes)


