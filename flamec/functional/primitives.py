"""Primitives for composites that know their dtypes: no promotion, numbers allowed.

``ops.mul(x, 0.5)`` applies the op ``mul`` to ``x`` and to a scalar of ``x``'s
dtype. Operands that are tensors must have one dtype already (``promotion.py``).
The 16-bit floats are computed in float32 where a composite asks for it with
``widened`` and rounded once by ``narrowed``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flamec.dispatch import TensorBuilder, apply
from flamec.errors import OperationError, user_location
from flamec.functional.promotion import constant
from flamec.ir.op import Op
from flamec.ir.shape import Dim, SymbolicDim, less, product
from flamec.ir.shape_oracle import oracle_in_force
from flamec.ir.types import DType, bool_
from flamec.tensor import Tensor

Several = Callable[..., tuple[Tensor, ...]]


class PrimitiveOperations(TensorBuilder):
    """A builder over Tensors whose operands may be Python numbers and symbolic sizes.

    An operation that is not among these attributes gives one tensor.
    """

    attention: Several
    attention_backward: Several
    cond: Several
    cummax: Several
    cummin: Several
    eigh: Several
    lu: Several
    qr: Several
    scan: Several
    slogdet: Several
    sort: Several
    svd: Several
    topk: Several
    while_loop: Several
    while_transpose: Several

    def apply(self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        for operand in inputs:
            if not isinstance(operand, Tensor):
                return apply(op, _tensors(op, inputs), attributes)
        return apply(op, inputs, attributes)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Tensor]: ...


def _tensors(op: Op, inputs: Sequence[Any]) -> list[Tensor]:
    """Numbers as scalars of the dtype of the tensors; a condition's dtype does not count."""
    like: Tensor | None = None
    for position, operand in enumerate(inputs):
        if isinstance(operand, Tensor):
            is_condition = position == 0 and len(inputs) == 3 and operand._type.dtype is bool_
            if not is_condition:
                like = operand
                break
    if like is None:
        raise TypeError(f"{op.name}: at least one operand must be a tensor that gives the dtype")
    dtype, device = like._type.dtype, like._type.device
    return [x if isinstance(x, Tensor) else constant(x, dtype, device) for x in inputs]


ops = PrimitiveOperations()


def widened(x: Tensor) -> Tensor:
    """``x`` in the dtype in which it is computed: float32 for 16-bit floats."""
    return x if not x._type.dtype.is_half else ops.convert(x, dtype=x._type.dtype.compute)


def narrowed(x: Tensor, dtype: DType) -> Tensor:
    """``x`` rounded to ``dtype``, or itself if it has that dtype."""
    return x if x._type.dtype is dtype else ops.convert(x, dtype=dtype)


def normalized_axis(name: str, axis: int, rank: int) -> int:
    """A dimension number from 0 to rank - 1; IndexError outside [-rank, rank - 1]."""
    limit = max(rank, 1)
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"{name}(): dim must be an int, not {type(axis).__name__}")
    if not -limit <= axis < limit:
        raise IndexError(
            f"{name}: dimension out of range (expected to be in [{-limit}, {limit - 1}], "
            f"got {axis}) (at {user_location()})"
        )
    return axis % limit


def kept(x: Tensor, shape: Sequence[Dim], axes: Sequence[int]) -> Tensor:
    """The reduction ``x`` of an array of ``shape`` with the folded axes put back as size 1."""
    return ops.reshape(x, shape=tuple(1 if i in axes else d for i, d in enumerate(shape)))


def reduce_kept(name: str, x: Tensor, axes: Sequence[int]) -> Tensor:
    """The reduction op ``name`` over ``axes``, which stay as dimensions of size 1."""
    axes = tuple(sorted(axes))
    return kept(getattr(ops, name)(x, axes=axes), x._type.shape, axes)


def sum_all(x: Tensor) -> Tensor:
    """The sum over all dimensions, of shape ()."""
    return ops.sum(x, axes=tuple(range(len(x._type.shape)))) if x._type.shape else x


def mean_over(x: Tensor, axes: Sequence[int], keepdim: bool = True) -> Tensor:
    """The mean over ``axes`` of a floating-point tensor; NaN where there is nothing."""
    axes = tuple(sorted(axes))
    total = reduce_kept("sum", x, axes) if keepdim else ops.sum(x, axes=axes)
    return ops.div(total, product([x._type.shape[a] for a in axes]))


def mean_all(x: Tensor) -> Tensor:
    """The mean of all elements, of shape ()."""
    return mean_over(x, tuple(range(len(x._type.shape))), keepdim=False) if x._type.shape else x


def transposed(x: Tensor) -> Tensor:
    """The last two dimensions exchanged."""
    rank = len(x._type.shape)
    return ops.permute(x, axes=(*range(rank - 2), rank - 1, rank - 2))


def is_empty_size(size: Dim) -> bool:
    """Whether a size is known to be 0; a symbolic size is not asked about."""
    return not isinstance(size, SymbolicDim) and size == 0


def is_found_empty(size: Dim) -> bool:
    """The same where it decides between a result and an error: a symbolic size is asked about."""
    return size == 0


def counts_as_large(size: Dim, least: int) -> bool:
    """Whether a size is at least ``least``, where that decides how something is computed.

    A symbolic size is asked about, so that small ones have a program of their own, unless there
    will be no other program: then it counts as large.
    """
    oracle = oracle_in_force.get()
    if isinstance(size, SymbolicDim) and (oracle is None or oracle.one_program):
        return True
    return not less(size, least)


def require_floating(name: str, *tensors: Tensor) -> None:
    """TypeError-like error unless every tensor is floating point."""
    for x in tensors:
        if not x._type.dtype.is_floating_point:
            raise OperationError(
                f"{name}: expected floating-point values, got {x._type.dtype.name} "
                f"(at {user_location()})"
            )


def require(condition: bool, message: str) -> None:
    """OperationError with ``message`` and the user's line unless ``condition`` holds."""
    if not condition:
        raise OperationError(f"{message} (at {user_location()})")
