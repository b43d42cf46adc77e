"""Elementwise functions of one tensor.

In: a tensor of any shape. Out: a tensor of the same shape. Functions with a
fractional range convert integers and bools to the default dtype; the others
keep the dtype. Names, arguments and result dtypes are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec.dispatch import apply, tensor_builder
from flamec.errors import OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.promotion import constant, float_dtype, require_tensor
from flamec.fusing import fused
from flamec.ir.op import lookup
from flamec.ir.types import int64, uint8
from flamec.tensor import Tensor

_NO_ATTRIBUTES: dict[str, Any] = {}

Unary = Callable[..., Tensor]


def as_floating(name: str, input: Any) -> Tensor:
    """``input``, which must be a tensor, with integers converted to the default dtype."""
    dtype = require_tensor(name, "input", input)._type.dtype
    if dtype.is_floating_point:
        return input
    return ops.convert(input, dtype=float_dtype(dtype))


def copied(input: Tensor) -> Tensor:
    """The same values in memory of their own."""
    return ops.convert(input, dtype=input._type.dtype)


def _declare(name: str, doc: str, prepare: Callable[[str, Any], Tensor], primitive: str) -> Unary:
    op = lookup(primitive)

    def function(input: Tensor, *, out: Tensor | None = None) -> Tensor:
        if out is not None:
            return with_out(input, out=out)
        if not isinstance(input, Tensor) or input._type.dtype.kind != "float":
            input = prepare(name, input)
        result: Tensor = apply(op, (input,), _NO_ATTRIBUTES)
        return result

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    with_out = public(function)
    made: Any = function
    made.primitive = op  # which is all that it does to floating-point numbers
    return function


def _floating(name: str, doc: str, primitive: str | None = None) -> Unary:
    """A function with a fractional range."""
    return _declare(name, doc, as_floating, primitive or name)


def _keeping(name: str, doc: str) -> Unary:
    """A function that keeps the dtype; bool is refused."""

    def prepare(name: str, input: Any) -> Tensor:
        require_tensor(name, "input", input)
        if input._type.dtype.kind == "bool":
            raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")
        return input

    return _declare(name, doc, prepare, name)


_autocast_to_float32 = autocasts(cuda=FLOAT32)

exp = _autocast_to_float32(_floating("exp", "e to the power of each element."))
exp2 = _floating("exp2", "2 to the power of each element.")
expm1 = _autocast_to_float32(_floating("expm1", "exp(x) - 1, accurate near 0."))
log = _autocast_to_float32(_floating("log", "The natural logarithm."))
log2 = _autocast_to_float32(_floating("log2", "The logarithm to base 2."))
log10 = _autocast_to_float32(_floating("log10", "The logarithm to base 10."))
log1p = _autocast_to_float32(_floating("log1p", "log(1 + x), accurate near 0."))
sqrt = _floating("sqrt", "The square root; NaN below 0.")
rsqrt = _autocast_to_float32(_floating("rsqrt", "1 / sqrt(x)."))
sin = _floating("sin", "The sine of an angle in radians.")
cos = _floating("cos", "The cosine of an angle in radians.")
tan = _autocast_to_float32(_floating("tan", "The tangent of an angle in radians."))
asin = _autocast_to_float32(_floating("asin", "The inverse sine."))
acos = _autocast_to_float32(_floating("acos", "The inverse cosine."))
atan = _floating("atan", "The inverse tangent.")
sinh = _autocast_to_float32(_floating("sinh", "The hyperbolic sine."))
cosh = _autocast_to_float32(_floating("cosh", "The hyperbolic cosine."))
tanh = _floating("tanh", "The hyperbolic tangent.")
asinh = _floating("asinh", "The inverse hyperbolic sine.")
acosh = _floating("acosh", "The inverse hyperbolic cosine.")
atanh = _floating("atanh", "The inverse hyperbolic tangent.")
erf = _floating("erf", "The error function.")
erfc = _floating("erfc", "1 - erf(x), accurate for large x.")
erfinv = _autocast_to_float32(_floating("erfinv", "The inverse of the error function."))
lgamma = _floating("lgamma", "The logarithm of the absolute value of the gamma function.")
digamma = _floating("digamma", "The derivative of lgamma.")
sigmoid = _floating("sigmoid", "1 / (1 + exp(-x)).")

abs = _keeping("abs", "The absolute value; its derivative at 0 is 0.")
floor = _keeping("floor", "The largest integer that is not above x.")
ceil = _keeping("ceil", "The smallest integer that is not below x.")
trunc = _keeping("trunc", "x with its fraction cut off.")
fix = trunc


def neg(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The negative. RuntimeError for bool."""
    if out is not None:
        return _neg_with_out(input, out=out)
    require_tensor("neg", "input", input)
    if input._type.dtype.kind == "bool":
        raise OperationTypeError(
            "neg(): the `-` operator on a bool tensor is not supported; use `~` or logical_not() "
            f"(at {user_location()})"
        )
    result: Tensor = tensor_builder.neg(input)
    return result


_neg_with_out = public(neg)
_NEG: Any = neg
_NEG.primitive = lookup("neg")


@public
@fused()
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1; 0 for NaN; bool unchanged."""
    require_tensor("sign", "input", input)
    if input._type.dtype.kind == "bool":
        return copied(input)
    result = ops.sign(input)
    if input._type.dtype.is_floating_point:
        result = ops.where(ops.ne(input, input), 0.0, result)
    return result


@public
def sgn(input: Tensor) -> Tensor:
    """As ``sign``, for real numbers."""
    return sign(input)


@public
def signbit(input: Tensor) -> Tensor:
    """Whether the sign bit is set, also of -0.0."""
    require_tensor("signbit", "input", input)
    if input._type.dtype.kind == "bool":
        input = ops.convert(input, dtype=uint8)
    return ops.signbit(input)


@public
def positive(input: Tensor) -> Tensor:
    """The tensor itself. RuntimeError for bool."""
    require_tensor("positive", "input", input)
    if input._type.dtype.kind == "bool":
        raise OperationTypeError(f"positive(): not defined for bool (at {user_location()})")
    return input


@autocasts(cuda=FLOAT32)
@public
@fused()
def square(input: Tensor) -> Tensor:
    """x * x; int64 for bool."""
    require_tensor("square", "input", input)
    if input._type.dtype.kind == "bool":
        input = ops.convert(input, dtype=int64)
    return ops.mul(input, input)


@autocasts(cuda=FLOAT32)
@public
def reciprocal(input: Tensor) -> Tensor:
    """1 / x."""
    return ops.div(1.0, as_floating("reciprocal", input))


@public
@fused()
def frac(input: Tensor) -> Tensor:
    """x - trunc(x), for floating-point tensors."""
    require_tensor("frac", "input", input)
    if not input._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"frac(): not defined for {input._type.dtype.name} (at {user_location()})"
        )
    return ops.sub(input, ops.trunc(input))


@public
@fused()
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest number with so many decimals, halves to even; the gradient is zero."""
    require_tensor("round", "input", input)
    if not decimals:
        if input._type.dtype.kind == "bool":
            raise OperationTypeError(f"round(): not defined for bool (at {user_location()})")
        return ops.round(input)
    if not input._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"round(): decimals are for floating-point tensors, not {input._type.dtype.name} "
            f"(at {user_location()})"
        )
    x, scale = widened(input), 10.0 ** (decimals if decimals > 0 else -decimals)
    if decimals > 0:
        return narrowed(ops.div(ops.round(ops.mul(x, scale)), scale), input._type.dtype)
    return narrowed(ops.mul(ops.round(ops.div(x, scale)), scale), input._type.dtype)


@public
def deg2rad(input: Tensor) -> Tensor:
    """Degrees to radians."""
    return _scaled(as_floating("deg2rad", input), math.pi / 180)


@public
def rad2deg(input: Tensor) -> Tensor:
    """Radians to degrees."""
    return _scaled(as_floating("rad2deg", input), 180 / math.pi)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return narrowed(ops.mul(widened(x), factor), x._type.dtype)


@public
@fused()
def sinc(input: Tensor) -> Tensor:
    """sin(pi x) / (pi x), and 1 at 0."""
    x = as_floating("sinc", input)
    angle = ops.mul(widened(x), math.pi)
    near = ops.lt(ops.abs(angle), 0.25)
    # by its series there, since the quotient's derivatives are differences of large numbers
    small = ops.where(near, angle, 0.0)
    square = ops.mul(small, small)
    series = 1.0
    for n in (12, 10, 8, 6, 4, 2):
        series = ops.sub(1.0, ops.mul(ops.mul(square, 1 / (n * (n + 1))), series))
    safe = ops.where(near, 1.0, angle)
    return narrowed(ops.where(near, series, ops.div(ops.sin(safe), safe)), x._type.dtype)


@public
@fused()
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(x / (1 - x)); x is first limited to [eps, 1 - eps] if eps is given."""
    x = as_floating("logit", input)
    z = widened(x)
    if eps is not None:
        z = ops.where(ops.ge(z, eps), z, ops.maximum(ops.detach(z), eps))
        z = ops.where(ops.le(z, 1.0 - eps), z, ops.minimum(ops.detach(z), 1.0 - eps))
    else:  # NaN outside, as one of the logarithms is, so that both derivatives are NaN there, too
        outside = ops.bitwise_or(ops.lt(z, 0.0), ops.gt(z, 1.0))
        nothing = constant(0.0, z._type.dtype, z._type.device)
        z = ops.add(z, ops.where(outside, math.nan, nothing))
    # a quotient's logarithm has no derivative where the quotient is 0 or infinite
    return narrowed(ops.sub(ops.log(z), ops.log1p(ops.neg(z))), x._type.dtype)


@public
@fused()
def nan_to_num(
    input: Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
) -> Tensor:
    """NaN and infinities replaced: by 0 and by the largest and smallest finite number."""
    require_tensor("nan_to_num", "input", input)
    dtype = input._type.dtype
    if not dtype.is_floating_point:
        return copied(input)
    largest = largest_finite(dtype.name)
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    x = ops.where(ops.ne(input, input), 0.0 if nan is None else nan, input)
    x = ops.where(ops.eq(x, math.inf), high, x)
    return ops.where(ops.eq(x, -math.inf), low, x)


_LARGEST = {
    "float16": 65504.0,
    "bfloat16": (2 - 2.0**-7) * 2.0**127,
    "float32": (2 - 2.0**-23) * 2.0**127,
    "float64": (2 - 2.0**-52) * 2.0**1023,
}


def largest_finite(dtype_name: str) -> float:
    """The largest finite number of a floating-point dtype."""
    return _LARGEST[dtype_name]


absolute, negative = abs, neg
arccos, arccosh, arcsin, arcsinh, arctan, arctanh = acos, acosh, asin, asinh, atan, atanh

__all__ = [
    "abs", "absolute", "acos", "acosh", "arccos", "arccosh", "arcsin", "arcsinh", "arctan",
    "arctanh", "asin", "asinh", "atan", "atanh", "ceil", "cos", "cosh", "deg2rad", "digamma", "erf",
    "erfc", "erfinv", "exp", "exp2", "expm1", "fix", "floor", "frac", "lgamma", "log", "log1p",
    "log2", "log10", "logit", "nan_to_num", "neg", "negative", "positive", "rad2deg", "reciprocal",
    "round", "rsqrt", "sgn", "sigmoid", "sign", "signbit", "sin", "sinc", "sinh", "sqrt", "square",
    "tan", "tanh", "trunc",
]  # fmt: skip

TENSOR_METHODS: dict[str, Unary] = {name: globals()[name] for name in __all__}
IN_PLACE: tuple[str, ...] = tuple(n for n in __all__ if n not in ("signbit", "positive"))
