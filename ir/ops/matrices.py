"""What the rules of matrix operations share: checks, products, triangles, identities.

Matrices are the last two dimensions; those before them count the matrices of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.ops.checks import check_alike, check_operand_count
from flamec.ir.shape import Dim, equal, format_shape, less
from flamec.ir.types import TensorType, float32, float64, int64

if TYPE_CHECKING:
    from flamec.ir.builder import Builder
    from flamec.ir.op import Types


# checks ------------------------------------------------------------------------------------
def check_matrices(name: str, types: Types, count: int = 1) -> TensorType:
    """The first operand's type; all are float32 or all float64, of two dimensions or more."""
    check_operand_count(name, types, count)
    check_alike(name, types)
    for type in types:
        if type.dtype not in (float32, float64):
            raise TypeError(f"{name}: matrices must be float32 or float64, not {type}")
        if len(type.shape) < 2:
            raise ValueError(
                f"{name}: expected at least 2 dimensions, got shape {format_shape(type.shape)}"
            )
    return types[0]


def check_square(name: str, types: Types, count: int = 1) -> TensorType:
    """As ``check_matrices``, where the first operand's matrices must be square."""
    type = check_matrices(name, types, count)
    if not equal(type.shape[-1], type.shape[-2]):
        raise ValueError(
            f"{name}: expected square matrices, got {type.shape[-2]} by {type.shape[-1]} "
            f"in shape {format_shape(type.shape)}"
        )
    return type


def check_system(name: str, types: Types) -> TensorType:
    """Square matrices A and right sides B with as many rows, in equal batches; the type of B."""
    a = check_square(name, types, 2)
    b = types[1]
    same = len(a.shape) == len(b.shape) and all(map(equal, a.shape[:-1], b.shape[:-1]))
    if not same:
        raise ValueError(
            f"{name}: matrices {format_shape(a.shape)} and right sides {format_shape(b.shape)} "
            "do not match"
        )
    return b


def smaller(m: Dim, n: Dim) -> Dim:
    """The lesser of two sizes."""
    return m if less(m, n) else n


def first_where(wrong: np.ndarray) -> tuple[int, ...]:
    """The index of the first True of a batch."""
    place = np.argwhere(np.atleast_1d(wrong))[0]
    return tuple(int(i) for i in place) if wrong.ndim else ()


def batch_element(place: tuple[int, ...], batch: tuple[int, ...]) -> str:
    """How errors name a matrix of a batch."""
    return f"(Batch element {np.ravel_multi_index(place, batch)}): " if batch else ""


# building ----------------------------------------------------------------------------------
def matrix_product(b: Builder, x: Any, y: Any) -> Any:
    """The products of two batches of one shape."""
    rank = len(b.type_of(x).shape)
    batch = tuple(range(rank - 2))
    return b.dot_general(x, y, contract=((rank - 1,), (rank - 2,)), batch=(batch, batch))


def transpose(b: Builder, x: Any) -> Any:
    rank = len(b.type_of(x).shape)
    return b.permute(x, axes=(*range(rank - 2), rank - 1, rank - 2))


def _places(b: Builder, x: Any) -> tuple[Any, Any]:
    """The row and column of each element."""
    type = b.type_of(x)
    return tuple(
        b.iota(shape=type.shape, axis=axis, dtype=int64, device=type.device)
        for axis in (len(type.shape) - 2, len(type.shape) - 1)
    )


def lower_part(b: Builder, x: Any, diagonal: int = 0) -> Any:
    """``x`` on and below a diagonal, else 0."""
    row, column = _places(b, x)
    inside = b.ge(b.add(row, b.constant(diagonal, b.type_of(row))), column)
    return b.where(inside, x, b.constant(0, b.type_of(x)))


def upper_part(b: Builder, x: Any, diagonal: int = 0) -> Any:
    """``x`` on and above a diagonal, else 0."""
    row, column = _places(b, x)
    inside = b.le(b.add(row, b.constant(diagonal, b.type_of(row))), column)
    return b.where(inside, x, b.constant(0, b.type_of(x)))


def with_diagonal(b: Builder, x: Any, values: Any) -> Any:
    """``x`` with other values on its diagonal; ``values`` is broadcast against ``x``."""
    row, column = _places(b, x)
    return b.where(b.eq(row, column), values, x)


def diagonal_matrix(b: Builder, values: Any) -> Any:
    """Square matrices with these values on the diagonal."""
    type = b.type_of(values)
    shape = (*type.shape, type.shape[-1])
    return with_diagonal(b, b.full_like(0, type.with_shape(shape)), as_row(b, values))


def as_row(b: Builder, values: Any) -> Any:
    """Vectors as matrices of one row."""
    shape = b.type_of(values).shape
    return b.reshape(values, shape=(*shape[:-1], 1, shape[-1]))


def as_column(b: Builder, values: Any) -> Any:
    """Vectors as matrices of one column."""
    return b.reshape(values, shape=(*b.type_of(values).shape, 1))


def identity_like(b: Builder, x: Any) -> Any:
    """Identity matrices in the shape of ``x``."""
    type = b.type_of(x)
    return with_diagonal(b, b.full_like(0, type), b.constant(1, type))


def added(b: Builder, x: Any, y: Any) -> Any:
    """The sum of two values of which either may be None."""
    if x is None or y is None:
        return y if x is None else x
    return b.add(x, y)
