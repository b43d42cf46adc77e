"""The types of an eager operation's results, remembered where operands alone determine them.

In: an operation, its operands and attributes. Out: what its shape rule says. Those of elementwise
operations without attributes are found by the numbers of the operands' types, without the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamec.ir.op import Op, OpKind
from flamec.ir.types import TensorType
from flamec.tensor import Tensor

_types: dict[Any, tuple[TensorType, ...]] = {}  # of elementwise operations without attributes
_MOST_TYPES = 4096


def result_types(
    op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    """The types of an operation's results. Raises what its shape rule raises."""
    if attributes or op.kind is not OpKind.ELEMENTWISE:
        return op.infer_types(tuple([t._type for t in inputs]), attributes)
    key = (op, *[t._type._number or t._type.number for t in inputs])
    known = _types.get(key)
    if known is None:
        known = op.infer_types(tuple([t._type for t in inputs]), attributes)
        if len(_types) >= _MOST_TYPES:
            _types.clear()
        _types[key] = known
    return known
