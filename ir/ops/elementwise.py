"""The rules that all elementwise declarations share.

In: the operand types of an elementwise op. Out: the result type after NumPy's
broadcasting. Operands of one op have one dtype and one device: promotion is
the frontend's work, and it is done before a node exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.op import Attributes, Types
from flamec.ir.ops.checks import check_alike, check_operand_count, check_same_device
from flamec.ir.types import DType, TensorType

FLOAT = frozenset({"float"})
INTEGER = frozenset({"int", "uint"})
NUMERIC = FLOAT | INTEGER
INTEGER_OR_BOOL = INTEGER | {"bool"}
ANY = NUMERIC | {"bool"}

_KIND_NAMES = (("float", "floating-point"), ("int", "integer"), ("bool", "bool"))
_INTEGER_LANES = ("i8", "i16", "i32", "i64", "u8")


def lanes(floats: str = "", integers: str = "", b: str = "") -> Mapping[str, str]:
    """Scalar text by lane type; empty text leaves the lanes out."""
    table = {"f32": floats, "f64": floats, **dict.fromkeys(_INTEGER_LANES, integers), "b": b}
    return {lane: text for lane, text in table.items() if text}


def broadcast_type(name: str, types: Types, dtype: DType) -> TensorType:
    """The type of a result of dtype ``dtype`` over broadcast operands.

    ValueError if the shapes do not broadcast or the devices differ.
    """
    first = types[0]
    shape = first.shape
    check_same_device(name, types)
    for other in types[1:]:
        if other.shape is shape or not other.shape:
            continue
        if not shape:
            shape = other.shape
            continue
        try:
            shape = broadcast_shapes(shape, other.shape)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if shape is first.shape and dtype is first.dtype:
        return first
    return TensorType(shape, dtype, first.device)


def elementwise_rule(
    name: str, count: int, accepts: frozenset[str], result: DType | None = None
) -> Callable[[Types, Attributes], TensorType]:
    """The shape rule of an op over ``count`` operands of one accepted dtype.

    The result has that dtype, or ``result`` where given. The rule raises TypeError
    for a wrong number of operands or wrong dtypes, ValueError as ``broadcast_type``.
    """

    def infer(types: Types, attributes: Attributes) -> TensorType:
        check_operand_count(name, types, count)
        check_alike(name, types)
        dtype = types[0].dtype
        if dtype.kind not in accepts:
            wanted = " or ".join(text for kind, text in _KIND_NAMES if kind in accepts)
            raise TypeError(f"{name} takes {wanted} operands, not {' and '.join(map(str, types))}")
        return broadcast_type(name, types, result or dtype)

    return infer
