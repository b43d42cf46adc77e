"""Operands of products in memory: which layouts are matrices, and with which strides.

In: a product's node, the position of an operand, and the operand's ``Layout``. Out: the
steps through memory of its batch, free and contracted axes, or None where the steps are
not even. Invariant: nothing here looks at values or at other nodes.
"""

from __future__ import annotations

from flamec.ir.graph import Node
from flamec.ir.layout import Factor, Layout, coalesce
from flamec.ir.shape import structurally_equal
from flamec.ir.types import float32, float64

MOST_STEPS = 8  # nested loops along a dimension of a matrix that is not even


def matrix_strides(
    node: Node, position: int, layout: Layout
) -> tuple[list[Factor], Factor, Factor] | None:
    """An operand of ``dot_general`` as (batch factors, free, contracted), or None.

    The free axes must step through memory evenly, and so must the contracted ones, and one
    of the two strides must be 1, as a BLAS wants it.
    """
    outer, rows, columns = matrix_steps(node, position, layout)
    if len(rows) > 1 or len(columns) > 1:
        return None
    row = rows[0] if rows else Factor(1, 0)
    column = columns[0] if columns else Factor(1, 0)
    if any(structurally_equal(f.size, 0) for f in (row, column)):
        return outer, Factor(row.size, 1), Factor(column.size, 1)  # nothing is read
    strides = {f.stride for f in (row, column) if not structurally_equal(f.size, 1)}
    if (strides and 1 not in strides) or any(isinstance(s, int) and s < 1 for s in strides):
        return None
    return outer, row, column


def matrix_steps(
    node: Node, position: int, layout: Layout
) -> tuple[list[Factor], list[Factor], list[Factor]]:
    """An operand of ``dot_general`` as the factors of its batch, free and contracted axes."""
    contract = node.attributes["contract"][position]
    batch = node.attributes["batch"][position]
    free = [i for i in range(len(layout.dims)) if i not in (*contract, *batch)]
    return (
        [f for i in batch for f in layout.dims[i]],
        coalesce(f for i in free for f in layout.dims[i]),
        coalesce(f for i in contract for f in layout.dims[i]),
    )


def multiplies_uneven(node: Node, position: int, layout: Layout) -> bool:
    """Whether products of such a type take an operand that is not evenly in memory."""
    _, *steps = matrix_steps(node, position, layout)
    types = {v.type.dtype for v in (*node.inputs, node.output)}
    return len(types) == 1 and types <= {float32, float64} and max(map(len, steps)) <= MOST_STEPS


def even_matrix(layout: Layout) -> tuple[list[Factor], Factor, Factor] | None:
    """The last two dimensions as (batch factors, rows, columns); None if their steps are uneven.

    A dimension of size 1 has stride 1.
    """
    *batch, rows, columns = layout.dims
    last = [coalesce(dim) for dim in (rows, columns)]
    if any(len(factors) > 1 for factors in last):
        return None
    row, column = (factors[0] if factors else Factor(1, 1) for factors in last)
    return [f for dim in batch for f in dim], row, column
