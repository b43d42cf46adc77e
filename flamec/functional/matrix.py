"""Matrix products and what is made of them.

In: tensors of one dtype (``outer`` and ``kron`` promote). Out: new tensors. Each
product is one ``dot_general`` whose free dimensions stay where they are; errors
name both shapes and the sizes that do not match.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import apply
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional import arithmetic
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, LOWER, WIDEST, autocasts
from flamec.functional.dimensions import dimension
from flamec.functional.distance import norm_over
from flamec.functional.elementwise import require_tensors
from flamec.functional.primitives import (
    counts_as_large,
    is_found_empty,
    narrowed,
    ops,
    require,
    transposed,
    widened,
)
from flamec.functional.promotion import as_tensors, require_tensor
from flamec.functional.shape import window
from flamec.functional.statistics import safe_root
from flamec.fusing import fused
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.op import lookup
from flamec.ir.shape import Dim, SymbolicDim, equal, format_shape
from flamec.ir.types import bool_, int64
from flamec.state import thread
from flamec.tensor import Tensor


def contracted(
    x: Tensor,
    y: Tensor,
    contract: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Tensor:
    """``dot_general``: sums of products over the paired axes."""
    return ops.dot_general(x, y, **_paired(contract, batch))


def _paired(
    contract: tuple[Sequence[int], Sequence[int]],
    batch: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> dict[str, Any]:
    return {
        "contract": (tuple(contract[0]), tuple(contract[1])),
        "batch": (tuple(batch[0]), tuple(batch[1])),
    }


_DOT_GENERAL = lookup("dot_general")
_pairs: dict[tuple[int, int], dict[str, Any]] = {}  # by the numbers of eager operands' types
_MOST_PAIRS = 4096


def _check_pair(name: str, x: Any, y: Any) -> None:
    require_tensors(name, input=x, other=y)
    if x._type.dtype is not y._type.dtype:
        raise OperationTypeError(
            f"{name}(): expected both operands to have the same dtype, but got "
            f"{x._type.dtype.name} != {y._type.dtype.name} (at {user_location()})"
        )
    if x._type.dtype is bool_:
        raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")


def _check_rank(name: str, argument: str, x: Tensor, rank: int) -> None:
    if x.ndim != rank:
        raise OperationError(
            f"{name}(): {argument} must have {rank} dimensions, its shape is "
            f"{format_shape(x._type.shape)} (at {user_location()})"
        )


def _check_inner(name: str, x: Tensor, y: Tensor, inner_x: Dim, inner_y: Dim) -> None:
    if not equal(inner_x, inner_y):
        fits = y.ndim >= 2 and equal(y._type.shape[-1], inner_x)
        hint = "; the second transposed, y.mT, would fit" if fits else ""
        raise OperationError(
            f"{name}(): shapes {format_shape(x._type.shape)} and {format_shape(y._type.shape)} "
            f"cannot be multiplied: {inner_x} against {inner_y}{hint} (at {user_location()})"
        )


@autocasts(cpu=LOWER, cuda=LOWER)
@public
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The product of vectors, matrices or batches of them, whose batch dimensions broadcast."""
    if thread.trace is None and isinstance(input, Tensor) and isinstance(other, Tensor):
        one, two = input._type, other._type
        known = _pairs.get((one._number or one.number, two._number or two.number))
        if known is not None:  # operands of these types were multiplied before
            return apply(_DOT_GENERAL, (input, other), known)
    _check_pair("matmul", input, other)
    x, y = input, other
    rank_x, rank_y = x.ndim, y.ndim
    if not rank_x or not rank_y:
        raise OperationError(
            f"matmul(): both arguments need to be at least 1D, but they are {rank_x}D and "
            f"{rank_y}D (at {user_location()})"
        )
    row = max(rank_y - 2, 0)  # the contracted dimension of y
    _check_inner("matmul", x, y, x._type.shape[-1], y._type.shape[row])
    if rank_y <= 2:
        pairs = _paired(((rank_x - 1,), (row,)))
        if thread.trace is None:
            if len(_pairs) >= _MOST_PAIRS:
                _pairs.clear()
            _pairs[x._type.number, y._type.number] = pairs
        return ops.dot_general(x, y, **pairs)
    if rank_x == 1:
        return contracted(y, x, ((row,), (0,)))
    if rank_x == 2:
        rows_first = contracted(x, y, ((1,), (row,)))
        batch = tuple(range(1, rank_y - 1))
        return ops.permute(rows_first, axes=(*batch, 0, rank_y - 1))
    x, y = _same_batch(x, y)
    rank = x.ndim
    batch = tuple(range(rank - 2))
    return contracted(x, y, ((rank - 1,), (rank - 2,)), (batch, batch))


def _same_batch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the broadcast of their batch dimensions."""
    try:
        batch = broadcast_shapes(x._type.shape[:-2], y._type.shape[:-2])
    except ValueError as error:
        raise OperationError(
            f"matmul(): the batch dimensions of {format_shape(x._type.shape)} and "
            f"{format_shape(y._type.shape)} do not match: {error} (at {user_location()})"
        ) from None
    return (
        ops.expand_to(x, (*batch, *x._type.shape[-2:])),
        ops.expand_to(y, (*batch, *y._type.shape[-2:])),
    )


@autocasts(cpu=LOWER, cuda=LOWER)
@public
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    _check_pair("mm", input, mat2)
    _check_rank("mm", "input", input, 2)
    _check_rank("mm", "mat2", mat2, 2)
    _check_inner("mm", input, mat2, input._type.shape[1], mat2._type.shape[0])
    return contracted(input, mat2, ((1,), (0,)))


@autocasts(cpu=LOWER, cuda=LOWER)
@public
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices of one size."""
    _check_pair("bmm", input, mat2)
    _check_rank("bmm", "input", input, 3)
    _check_rank("bmm", "mat2", mat2, 3)
    _check_inner("bmm", input, mat2, input._type.shape[0], mat2._type.shape[0])
    _check_inner("bmm", input, mat2, input._type.shape[2], mat2._type.shape[1])
    return contracted(input, mat2, ((2,), (1,)), ((0,), (0,)))


@autocasts(cuda=LOWER)
@public
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """A matrix times a vector."""
    _check_pair("mv", input, vec)
    _check_rank("mv", "input", input, 2)
    _check_rank("mv", "vec", vec, 1)
    _check_inner("mv", input, vec, input._type.shape[1], vec._type.shape[0])
    return contracted(input, vec, ((1,), (0,)))


@autocasts(cuda=WIDEST)
@public
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The sum of the products of two vectors."""
    return _vector_product("dot", input, tensor)


@autocasts(cuda=WIDEST)
@public
def vdot(input: Tensor, other: Tensor) -> Tensor:
    """As ``dot``, for real numbers."""
    return _vector_product("vdot", input, other)


def _vector_product(name: str, x: Any, y: Any) -> Tensor:
    _check_pair(name, x, y)
    _check_rank(name, "input", x, 1)
    _check_rank(name, "other", y, 1)
    _check_inner(name, x, y, x._type.shape[0], y._type.shape[0])
    return contracted(x, y, ((0,), (0,)))


@public
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions."""
    require_tensors("inner", input=input, other=other)
    if not input.ndim or not other.ndim:
        return arithmetic.mul(input, other)
    _check_inner("inner", input, other, input._type.shape[-1], other._type.shape[-1])
    return tensordot(input, other, ((-1,), (-1,)))


@public
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of an element of one vector with one of the other."""
    require_tensors("outer", input=input, vec2=vec2)
    _check_rank("outer", "input", input, 1)
    _check_rank("outer", "vec2", vec2, 1)
    column = ops.reshape(input, shape=(input._type.shape[0], 1))
    return arithmetic.mul(column, vec2)


@autocasts(cpu=LOWER, cuda=WIDEST)
@public
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over the last ``dims`` dimensions of a and the first of b.

    Or over two given lists of dimensions, paired.
    """
    _check_pair("tensordot", a, b)
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        require(0 <= dims <= min(a.ndim, b.ndim), f"tensordot(): dims={dims} is out of range")
        axes_a, axes_b = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        given = tuple(dims)
        require(len(given) == 2, f"tensordot(): dims must be an int or two lists, not {dims!r}")
        axes_a = [dimension("tensordot", d, a.ndim) for d in given[0]]
        axes_b = [dimension("tensordot", d, b.ndim) for d in given[1]]
    require(
        len(axes_a) == len(axes_b), f"tensordot(): {axes_a} and {axes_b} differ in their length"
    )
    for i, j in zip(axes_a, axes_b, strict=True):
        size_a, size_b = a._type.shape[i], b._type.shape[j]
        if equal(size_a, size_b):
            continue
        if equal(size_a, 1):
            b = _summed(b, j)
        elif equal(size_b, 1):
            a = _summed(a, i)
        else:
            raise OperationError(
                f"tensordot(): contracted dimensions need to match, but dimension {i} of "
                f"{format_shape(a._type.shape)} is {size_a} and dimension {j} of "
                f"{format_shape(b._type.shape)} is {size_b} (at {user_location()})"
            )
    return contracted(a, b, (axes_a, axes_b))


def _summed(x: Tensor, axis: int) -> Tensor:
    """The sum over one dimension, which stays with size 1."""
    shape = x._type.shape
    total = ops.sum(x, axes=(axis,))
    return ops.reshape(total, shape=(*shape[:axis], 1, *shape[axis + 1 :]))


@public
def kron(input: Tensor, other: Tensor) -> Tensor:
    """Each element of ``input`` times the whole of ``other``, laid out as blocks."""
    x, y = (require_tensor("kron", n, t) for n, t in (("input", input), ("other", other)))
    rank = max(x.ndim, y.ndim)
    shape_x = (1,) * (rank - x.ndim) + x._type.shape
    shape_y = (1,) * (rank - y.ndim) + y._type.shape
    coarse = tuple(d for size in shape_x for d in (size, 1))
    fine = tuple(d for size in shape_y for d in (1, size))
    product = arithmetic.mul(ops.reshape(x, shape=coarse), ops.reshape(y, shape=fine))
    shape = tuple(a * b for a, b in zip(shape_x, shape_y, strict=True))
    return ops.reshape(product, shape=shape)


@autocasts(cuda=WIDEST)
@public
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector product over a dimension of size 3 (the first such one unless given)."""
    require_tensors("cross", input=input, other=other)
    x, y = as_tensors("cross", input, other)
    require(x.ndim == y.ndim, "cross(): inputs must have the same number of dimensions")
    if dim is None:
        threes = [
            i for i, d in enumerate(x._type.shape) if not isinstance(d, SymbolicDim) and d == 3
        ]
        require(bool(threes), f"cross(): no dimension of size 3 in {format_shape(x._type.shape)}")
        dim = threes[0]
    axis = dimension("cross", dim, x.ndim)
    for operand in (x, y):
        require(
            equal(operand._type.shape[axis], 3),
            f"cross(): dimension {dim} of {format_shape(operand._type.shape)} must have length 3",
        )
    if x._type.dtype is bool_:
        raise OperationTypeError(f"cross(): not defined for bool (at {user_location()})")
    return _crossed(x, y, axis)


@fused()
def _crossed(x: Tensor, y: Tensor, axis: int) -> Tensor:
    a, b = ([window(t, axis, i, 1) for i in range(3)] for t in (x, y))
    components = [
        ops.sub(ops.mul(a[i - 2], b[i - 1]), ops.mul(a[i - 1], b[i - 2])) for i in range(3)
    ]
    return ops.concatenate(*components, axis=axis)


@autocasts(cpu=FLOAT32)
@public
@fused()
def trace(input: Tensor) -> Tensor:
    """The sum of the diagonal of a matrix; int64 for integers."""
    require_tensor("trace", "input", input)
    _check_rank("trace", "input", input, 2)
    if input._type.dtype is bool_:
        raise OperationTypeError(f"trace(): not defined for bool (at {user_location()})")
    diagonal = ops.diagonal(input, offset=0, axis1=0, axis2=1)
    if not input._type.dtype.is_floating_point:
        diagonal = ops.cast(diagonal, int64)
    return ops.sum(diagonal, axes=(0,))


_MANY_ROWS = 26  # from here on PyTorch takes the matrix product for Euclidean distances


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@public
@fused()
def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    """The p-norm distance of each row of x1 from each row of x2; its gradient at 0 is 0."""
    _check_pair("cdist", x1, x2)
    if not x1._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"cdist(): expected floating-point values, got {x1._type.dtype.name} "
            f"(at {user_location()})"
        )
    require(x1.ndim >= 2 and x2.ndim >= 2, "cdist(): both tensors need at least 2 dimensions")
    _check_inner("cdist", x1, x2, x1._type.shape[-1], x2._type.shape[-1])
    require(p >= 0, "cdist(): only non-negative p values are supported")
    dtype = x1._type.dtype
    x, y = widened(x1), widened(x2)
    rows, columns, width = x._type.shape[-2], y._type.shape[-2], x._type.shape[-1]
    if p == 2 and compute_mode != "donot_use_mm_for_euclid_dist":
        always = compute_mode == "use_mm_for_euclid_dist"
        if always or any(counts_as_large(n, _MANY_ROWS) for n in (rows, columns)):
            return narrowed(_euclidean_by_product(x, y), dtype)
    x = ops.reshape(x, shape=(*x._type.shape[:-1], 1, width))
    y = ops.reshape(y, shape=(*y._type.shape[:-2], 1, columns, width))
    difference = ops.sub(x, y)
    last = difference.ndim - 1
    if math.isinf(p) and is_found_empty(width):
        return narrowed(ops.sum(difference, axes=(last,)), dtype)
    return narrowed(norm_over(difference, p, (last,), False), dtype)


def _euclidean_by_product(x: Tensor, y: Tensor) -> Tensor:
    """sqrt(x·x - 2 x·y + y·y)."""
    squares_x = _summed(ops.mul(x, x), x.ndim - 1)
    squares_y = transposed(_summed(ops.mul(y, y), y.ndim - 1))
    products = ops.mul(matmul(x, transposed(y)), -2.0)
    squares = ops.add(ops.add(squares_x, products), squares_y)
    return safe_root(ops.where(ops.lt(squares, 0.0), 0.0, squares))


ger = outer

__all__ = [
    "bmm", "cdist", "cross", "dot", "ger", "inner", "kron", "matmul", "mm", "mv", "outer",
    "tensordot", "trace", "vdot",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    name: globals()[name] for name in __all__ if name not in ("cdist", "tensordot")
}
