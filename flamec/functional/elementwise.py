"""Elementwise functions of several tensors: bounds, choices, mixtures, special functions.

In: tensors, and numbers where PyTorch takes them. Out: a tensor of the broadcast
shape. At kinks the gradients are PyTorch's: the whole gradient to the operand that
was chosen, except for ``maximum`` and ``minimum``, which halve it at ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, overload

from flamec.dtype_limits import finfo
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.arithmetic import Operand, check_factor, combine_as, promoted
from flamec.functional.autocasting import WIDEST, autocasts
from flamec.functional.masking import nonzero
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.promotion import (
    as_tensors,
    check_operands,
    constant,
    convert_operands,
    float_dtype,
    is_number,
    plain_number,
    require_a_tensor,
    require_tensor,
    result_dtype,
)
from flamec.fusing import fused
from flamec.ir.op import lookup
from flamec.ir.types import bool_, uint8
from flamec.tensor import Tensor


def require_tensors(name: str, **operands: Any) -> None:
    """TypeError unless every named argument is a Tensor."""
    for argument, value in operands.items():
        require_tensor(name, argument, value)


def _binary(name: str, primitive: str, doc: str) -> Callable[..., Tensor]:
    """A function of two tensors that is one primitive in their common dtype."""
    op = lookup(primitive)

    @public
    def function(input: Tensor, other: Tensor) -> Tensor:
        require_tensors(name, input=input, other=other)
        return promoted(op, name, input, other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


maximum = _binary("maximum", "maximum", "The greater of two; NaN if either is NaN.")
minimum = _binary("minimum", "minimum", "The lesser of two; NaN if either is NaN.")
gcd = _binary("gcd", "gcd", "The greatest common divisor of integers, not negative.")
_next_of_wide = _binary("nextafter", "nextafter", "The next number of float32 or float64.")


@public
@fused()
def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next representable number after ``input`` towards ``other``.

    The gradient by ``input`` is 1, and 0 where the two are equal, as in PyTorch.
    """
    require_tensors("nextafter", input=input, other=other)
    dtype = result_dtype(input, other)
    if not dtype.is_half:
        return _next_of_wide(input, other)
    x, y = convert_operands((input, other), dtype.compute)
    limits = finfo(dtype)
    # from half a unit in the last place to one and a half, below a power of two to three quarters,
    # so that rounding gives the neighbour
    factor, least = 0.625 * limits.eps, 0.625 * limits.tiny * limits.eps
    step = ops.detach(ops.maximum(ops.mul(ops.abs(x), factor), least))
    moved = ops.add(x, ops.where(ops.gt(y, x), step, ops.neg(step)))
    from_infinity = ops.copysign(ops.mul(ops.sign(x), limits.max), x)
    moved = ops.where(ops.eq(ops.abs(x), math.inf), from_infinity, moved)
    moved = ops.where(ops.ne(y, y), y, moved)
    return narrowed(ops.where(ops.eq(x, y), ops.detach(y), moved), dtype)


@public
@fused()
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The greater of two; a NaN loses against a number."""
    return _ignoring_nan("fmax", "ge", maximum, input, other)


@public
@fused()
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The lesser of two; a NaN loses against a number."""
    return _ignoring_nan("fmin", "le", minimum, input, other)


def _ignoring_nan(name: str, wins: str, plain: Any, input: Any, other: Any) -> Tensor:
    require_tensors(name, input=input, other=other)
    x, y = as_tensors(name, input, other)
    if not x._type.dtype.is_floating_point:
        return plain(x, y)
    chosen = ops.bitwise_or(getattr(ops, wins)(x, y), ops.ne(y, y))
    return ops.where(chosen, x, y)


# bounds ----------------------------------------------------------------------------------


@public
@fused()
def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """``input`` limited to [min, max]; ``max`` where min is above max. NaN stays NaN."""
    require_tensor("clamp", "input", input)
    bounds = [b for b in (min, max) if b is not None]
    if not bounds:
        raise OperationError(
            f"clamp(): at least one of min and max must be given (at {user_location()})"
        )
    check_operands("clamp", bounds)
    dtype = result_dtype(input, *bounds)
    if dtype.kind == "bool" and (len(bounds) > 1 or is_number(bounds[0])):
        raise OperationTypeError(f"clamp(): not defined for bool (at {user_location()})")
    x = ops.cast(input, dtype)
    if isinstance(min, Tensor) and isinstance(max, Tensor) and dtype.is_floating_point:
        low, high = convert_operands((min, max), dtype)
        min = ops.where(ops.lt(low, high), low, ops.detach(low))  # PyTorch's rule where they meet
    if min is not None:
        x = _limited(x, min, "ge", "lt", "maximum")
    return x if max is None else _limited(x, max, "le", "gt", "minimum")


def _limited(x: Tensor, bound: Any, within: str, outside: str, nearer: str) -> Tensor:
    """``x`` within the bound, else the bound; NaN, without a gradient, where either is NaN."""
    (limit,) = convert_operands((bound,), x._type.dtype)
    inside = getattr(ops, within)(x, limit)
    if not x._type.dtype.is_floating_point:
        return ops.where(inside, x, limit)
    beyond = getattr(ops, nearer)(ops.detach(x), ops.detach(limit))
    if isinstance(bound, Tensor):
        beyond = ops.where(getattr(ops, outside)(x, limit), limit, beyond)
    return ops.where(inside, x, beyond)


@public
def clamp_min(input: Tensor, min: Operand) -> Tensor:
    """``input`` limited from below."""
    return clamp(input, min, None)


@public
def clamp_max(input: Tensor, max: Operand) -> Tensor:
    """``input`` limited from above."""
    return clamp(input, None, max)


# choices ---------------------------------------------------------------------------------


@overload
def where(condition: Tensor) -> tuple[Tensor, ...]: ...


@overload
def where(condition: Tensor, input: Operand, other: Operand) -> Tensor: ...


@public
def where(condition: Tensor, *branches: Operand, **named: Operand) -> Tensor | tuple[Tensor, ...]:
    """``where(condition, input, other)``: input where the condition holds, other elsewhere.

    With the condition alone: the indices of its nonzero elements, as
    ``nonzero(condition, as_tuple=True)``.
    """
    require_tensor("where", "condition", condition)
    if not branches and not named:
        return nonzero(condition, as_tuple=True)
    if len(branches) != 2 or named:
        chosen = dict(zip(("input", "other"), branches, strict=False)) | named
        if set(chosen) != {"input", "other"} or len(branches) + len(named) != 2:
            raise OperationTypeError(
                f"where() takes condition, input and other (at {user_location()})"
            )
        branches = chosen["input"], chosen["other"]
    if condition._type.dtype is uint8:
        condition = ops.ne(condition, 0)
    elif condition._type.dtype is not bool_:
        raise OperationTypeError(
            f"where(): the condition must be bool, not {condition._type.dtype.name} "
            f"(at {user_location()})"
        )
    if all(map(is_number, branches)):  # which are operands where the condition is
        dtype, device = result_dtype(*branches), condition._type.device
        return ops.where(condition, *[constant(b, dtype, device) for b in branches])
    x, y = as_tensors("where", *branches)
    return ops.where(condition, x, y)


def _where_method(self: Tensor, condition: Tensor, other: Operand) -> Tensor:
    """This tensor where the condition holds, ``other`` elsewhere."""
    result = where(condition, self, other)
    assert isinstance(result, Tensor)
    return result


@public
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above 0, ``values`` at 0."""
    require_tensors("heaviside", input=input, values=values)
    if input._type.dtype is not values._type.dtype:
        raise OperationTypeError(
            f"heaviside(): the dtypes differ: {input._type.dtype.name} and "
            f"{values._type.dtype.name} (at {user_location()})"
        )
    zero = constant(0, input._type.dtype, input._type.device)
    step = ops.cast(ops.gt(input, zero), input._type.dtype)
    return ops.where(ops.eq(input, zero), values, step)


# mixtures --------------------------------------------------------------------------------


@public
@fused()
def lerp(input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """``input + weight * (end - input)``, for floating-point tensors of one dtype."""
    require_tensors("lerp", input=input, end=end)
    check_operands("lerp", (weight,))
    dtype = input._type.dtype
    scalar = not isinstance(weight, Tensor) or not weight._type.shape
    for argument, value in (("end", end), *(() if scalar else (("weight", weight),))):
        if value._type.dtype is not dtype:
            raise OperationError(
                f"lerp(): expected dtype {dtype.name} for `{argument}` but got "
                f"{value._type.dtype.name} (at {user_location()})"
            )
    if not dtype.is_floating_point:
        raise OperationTypeError(f"lerp(): not defined for {dtype.name} (at {user_location()})")
    x, y, w = convert_operands((input, end, weight), dtype.compute)
    beyond = ops.sub(w, 1.0)
    if is_number(weight):  # the nearer end is what is added to, so that 0 and 1 give the ends
        base, share = (x, w) if math.fabs(float(plain_number(weight))) < 0.5 else (y, beyond)
    else:
        near = ops.lt(ops.abs(w), 0.5)
        base, share = ops.where(near, x, y), ops.where(near, w, beyond)
    return narrowed(ops.add(base, ops.mul(share, ops.sub(y, x))), dtype)


@autocasts(cuda=WIDEST)
@public
@fused()
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Operand = 1) -> Tensor:
    """``input + value * tensor1 * tensor2``."""
    require_tensors("addcmul", input=input, tensor1=tensor1, tensor2=tensor2)
    dtype = result_dtype(input, tensor1, tensor2)
    x, a, b, factor = convert_operands((input, tensor1, tensor2, value), dtype.compute)
    product = ops.mul(a if _is_one(value) else ops.mul(factor, a), b)
    return narrowed(ops.add(x, product), dtype)


@autocasts(cuda=WIDEST)
@public
@fused()
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Operand = 1) -> Tensor:
    """``input + value * tensor1 / tensor2``. RuntimeError if both divided are integers."""
    require_tensors("addcdiv", input=input, tensor1=tensor1, tensor2=tensor2)
    dtype = result_dtype(input, tensor1, tensor2)
    if not any(t._type.dtype.is_floating_point for t in (tensor1, tensor2)):
        raise OperationTypeError(
            "addcdiv(): integer division is not supported; convert a tensor to floating point "
            f"first (at {user_location()})"
        )
    check_factor("addcdiv", "value", value, dtype)
    x, a, b, factor = convert_operands((input, tensor1, tensor2, value), dtype.compute)
    quotient = ops.div(a if _is_one(value) else ops.mul(factor, a), b)
    return narrowed(ops.add(x, quotient), dtype)


def _is_one(value: Any) -> bool:
    return not isinstance(value, Tensor) and bool(value == 1)


# special functions of two operands -------------------------------------------------------


def _floating_pair(name: str, input: Any, other: Any) -> list[Tensor]:
    require_tensors(name, input=input, other=other)
    pair = as_tensors(name, input, other)
    if not pair[0]._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"{name}(): not defined for {pair[0]._type.dtype.name} (at {user_location()})"
        )
    return pair


@autocasts(cuda=WIDEST)
@public
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input); integers become the default dtype."""
    require_tensors("atan2", input=input, other=other)
    return combine_as(lookup("atan2"), input, other, float_dtype(result_dtype(input, other)))


@public
def copysign(input: Tensor, other: Operand) -> Tensor:
    """The magnitude of input with the sign of other; integers become the default dtype."""
    require_tensor("copysign", "input", input)
    check_operands("copysign", (other,))
    return combine_as(lookup("copysign"), input, other, float_dtype(result_dtype(input, other)))


@public
@fused()
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """sqrt(input² + other²), computed without overflow."""
    x, y = _floating_pair("hypot", input, other)
    dtype = x._type.dtype
    x, y = widened(x), widened(y)
    scale = ops.detach(ops.maximum(ops.abs(x), ops.abs(y)))
    usable = ops.bitwise_and(ops.gt(scale, 0.0), ops.lt(scale, math.inf))
    scale = ops.where(usable, scale, 1.0)
    a, b = ops.div(x, scale), ops.div(y, scale)
    result = ops.mul(ops.sqrt(ops.add(ops.mul(a, a), ops.mul(b, b))), scale)
    infinite = ops.bitwise_or(ops.eq(ops.abs(x), math.inf), ops.eq(ops.abs(y), math.inf))
    return narrowed(ops.where(infinite, math.inf, result), dtype)


@public
@fused()
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """``input * 2 ** other``; the power may overflow where the product does not."""
    require_tensors("ldexp", input=input, other=other)
    dtype = float_dtype(result_dtype(input, other))
    x, exponent = convert_operands((input, other), dtype.compute)
    half = ops.floor(ops.mul(exponent, 0.5))
    rest = ops.where(ops.lt(ops.abs(half), math.inf), ops.sub(exponent, half), half)
    return narrowed(ops.mul(ops.mul(x, ops.exp2(half)), ops.exp2(rest)), dtype)


@public
@fused()
def xlogy(input: Operand, other: Operand) -> Tensor:
    """``input * log(other)``; 0 where input is 0, unless other is NaN."""
    check_operands("xlogy", (input, other))
    require_a_tensor("xlogy", input, other)
    dtype = float_dtype(result_dtype(input, other))
    x, y = convert_operands((input, other), dtype.compute)
    unusable = ops.bitwise_or(ops.le(y, 0.0), ops.eq(y, math.inf))
    vanishes = ops.bitwise_and(ops.eq(x, 0.0), unusable)
    return narrowed(ops.mul(x, ops.log(ops.where(vanishes, 1.0, y))), dtype)


@public
@fused()
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """log(exp(input) + exp(other)) without overflow."""
    x, y = _floating_pair("logaddexp", input, other)
    return narrowed(log_sum(widened(x), widened(y)), x._type.dtype)


def log_sum(x: Tensor, y: Tensor) -> Tensor:
    """log(exp(x) + exp(y)) of two floating-point tensors of one dtype."""
    same = ops.eq(x, y)  # infinities of one sign have no difference
    distance = ops.sub(ops.where(same, 0.0, x), ops.where(same, 0.0, y))
    larger = ops.maximum(x, y)
    return ops.add(larger, ops.log1p(ops.exp(ops.neg(ops.abs(distance)))))


@public
@fused()
def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """log2(2 ** input + 2 ** other) without overflow."""
    x, y = _floating_pair("logaddexp2", input, other)
    dtype = x._type.dtype
    x, y = widened(x), widened(y)
    same = ops.eq(x, y)
    distance = ops.sub(ops.where(same, 0.0, x), ops.where(same, 0.0, y))
    rest = ops.log1p(ops.exp2(ops.neg(ops.abs(distance))))
    return narrowed(ops.add(ops.maximum(x, y), ops.mul(rest, 1.0 / math.log(2.0))), dtype)


@public
def lcm(input: Tensor, other: Tensor) -> Tensor:
    """The least common multiple of integers, not negative; 0 if either is 0."""
    require_tensors("lcm", input=input, other=other)
    x, y = as_tensors("lcm", input, other)
    divisor = ops.gcd(x, y)
    safe = ops.where(ops.eq(divisor, 0), 1, divisor)
    return ops.abs(ops.mul(ops.floor_divide(x, safe), y))


clip, arctan2 = clamp, atan2

__all__ = [
    "addcdiv", "addcmul", "arctan2", "atan2", "clamp", "clamp_max", "clamp_min", "clip", "copysign",
    "fmax", "fmin", "gcd", "heaviside", "hypot", "lcm", "ldexp", "lerp", "logaddexp", "logaddexp2",
    "maximum", "minimum", "nextafter", "where", "xlogy",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__} | {
    "where": _where_method
}
IN_PLACE: tuple[str, ...] = (
    "addcdiv", "addcmul", "arctan2", "atan2", "clamp", "clamp_max", "clamp_min", "clip", "copysign",
    "gcd", "heaviside", "hypot", "lcm", "ldexp", "lerp", "nextafter", "xlogy",
)  # fmt: skip
