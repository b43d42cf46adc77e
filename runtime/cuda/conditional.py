"""Branches and loops that a value decides, as nodes of a CUDA graph.

A ``ControlStep`` stands in a program's list of steps for such a branch or loop. Called with a
stream, it lets the host read the value; captured, it becomes a conditional node with the steps of
its bodies in graphs of their own, and the device goes from step to step by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flamec.runtime.control_steps import BranchStep, LoopStep
from flamec.runtime.cuda.module import KernelLaunch
from flamec.runtime.cuda.stream import Stream


@dataclass(frozen=True, slots=True, eq=False)
class ConditionalNode:
    """A node that runs one of two ``bodies``, or (``repeats``) its only one again and again.

    A ``ControlStep`` has one, or it stands in a body itself. ``before``: the steps ahead of it;
    ``setters``: the launches, there and in bodies, whose first argument is the node's handle.
    """

    repeats: bool
    before: Sequence[Any]
    bodies: Sequence[Sequence[Any]]
    setters: Sequence[KernelLaunch]


class ControlStep:
    """``host``: how it is run without a graph; ``node``: in one, None if it cannot be."""

    __slots__ = ("host", "node")

    def __init__(self, host: BranchStep | LoopStep, node: ConditionalNode | None) -> None:
        self.host = host
        self.node = node

    @property
    def repeats(self) -> bool:
        """Whether it is a loop that can be a node."""
        return self.node is not None and self.node.repeats

    def __call__(self, stream: Stream) -> None:
        self.host(stream)

    def update_node(self, graph: Any, node: Any, stream: Stream) -> None:
        raise ValueError("the steps of a conditional node are changed one by one")
