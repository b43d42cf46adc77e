"""Matrix products that are added to something: ``addmm`` and its like.

In: tensors of one dtype (``addr`` promotes). Out: ``beta * input + alpha * product``, where
16-bit floats are rounded once, at the end; errors name both shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import LOWER, autocasts
from flamec.functional.elementwise import require_tensors
from flamec.functional.matrix import bmm, contracted, mm, mv, outer
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.promotion import Number, as_tensors, constant
from flamec.fusing import fused
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.shape import equal, format_shape
from flamec.tensor import Tensor

__all__ = ["addbmm", "addmm", "addmv", "addr", "baddbmm"]


def _added(
    name: str,
    input: Any,
    product: Callable[[Any, Any], Tensor],
    x: Any,
    y: Any,
    beta: Any,
    alpha: Any,
) -> Tensor:
    """``beta * input + alpha * product(x, y)``; ``input`` does not count if beta is 0."""
    require_tensors(name, input=input, mat1=x, mat2=y)
    for operand in (x, y):
        if operand._type.dtype is not input._type.dtype:
            raise OperationTypeError(
                f"{name}(): expected operands of one dtype, got {input._type.dtype.name} and "
                f"{operand._type.dtype.name} (at {user_location()})"
            )
    dtype = input._type.dtype
    result = product(widened(x), widened(y))
    shape = result._type.shape
    if isinstance(alpha, Tensor) or alpha != 1:
        result = ops.mul(result, _factor(alpha, result))
    try:
        broadcast = broadcast_shapes(input._type.shape, shape)
    except ValueError:
        broadcast = ()
    if len(broadcast) != len(shape) or not all(map(equal, broadcast, shape)):
        raise OperationError(
            f"{name}(): input of shape {format_shape(input._type.shape)} cannot be added to a "
            f"product of shape {format_shape(shape)} (at {user_location()})"
        )
    if not isinstance(beta, Tensor) and beta == 0:
        return narrowed(result, dtype)
    term = widened(input)
    if isinstance(beta, Tensor) or beta != 1:
        term = ops.mul(term, _factor(beta, term))
    return narrowed(ops.add(term, result), dtype)


def _factor(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return ops.cast(value, like._type.dtype)
    return constant(value, like._type.dtype)


@autocasts(cpu=LOWER, cuda=LOWER)
@public
@fused()
def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``."""
    return _added("addmm", input, mm, mat1, mat2, beta, alpha)


@autocasts(cuda=LOWER)
@public
@fused()
def addmv(
    input: Tensor, mat: Tensor, vec: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """``beta * input + alpha * (mat @ vec)``."""
    return _added("addmv", input, mv, mat, vec, beta, alpha)


@autocasts(cuda=LOWER)
@public
@fused()
def addr(
    input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``."""
    require_tensors("addr", input=input, vec1=vec1, vec2=vec2)
    operands = as_tensors("addr", input, vec1, vec2)
    return _added("addr", operands[0], outer, operands[1], operands[2], beta, alpha)


@autocasts(cpu=LOWER, cuda=LOWER)
@public
@fused()
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """``beta * input + alpha * bmm(batch1, batch2)``."""
    return _added("baddbmm", input, bmm, batch1, batch2, beta, alpha)


@autocasts(cpu=LOWER, cuda=LOWER)
@public
@fused()
def addbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1
) -> Tensor:
    """``beta * input + alpha * bmm(batch1, batch2).sum(0)``."""
    return _added("addbmm", input, _summed_products, batch1, batch2, beta, alpha)


def _summed_products(batch1: Tensor, batch2: Tensor) -> Tensor:
    bmm(batch1, batch2)  # for what it refuses: the product is not used, so it is not computed
    return contracted(batch1, batch2, ((0, 2), (0, 1)))


TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
IN_PLACE: tuple[str, ...] = tuple(__all__)
