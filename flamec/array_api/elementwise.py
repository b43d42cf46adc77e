"""The standard's elementwise functions."""

from __future__ import annotations

from typing import Any

from flamec import values
from flamec.array_api.operands import binary, pair, unary
from flamec.errors import OperationTypeError, user_location
from flamec.functional import arithmetic, comparison, elementwise
from flamec.functional import unary as ours
from flamec.tensor import Tensor

abs = unary(ours.abs)
acos = unary(ours.acos)
acosh = unary(ours.acosh)
asin = unary(ours.asin)
asinh = unary(ours.asinh)
atan = unary(ours.atan)
atanh = unary(ours.atanh)
bitwise_invert = unary(comparison.bitwise_not)
conj = unary(values.conj)
cos = unary(ours.cos)
cosh = unary(ours.cosh)
exp = unary(ours.exp)
expm1 = unary(ours.expm1)
isfinite = unary(comparison.isfinite)
isinf = unary(comparison.isinf)
isnan = unary(comparison.isnan)
log = unary(ours.log)
log1p = unary(ours.log1p)
log2 = unary(ours.log2)
log10 = unary(ours.log10)
logical_not = unary(comparison.logical_not)
negative = unary(ours.neg)
positive = unary(ours.positive)
real = unary(values.real)
reciprocal = unary(ours.reciprocal)
signbit = unary(ours.signbit)
sin = unary(ours.sin)
sinh = unary(ours.sinh)
sqrt = unary(ours.sqrt)
square = unary(ours.square)
tan = unary(ours.tan)
tanh = unary(ours.tanh)

add = binary("add", arithmetic.add)
atan2 = binary("atan2", elementwise.atan2)
bitwise_and = binary("bitwise_and", comparison.bitwise_and)
bitwise_left_shift = binary("bitwise_left_shift", comparison.bitwise_left_shift)
bitwise_or = binary("bitwise_or", comparison.bitwise_or)
bitwise_right_shift = binary("bitwise_right_shift", comparison.bitwise_right_shift)
bitwise_xor = binary("bitwise_xor", comparison.bitwise_xor)
copysign = binary("copysign", elementwise.copysign)
divide = binary("divide", arithmetic.div)
equal = binary("equal", comparison.eq)
floor_divide = binary("floor_divide", arithmetic.floor_divide)
greater = binary("greater", comparison.gt)
greater_equal = binary("greater_equal", comparison.ge)
hypot = binary("hypot", elementwise.hypot)
less = binary("less", comparison.lt)
less_equal = binary("less_equal", comparison.le)
logaddexp = binary("logaddexp", elementwise.logaddexp)
logical_and = binary("logical_and", comparison.logical_and)
logical_or = binary("logical_or", comparison.logical_or)
logical_xor = binary("logical_xor", comparison.logical_xor)
maximum = binary("maximum", elementwise.maximum)
minimum = binary("minimum", elementwise.minimum)
multiply = binary("multiply", arithmetic.mul)
nextafter = binary("nextafter", elementwise.nextafter)
not_equal = binary("not_equal", comparison.ne)
pow = binary("pow", arithmetic.pow)
remainder = binary("remainder", arithmetic.remainder)
subtract = binary("subtract", arithmetic.sub)


def _rounding(name: str, function: Any) -> Any:
    """A function that leaves integers as they are."""

    def of_array(x: Tensor, /) -> Tensor:
        if x.dtype.kind == "bool":
            raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")
        return function(x) if x.dtype.is_floating_point else x.clone()

    of_array.__name__ = of_array.__qualname__ = name
    of_array.__doc__ = function.__doc__
    return of_array


ceil = _rounding("ceil", ours.ceil)
floor = _rounding("floor", ours.floor)
round = _rounding("round", ours.round)
trunc = _rounding("trunc", ours.trunc)


def sign(x: Tensor, /) -> Tensor:
    """-1, 0 or 1; NaN where ``x`` is NaN."""
    found = ours.sign(x)
    return where(comparison.isnan(x), x, found) if x.dtype.is_floating_point else found


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Tensor:
    """``x`` limited to [min, max], in the dtype of ``x``; NaN stays."""
    result = x
    for bound, function in ((min, elementwise.maximum), (max, elementwise.minimum)):
        if bound is not None:
            limit = bound.to(x.dtype) if isinstance(bound, Tensor) else bound
            result = function(*pair("clip", result, limit))
    return result.clone() if result is x else result


def where(condition: Tensor, x1: Any, x2: Any, /) -> Tensor:
    """Elements of ``x1`` where the condition holds, else of ``x2``."""
    result: Any = elementwise.where(condition, *pair("where", x1, x2))
    return result
