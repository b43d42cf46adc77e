"""Which operations may be computed a second time instead of keeping their results."""

from __future__ import annotations

from flamec.ir.graph import Node
from flamec.ir.op import OpKind

FREE = (OpKind.VIEW, OpKind.CREATION, OpKind.BARRIER)  # no memory is worth saving for them


FOLDS = (OpKind.REDUCTION, OpKind.SCAN, OpKind.GATHER, OpKind.RANDOM)


def can_run_again(node: Node, expensive: bool, folds: bool = False) -> bool:
    """Whether a node may run twice. ``expensive``: functions such as exp may; ``folds``: what folds
    rows, picks elements or draws the same random bits again."""
    if node.op.kind is OpKind.ELEMENTWISE:
        return expensive or not node.op.expensive
    return node.op.kind in FREE or (folds and node.op.kind in FOLDS)
