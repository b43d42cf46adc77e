"""What shape rules check and how they say what is wrong.

Every message begins with the op's name and ends with the shapes or dtypes at
fault. Checks on symbolic sizes never add guards: a bound that the form of
the sizes does not settle is left to the evaluator, which sees numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from flamec.ir.shape import Dim, format_shape, less
from flamec.ir.shape_oracle import Undecidable, using_oracle
from flamec.ir.types import TensorType


def surely_less(a: Dim, b: Dim) -> bool:
    """Whether ``a < b`` follows from the form of the sizes; the oracle is not asked."""
    if isinstance(a, int) and isinstance(b, int):
        return a < b
    with using_oracle(None):
        try:
            return less(a, b)
        except Undecidable:
            return False


def check_operand_count(op: str, types: Sequence[TensorType], count: int) -> None:
    if len(types) != count:
        raise TypeError(f"{op} takes {count} operand{'s' * (count != 1)}, {len(types)} were given")


def check_alike(op: str, types: Sequence[TensorType]) -> None:
    """All operands share dtype and device."""
    first = types[0]
    for other in types[1:]:
        if other.dtype is not first.dtype:
            raise TypeError(f"{op}: operands differ in dtype: {' and '.join(map(str, types))}")
    check_same_device(op, types)


def check_same_device(op: str, types: Sequence[TensorType]) -> None:
    first = types[0].device
    for other in types[1:]:
        if other.device is not first and other.device != first:
            raise ValueError(f"{op}: operands are on different devices: {first} and {other.device}")


def check_numeric(op: str, type: TensorType) -> None:
    if type.dtype.kind == "bool":
        raise TypeError(f"{op} is not defined for bool; convert {type} first")


def check_axis(op: str, axis: object, type: TensorType) -> int:
    """The axis, which must be a nonnegative int below the rank."""
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"{op}: an axis must be an int, not {axis!r}")
    if not 0 <= axis < len(type.shape):
        raise ValueError(
            f"{op}: axis {axis} is out of range for shape {format_shape(type.shape)} "
            f"of {len(type.shape)} dimensions"
        )
    return axis


def check_one_per_dimension(op: str, name: str, entries: Sequence[object], rank: int) -> None:
    if len(entries) != rank:
        raise ValueError(
            f"{op}: {name} has {len(entries)} entries for a tensor of {rank} dimensions"
        )


def check_shape_attribute(op: str, shape: tuple[Dim, ...]) -> None:
    """A tuple of sizes, none of them negative."""
    if not isinstance(shape, tuple):
        raise TypeError(f"{op}: shape must be a tuple of sizes, not {shape!r}")
    for axis, dim in enumerate(shape):
        if surely_less(dim, 0):
            raise ValueError(f"{op}: negative size {dim} at dimension {axis} of {list(shape)}")
