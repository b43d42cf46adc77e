"""Backward passes for a batch of output gradients at once.

The nodes are those of one forward pass; what is emitted for them goes through a
``BatchBuilder``. Rules that are Python functions of tensors (compiled programs, custom
functions on the tape, hooks) run once for each element of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import tensor_builder
from flamec.ir.batching import BatchBuilder, Operand, whole
from flamec.ir.graph import Node, Value
from flamec.ir.op import DerivativeContext, OpKind
from flamec.tensor import Tensor


class BatchedBackward:
    """What ``backpropagate`` needs, for values that are ``Operand``."""

    def __init__(self, size: Any) -> None:
        self.builder = BatchBuilder(tensor_builder, size)
        self._size = size

    def saved(self, saved: Callable[[Node, Value], Any]) -> Callable[[Node, Value], Any]:
        """``saved`` with results that are the same for the whole batch."""
        return lambda node, value: Operand(saved(node, value), False)

    def finish(self, hooked: Callable[[Value], bool], finish: Callable[[Value, Any], Any]) -> Any:
        """``finish`` for each element, where ``hooked`` says that a hook looks at it."""

        def each(value: Value, gradient: Operand) -> Operand:
            if not hooked(value):
                return gradient
            rows = [finish(value, row) for row in self._rows(gradient)]
            return Operand(self._stacked(rows), True)

        return each

    def apply_rule(
        self, node: Node, context: DerivativeContext, incoming: Sequence[Operand | None]
    ) -> Sequence[Operand | None]:
        """Run the rule of a node."""
        rule = node.op.derivative
        assert rule is not None
        if node.op.kind is not OpKind.CALL:
            results: Sequence[Operand | None] = rule(self.builder, context, *incoming)
            return results
        single = DerivativeContext(
            context.attributes,
            [x.value if isinstance(x, Operand) else x for x in context.inputs],
            [x.value if isinstance(x, Operand) else x for x in context.outputs],
            context.input_types,
            context.output_types,
            context.needs,
        )
        columns = [None if g is None else self._rows(g) for g in incoming]
        found = [
            rule(tensor_builder, single, *(None if c is None else c[i] for c in columns))
            for i in range(self._size)
        ]
        return [
            None if any(g is None for g in rows) else Operand(self._stacked(rows), True)
            for rows in zip(*found, strict=True)
        ]

    def result(self, gradient: Operand) -> Tensor:
        """A gradient with the batch as its first dimension."""
        tensor: Tensor = whole(tensor_builder, self._size, gradient)
        return tensor

    def _rows(self, gradient: Operand) -> list[Tensor]:
        tensor = self.result(gradient)
        return [tensor[i] for i in range(self._size)]

    def _stacked(self, rows: Sequence[Any]) -> Tensor:
        b = tensor_builder
        single = [b.reshape(r, shape=(1, *r._type.shape)) for r in rows]
        joined: Tensor = b.concatenate(*single, axis=0)
        return joined
