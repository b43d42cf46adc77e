"""Which operations may be computed a second time instead of keeping their results."""

from __future__ import annotations

from flamec.ir.graph import Node
from flamec.ir.op import OpKind

FREE = (OpKind.VIEW, OpKind.CREATION, OpKind.BARRIER)  # no memory is worth saving for them


def can_run_again(node: Node, expensive: bool) -> bool:
    """Whether a node may run twice. ``expensive``: functions such as exp may."""
    if node.op.kind is OpKind.ELEMENTWISE:
        return expensive or not node.op.expensive
    return node.op.kind in FREE
