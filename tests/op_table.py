"""The op table: one row for every primitive operation.

``for row in OP_TABLE``: ``row.samples(dtype, rng)`` gives operands and attributes,
``row.expected(sample, types)`` the results by an oracle that shares no code
with the op. The record is explained in ``op_row.py``; a new op adds one row to
the file of its family.
"""

from __future__ import annotations

from op_row import Row
from op_rows_attention import ATTENTION_ROWS
from op_rows_creation import CREATION_ROWS
from op_rows_elementwise import ELEMENTWISE_ROWS
from op_rows_folding import FOLDING_ROWS
from op_rows_loops import LOOP_ROWS
from op_rows_matrices import MATRIX_ROWS
from op_rows_order import ORDER_ROWS
from op_rows_structure import STRUCTURE_ROWS

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.op import OpKind, lookup

OP_TABLE: tuple[Row, ...] = (
    *ELEMENTWISE_ROWS,
    *FOLDING_ROWS,
    *STRUCTURE_ROWS,
    *CREATION_ROWS,
    *ORDER_ROWS,
    *MATRIX_ROWS,
    *ATTENTION_ROWS,
    *LOOP_ROWS,
)
ROWS = {row.name: row for row in OP_TABLE}
# without what needs memory that grows while it runs
COMPILED = tuple(row for row in OP_TABLE if lookup(row.name).kind is not OpKind.UNBOUNDED)
