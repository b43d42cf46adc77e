"""The builder of a write while a function is traced.

In: a trace. Out: nodes of it, whose results are tracked if what they are computed from is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flamec.ir.builder import Builder
from flamec.ir.graph import Value
from flamec.ir.op import Op
from flamec.ir.types import TensorType

if TYPE_CHECKING:
    from flamec.trace import Trace


class WriteBuilder(Builder):
    """Emits the nodes of a write into the trace; values are graph Values."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def type_of(self, value: Value) -> TensorType:
        return value.type

    def apply(self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        node = self._trace._add_node(op, inputs, attributes)
        if op.derivative is not None and any(v in self._trace.tracked for v in inputs):
            self._trace.tracked.update(node.outputs)
        return node.output
