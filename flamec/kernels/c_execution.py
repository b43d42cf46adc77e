"""Run the C form of a user's kernel on NumPy arrays: a program of one operation.

In: the operation, arrays. Out: its results. Sizes are symbols where the kernel's rules allow it, so
that another size compiles nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flamec import cpu_eager
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, Types
from flamec.ir.shape_oracle import Undecidable, using_oracle
from flamec.ir.types import TensorType
from flamec.symbolic_sizes import Sizes


def run(
    op: Op, types: Types, attributes: Attributes, arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """The results. CompileError without a C compiler, or if it fails."""
    for least in (2, None):
        sizes = Sizes(least)
        try:
            with using_oracle(None):
                graph = _graph(op, [sizes.type(t) for t in types], attributes)
                graph.fingerprint()  # asks the kernel's forms
        except (Undecidable, TypeError, ValueError):
            if least is None:
                raise
            continue
        return tuple(cpu_eager.bind_graph(graph, sizes.bindings).run(arrays))
    raise AssertionError("the loop returns or raises")


def _graph(op: Op, types: Sequence[TensorType], attributes: Attributes) -> Graph:
    b = GraphBuilder()
    operands = [b.input(t) for t in types]
    results = b.apply(op, operands, attributes)
    return b.build(results if isinstance(results, tuple) else (results,), name=op.name)
