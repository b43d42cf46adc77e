"""The checkpointed parts of a trace, and the memory that they read.

In: the nodes of a part, when it has been traced. Out: its ``Region``; a refusal where eager mode,
which runs the part again in backward, would find other values in memory than the program has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from flamec.errors import Uncompiled
from flamec.ir.graph import Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.rematerialize import Region, region
from flamec.roots import Root
from flamec.tensor import Storage


class RecomputedParts:
    """``regions``: in order, inner ones before those around them."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._read: list[list[tuple[Root, Value]]] = []  # memory, and what each region found there

    def add(
        self,
        nodes: Sequence[Node],
        kept: Collection[Value],
        outputs: Collection[Value],
        roots: Mapping[Storage, Root],
    ) -> None:
        """A part that has just been traced (see ``region``); what it has changed itself does not
        count."""
        self.regions.append(region(nodes, kept, outputs))
        read = set(_values_read(nodes))
        self._read.append([(root, root.value) for root in roots.values() if root.value in read])

    def changed(self) -> set[Node]:
        """The nodes of parts whose memory has changed since."""
        found: set[Node] = set()
        for part, read in zip(self.regions, self._read, strict=True):
            if any(root.value is not value for root, value in read):
                found.update(part.nodes)
        return found

    def inputs_read(self, inputs: Sequence[Value]) -> list[int]:
        """The positions of the inputs of a graph that parts read."""
        read = {value for part in self.regions for value in _values_read(part.nodes)}
        return [i for i, value in enumerate(inputs) if value in read]

    def release(self) -> None:
        """Let go of the memory of the traced call."""
        self._read = [[] for _ in self.regions]


def reads_changed_memory(node: Node) -> Uncompiled:
    """What to raise when a gradient arrives at a node that is ``changed()``."""
    return Uncompiled(
        f"a checkpointed part (at {node.location}) has read a tensor that is changed before the "
        "backward pass, which computes the part again"
    )


def _values_read(nodes: Sequence[Node]) -> Iterator[Value]:
    """What nodes read that others made, and what that is a view of."""
    own = {value for node in nodes for value in node.outputs}
    for node in nodes:
        for value in node.inputs:
            if value in own:
                continue
            yield value
            while value.node is not None and value.node.op.kind in (OpKind.VIEW, OpKind.BARRIER):
                value = value.node.inputs[0]
                yield value
