"""What a program asks of values, as statements of a kernel.

In: the names of a value and of the condition that is to hold. Out: statements, the last of which
gives the value. The value depends on what looks at the condition, so nothing that is needed leaves
that out.
"""

from __future__ import annotations

from collections.abc import Callable

from flamec.codegen.lower.lanes import lane_type
from flamec.ir.graph import Node
from flamec.ir.kernel import CheckedIndex, Compute, Statement


def error_text(node: Node) -> str:
    """The message of a ``require``, as ``runtime.program_errors`` reads it."""
    return f"{node.attributes['error']}: {node.attributes['message']}"


def requirement(
    node: Node, operands: tuple[str, ...], error: int, new_name: Callable[[], str]
) -> tuple[Statement, ...]:
    """The statements for a ``require`` whose error has a code."""
    holds, value = operands
    lane = lane_type(node.output.type.dtype)
    seen, result = new_name(), new_name()
    return (
        CheckedIndex(seen, holds, 1, error, "b"),
        Compute(result, lane, "where", (seen, value, value), ("b", lane, lane)),
    )
