"""Arithmetic on two operands: tensors and numbers, promoted and broadcast.

In: tensors or Python numbers (at least one tensor for most functions). Out: a
tensor of the broadcast shape and of the dtype of ``promotion.result_dtype``. Where
a 16-bit tensor meets a number, the number is not rounded to 16 bits first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import apply, apply_named, write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.primitives import narrowed, ops
from flamec.functional.promotion import (
    Number,
    as_tensors,
    check_operands,
    constant,
    convert_operands,
    device_of,
    float_dtype,
    is_number,
    plain_number,
    require_a_tensor,
    require_tensor,
    result_dtype,
)
from flamec.fusing import fused, program_call
from flamec.ir.op import Op, lookup
from flamec.ir.types import DType, float64
from flamec.tensor import Tensor

Operand = Tensor | Number

_NO_ATTRIBUTES: dict[str, Any] = {}
_ADD, _SUB, _MUL, _DIV, _POW = map(lookup, ("add", "sub", "mul", "div", "pow"))
_FMOD, _REMAINDER = lookup("fmod"), lookup("remainder")
_FLOOR_DIVIDE = lookup("floor_divide")


def combine(op: Op, name: str, x: Any, y: Any) -> Tensor:
    """``op`` on two operands in their common dtype."""
    if isinstance(x, Tensor):
        type = x._type
        if isinstance(y, Tensor):
            if type.dtype is y._type.dtype:
                return apply(op, (x, y), _NO_ATTRIBUTES)
        elif (y.__class__ is float or y.__class__ is int) and type.dtype.kind == "float":
            computed = type.dtype.compute
            number = constant(y, computed, type.device)
            if computed is type.dtype:
                return apply(op, (x, number), _NO_ATTRIBUTES)
            return _converted(x, number, op.name, computed, type.dtype)
    check_operands(name, (x, y))
    return combine_as(op, x, y, result_dtype(x, y))


def promoted(op: Op, name: str, x: Any, y: Any) -> Tensor:
    """``op`` on two operands rounded to their common dtype, for ops that do not compute."""
    if isinstance(x, Tensor):
        type = x._type
        if isinstance(y, Tensor):
            if type.dtype is y._type.dtype:
                return apply(op, (x, y), _NO_ATTRIBUTES)
        elif (y.__class__ is float or y.__class__ is int) and type.dtype.kind == "float":
            return apply(op, (x, constant(y, type.dtype, type.device)), _NO_ATTRIBUTES)
    return apply(op, as_tensors(name, x, y), _NO_ATTRIBUTES)


def combine_as(op: Op, x: Any, y: Any, dtype: DType) -> Tensor:
    """``op`` on two operands in a given dtype; a scalar is not rounded to 16 bits."""
    computed = dtype.compute if _is_scalar(x) or _is_scalar(y) else dtype
    if computed is dtype and not (_is_of_other(x, dtype) or _is_of_other(y, dtype)):
        return apply(op, convert_operands((x, y), dtype), _NO_ATTRIBUTES)
    left, right = as_operands((x, y), computed)
    return _converted(left, right, op.name, computed, dtype)


def _is_of_other(operand: Any, dtype: DType) -> bool:
    return isinstance(operand, Tensor) and operand._type.dtype is not dtype


def as_operands(operands: Sequence[Any], dtype: DType) -> list[Tensor]:
    """Tensors as they are, and numbers in a dtype."""
    device = device_of(operands)
    return [x if isinstance(x, Tensor) else constant(x, dtype, device) for x in operands]


@fused()
def _converted(x: Tensor, y: Tensor, name: str, computed: DType, dtype: DType) -> Tensor:
    """An operation computed in one dtype and rounded to another."""
    return narrowed(apply_named(name, *convert_operands((x, y), computed)), dtype)


def converted_call(name: str, target: Tensor, other: Tensor, dtype: DType) -> Any:
    """What computes ``target op other`` in the dtype of ``target``, by way of another, on a GPU;
    None if no program does."""
    return program_call(_converted, (target, other, name, dtype, target._type.dtype))


def _is_scalar(operand: Any) -> bool:
    return not isinstance(operand, Tensor) or not operand._type.shape


def apply_alike(op: Op, x: Tensor, y: Any) -> Any:
    """``op`` where it takes no promotion: on two floating-point tensors of one dtype, and on one
    that has not 16 bits and a Python number; None for others."""
    type = x._type
    dtype = type.dtype
    if dtype.kind == "float":
        if isinstance(y, Tensor):
            if y._type.dtype is dtype:
                return apply(op, (x, y), _NO_ATTRIBUTES)
        elif (y.__class__ is float or y.__class__ is int) and dtype.itemsize != 2:
            return apply(op, (x, constant(y, dtype, type.device)), _NO_ATTRIBUTES)
    return None


@public
def add(input: Operand, other: Operand, *, alpha: Operand = 1) -> Tensor:
    """``input + alpha * other``; logical or for bool."""
    if _is_not_one(alpha):
        return _with_alpha("add", _ADD, input, other, alpha)
    return combine(_ADD, "add", input, other)


@public
def sub(input: Operand, other: Operand, *, alpha: Operand = 1) -> Tensor:
    """``input - alpha * other``. RuntimeError for bool."""
    for operand in (input, other):
        if _is_bool(operand):
            raise OperationTypeError(
                "sub(): the `-` operator with a bool tensor is not supported; use `^` or "
                f"logical_xor() (at {user_location()})"
            )
    if _is_not_one(alpha):
        return _with_alpha("sub", _SUB, input, other, alpha)
    return combine(_SUB, "sub", input, other)


@public
def rsub(input: Operand, other: Operand, *, alpha: Operand = 1) -> Tensor:
    """``other - alpha * input``."""
    return sub(other, input, alpha=alpha)


@public
def mul(input: Operand, other: Operand) -> Tensor:
    """``input * other``; logical and for bool."""
    return combine(_MUL, "mul", input, other)


def _is_bool(operand: Any) -> bool:
    if isinstance(operand, Tensor):
        return operand._type.dtype.kind == "bool"
    return isinstance(operand, bool)


def _is_not_one(alpha: Any) -> bool:
    return isinstance(alpha, (Tensor, bool)) or bool(alpha != 1)


def check_factor(name: str, argument: str, factor: Any, dtype: DType) -> None:
    """A factor such as ``alpha`` may not be of a higher kind than what it scales."""
    check_operands(name, (factor,))
    if isinstance(factor, Tensor):
        kind = factor._type.dtype.kind
    else:
        factor = plain_number(factor)
        kind = "bool" if isinstance(factor, bool) else "float" if isinstance(factor, float) else ""
    if kind == "float" and not dtype.is_floating_point:
        raise OperationError(
            f"{name}(): for integral input tensors, argument {argument} must not be a floating "
            f"point number (at {user_location()})"
        )
    if kind == "bool" and dtype.kind != "bool":
        raise OperationError(
            f"{name}(): a bool {argument} needs a bool result, not {dtype.name} "
            f"(at {user_location()})"
        )


def _with_alpha(name: str, op: Op, x: Any, y: Any, alpha: Any) -> Tensor:
    check_operands(name, (x, y))
    dtype = result_dtype(x, y)
    check_factor(name, "alpha", alpha, dtype)
    left, right, factor = as_operands((x, y, alpha), dtype.compute)
    return _with_factor(left, right, factor, op.name, dtype)


@fused()
def _with_factor(left: Tensor, right: Tensor, factor: Tensor, name: str, dtype: DType) -> Tensor:
    """The factor is an operand, so that one program serves all values of it."""
    left, right, factor = convert_operands((left, right, factor), dtype.compute)
    return narrowed(apply_named(name, left, ops.mul(right, factor)), dtype)


def with_factor_call(name: str, target: Tensor, other: Tensor, factor: Tensor, dtype: DType) -> Any:
    """What computes ``target + factor * other`` (or ``-``) on a GPU; None if no program does."""
    return program_call(_with_factor, (target, other, factor, name, dtype))


# division -----------------------------------------------------------------------------


@public
def true_divide(input: Operand, other: Operand) -> Tensor:
    """``input / other`` in floating point; integers become the default dtype."""
    if isinstance(input, Tensor) and isinstance(other, Tensor):
        dtype = input._type.dtype
        if dtype is other._type.dtype and dtype.is_floating_point:
            return apply(_DIV, (input, other), _NO_ATTRIBUTES)
    check_operands("div", (input, other))
    return combine_as(_DIV, input, other, float_dtype(result_dtype(input, other)))


# a number divided by a tensor: PyTorch's Tensor.__rtruediv__ is made of reciprocal
reflected_divide = autocasts(cuda=FLOAT32)(true_divide)


@public
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """``input / other``; rounded towards zero ("trunc") or down ("floor") if asked.

    Without rounding integers become the default dtype.
    """
    if rounding_mode is None:
        return true_divide(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode != "trunc":
        raise OperationError(
            "div(): rounding_mode must be None, 'trunc' or 'floor', not "
            f"{rounding_mode!r} (at {user_location()})"
        )
    check_operands("div", (input, other))
    dtype = result_dtype(input, other)
    x, y = convert_operands((input, other), dtype.compute)
    if dtype.is_floating_point:
        return narrowed(ops.trunc(ops.div(x, y)), dtype)
    return ops.floor_divide(ops.sub(x, ops.fmod(x, y)), y)


@public
def floor_divide(input: Operand, other: Operand) -> Tensor:
    """``floor(input / other)``; the gradient is zero."""
    return combine(_FLOOR_DIVIDE, "floor_divide", input, other)


@public
def remainder(input: Operand, other: Operand) -> Tensor:
    """What is left of ``input`` after division, with the sign of ``other``."""
    require_a_tensor("remainder", input, other)
    return combine(_REMAINDER, "remainder", input, other)


@public
def fmod(input: Tensor, other: Operand) -> Tensor:
    """What is left of ``input`` after division, with the sign of ``input``."""
    require_tensor("fmod", "input", input)
    return combine(_FMOD, "fmod", input, other)


# powers -------------------------------------------------------------------------------


def _reciprocal_square(x: Tensor) -> Tensor:
    """(1 / x)², whose derivatives at 0 and at infinities are those of the power."""
    inverse = ops.div(1.0, x)
    return ops.mul(inverse, inverse)


_EASY_POWERS: dict[float, Callable[[Tensor], Tensor]] = {
    1: lambda x: ops.convert(x, dtype=x._type.dtype),
    2: lambda x: ops.mul(x, x),
    3: lambda x: ops.mul(ops.mul(x, x), x),
    0.5: lambda x: ops.sqrt(x),
    -0.5: lambda x: ops.rsqrt(x),
    -1: lambda x: ops.div(1.0, x),
    -2: _reciprocal_square,
}


@autocasts(cuda=FLOAT32)
@public
def pow(input: Operand, exponent: Operand) -> Tensor:
    """``input ** exponent``. RuntimeError for integers to a negative number."""
    if is_number(exponent) and isinstance(input, Tensor):
        power = plain_number(exponent)
        dtype = result_dtype(input, power)
        if not dtype.is_floating_point and isinstance(power, int) and power < 0:
            raise OperationError(
                f"pow(): integers to negative integer powers are not allowed (at {user_location()})"
            )
        if isinstance(power, (int, float)) and power in _EASY_POWERS:
            (x,) = convert_operands((input,), dtype.compute)
            return narrowed(_EASY_POWERS[power](x), dtype)
    require_a_tensor("pow", input, exponent)
    return combine(_POW, "pow", input, exponent)


@public
@fused()
def float_power(input: Operand, exponent: Operand) -> Tensor:
    """``input ** exponent`` computed in float64."""
    check_operands("float_power", (input, exponent))
    require_a_tensor("float_power", input, exponent)
    base = input if is_number(input) else ops.cast(input, float64)
    return combine_as(_POW, base, exponent, float64)


subtract, multiply, divide = sub, mul, div

__all__ = [
    "add", "div", "divide", "float_power", "floor_divide", "fmod", "mul", "multiply", "pow",
    "remainder", "rsub", "sub", "subtract", "true_divide",
]  # fmt: skip


def _float_power_(self: Tensor, exponent: Operand) -> Tensor:
    """``float_power`` in place. RuntimeError unless the tensor is float64."""
    if self._type.dtype is not float64:
        raise OperationError(
            f"float_power_(): the result is float64, the tensor is {self._type.dtype.name} "
            f"(at {user_location()})"
        )
    return write(self, float_power(self, exponent), "float_power_")


TENSOR_METHODS: dict[str, Callable[..., Tensor]] = {
    name: globals()[name] for name in __all__ if name != "rsub"
} | {"float_power_": _float_power_}
IN_PLACE: tuple[str, ...] = tuple(n for n in __all__ if n not in ("rsub", "float_power"))
