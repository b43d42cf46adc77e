"""Which nodes of a trace each ``backward()`` call in the function gave rise to.

In: the trace's builder, and a node of the forward pass before its derivative is built. Out: spans
of nodes. Invariant: while a span is open, new nodes have the line and the module of the forward
node whose derivative they are, not those of the code that builds it.
"""

from __future__ import annotations

from flamec.errors import user_location
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Location, Node


class BackwardSpans:
    """``calls``: first node, the one behind the last, and the line of each call."""

    def __init__(self, builder: GraphBuilder) -> None:
        self.calls: list[tuple[int, int, Location | None]] = []
        self._builder = builder
        self._start: int | None = None
        self._location: Location | None = None

    @property
    def is_open(self) -> bool:
        """Whether a backward pass is being traced."""
        return self._start is not None

    def enter(self, node: Node) -> None:
        """What is built from now on belongs to the derivative of ``node``."""
        if self._start is None:
            self._start = len(self._builder.nodes)
            self._location = user_location()
        self._builder.location = node.location
        self._builder.scope = node.scope

    def leave(self) -> None:
        """The backward pass is over."""
        if self._start is not None:
            self.calls.append((self._start, len(self._builder.nodes), self._location))
        self._start = None
