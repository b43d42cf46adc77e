"""Activation functions: elementwise nonlinearities, composites of primitives.

In: floating-point tensors of any shape. Out: the same shape and dtype; 16-bit
floats are computed in float32 and rounded once. Branches are chosen with
``where`` so that a branch not taken can neither overflow nor make its gradient
NaN; at kinks the gradients are PyTorch's. ``softmax`` and its kin are in
``softmax.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flamec.dispatch import write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import FLOAT32, LOWER, autocasts
from flamec.functional.dropout import uniform_like
from flamec.functional.primitives import narrowed, normalized_axis, ops, require, widened
from flamec.functional.promotion import require_tensor
from flamec.functional.unary import as_floating
from flamec.fusing import fused
from flamec.ir.shape import SymbolicDim, equal, format_shape
from flamec.tensor import Tensor

__all__ = [
    "celu", "celu_", "elu", "elu_", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish",
    "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "logsigmoid", "mish", "prelu", "relu",
    "relu6", "relu_", "rrelu", "rrelu_", "selu", "selu_", "silu", "softplus", "softshrink",
    "softsign", "tanhshrink", "threshold", "threshold_",
]  # fmt: skip

SELU_ALPHA = 1.6732632423543772848170429916717  # Klambauer et al. 2017, section 2
SELU_SCALE = 1.0507009873554804934193349852946


def _applied(
    name: str,
    input: Tensor,
    inplace: bool,
    formula: Callable[[Tensor], Tensor],
    integers: bool = False,
) -> Tensor:
    """``formula`` in the compute dtype; stored in ``input`` itself if ``inplace``."""
    require_tensor(name, "input", input)
    dtype = input._type.dtype
    if not dtype.is_floating_point and (not integers or dtype.kind == "bool"):
        raise OperationTypeError(
            f"{name}: not defined for {dtype.name}, expected floating-point values "
            f"(at {user_location()})"
        )
    if not inplace:
        return narrowed(formula(widened(input)), dtype)
    source = ops.sub(input, 0)  # a copy: what the derivative needs must not be overwritten
    return write(input, narrowed(formula(widened(source)), dtype), f"{name}_")


def _integers_as_floats(name: str, input: Tensor) -> Tensor:
    require_tensor(name, "input", input)
    return input if input._type.dtype.kind == "bool" else as_floating(name, input)


# piecewise linear ----------------------------------------------------------------------


@fused()
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); NaN stays NaN, the gradient at 0 is 0. Integers are allowed."""
    return _applied("relu", input, inplace, lambda x: ops.where(ops.le(x, 0), 0, x), integers=True)


def relu_(input: Tensor) -> Tensor:
    """``relu`` in place."""
    return relu(input, True)


@fused()
def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x limited to [min_val, max_val]; the gradient is 0 at and beyond the limits."""
    require(min_val <= max_val, f"hardtanh: min_val {min_val} is above max_val {max_val}")
    return _applied(
        "hardtanh", input, inplace, lambda x: _limited(x, min_val, max_val), integers=True
    )


def _limited(x: Tensor, low: float, high: float) -> Tensor:
    limited: Tensor = ops.where(ops.le(x, low), low, ops.where(ops.ge(x, high), high, x))
    return limited


def hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """``hardtanh`` in place."""
    return hardtanh(input, min_val, max_val, True)


@fused()
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return _applied("relu6", input, inplace, lambda x: _limited(x, 0, 6), integers=True)


@fused()
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope * x."""
    return _applied(
        "leaky_relu",
        input,
        inplace,
        lambda x: ops.where(ops.gt(x, 0.0), x, ops.mul(x, negative_slope)),
    )


def leaky_relu_(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """``leaky_relu`` in place."""
    return leaky_relu(input, negative_slope, True)


@autocasts(cpu=LOWER, cuda=LOWER)
@fused()
def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """x where positive, else weight * x; one weight, or one for each channel (dimension 1)."""
    require_tensor("prelu", "weight", weight)
    shape, weights = input._type.shape, weight._type.shape
    rank = len(shape)
    require(
        len(weights) < 2,
        f"prelu: expected `weight` to be a scalar or 1D tensor, but got {format_shape(weights)}",
    )
    channels = shape[1] if rank > 1 else 1
    require(
        not weights or weights[0] == 1 or equal(weights[0], channels),
        f"prelu: mismatch of parameter numbers and input channel size: {format_shape(weights)} "
        f"parameters, and {channels} channels (dimension 1) in {format_shape(shape)}",
    )
    slope = weight
    if rank > 1 and len(weight._type.shape) == 1:
        slope = ops.reshape(weight, shape=(1, weight._type.shape[0], *(1,) * (rank - 2)))
    elif rank == 0 and len(weight._type.shape) == 1:
        slope = ops.reshape(weight, shape=())

    def formula(x: Tensor) -> Tensor:
        positive = ops.gt(x, 0.0)
        below = ops.where(positive, 0.0, x)  # of an infinity that is not chosen
        chosen: Tensor = ops.where(positive, x, ops.mul(below, widened(slope)))
        return chosen

    return _applied("prelu", input, False, formula)


@fused()
def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Leaky relu with a slope drawn from [lower, upper] while training, else their mean."""
    require(lower <= upper, f"rrelu: lower {lower} is above upper {upper}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)

    def formula(x: Tensor) -> Tensor:
        slope = ops.add(ops.mul(uniform_like(x), upper - lower), lower)
        chosen: Tensor = ops.where(ops.ge(x, 0.0), x, ops.mul(x, slope))
        return chosen

    return _applied("rrelu", input, inplace, formula)


def rrelu_(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False
) -> Tensor:
    """``rrelu`` in place."""
    return rrelu(input, lower, upper, training, True)


@public
@fused()
def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where above ``threshold``, else ``value``."""
    return _applied(
        "threshold",
        input,
        inplace,
        lambda x: ops.where(ops.le(x, threshold), value, x),
        integers=True,
    )


def threshold_(input: Tensor, threshold: float, value: float) -> Tensor:
    """``threshold`` in place."""
    return _applied(
        "threshold", input, True, lambda x: ops.where(ops.le(x, threshold), value, x), True
    )


@public
@fused()
def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """0 where |x| <= lambd, else x."""

    def formula(x: Tensor) -> Tensor:
        inside = ops.bitwise_and(ops.ge(x, -lambd), ops.le(x, lambd))
        shrunk: Tensor = ops.where(inside, 0.0, x)
        return shrunk

    return _applied("hardshrink", input, False, formula)


@public
@fused()
def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by lambd, 0 where |x| <= lambd."""
    require(lambd >= 0, f"softshrink: lambd must not be negative, got {lambd}")

    def formula(x: Tensor) -> Tensor:
        inside = ops.bitwise_and(ops.ge(x, -lambd), ops.le(x, lambd))
        moved = ops.where(ops.gt(x, lambd), ops.sub(x, lambd), ops.add(x, lambd))
        shrunk: Tensor = ops.where(inside, 0.0, moved)
        return shrunk

    return _applied("softshrink", input, False, formula)


@fused()
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    return _applied("hardsigmoid", input, inplace, _hardsigmoid)


def _hardsigmoid(x: Tensor) -> Tensor:
    ramp: Tensor = ops.div(_limited(ops.add(x, 3.0), 0.0, 6.0), 6.0)
    return ramp


@fused()
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * hardsigmoid(x)."""
    return _applied("hardswish", input, inplace, _hardswish)


def _hardswish(x: Tensor) -> Tensor:
    """By cases, so that no derivative has a product of 0 and an infinity."""
    left, right = ops.le(x, -3.0), ops.ge(x, 3.0)
    between = ops.where(ops.bitwise_or(left, right), 0.0, x)
    curve = ops.div(ops.mul(between, ops.add(between, 3.0)), 6.0)
    flat = ops.mul(ops.detach(x), 0.0)  # NaN for an infinity, as the product
    chosen: Tensor = ops.where(right, x, ops.where(left, flat, curve))
    return chosen


# exponential ---------------------------------------------------------------------------


def _elu(x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    positive = ops.gt(x, 0.0)
    below = ops.where(positive, 0.0, x)
    if input_scale != 1.0:
        below = ops.mul(below, input_scale)
    curve = ops.mul(ops.expm1(below), alpha * scale)
    chosen: Tensor = ops.where(positive, x if scale == 1.0 else ops.mul(x, scale), curve)
    return chosen


@fused()
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1)."""
    return _applied("elu", input, inplace, lambda x: _elu(x, alpha, 1.0, 1.0))


def elu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``elu`` in place."""
    return elu(input, alpha, True)


@fused()
def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x / alpha) - 1)."""
    require(alpha != 0, "celu: alpha cannot be 0")
    return _applied("celu", input, inplace, lambda x: _elu(x, alpha, 1.0, 1.0 / alpha))


def celu_(input: Tensor, alpha: float = 1.0) -> Tensor:
    """``celu`` in place."""
    return celu(input, alpha, True)


@fused()
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """The self-normalising elu of Klambauer et al. 2017."""
    return _applied("selu", input, inplace, lambda x: _elu(x, SELU_ALPHA, SELU_SCALE, 1.0))


def selu_(input: Tensor) -> Tensor:
    """``selu`` in place."""
    return selu(input, True)


@public
@fused()
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x times the normal distribution's cumulative function at x; "tanh" approximates it.

    Hendrycks and Gimpel 2016, section 2.
    """
    if approximate == "none":
        return _applied("gelu", input, False, _gelu)
    if approximate == "tanh":
        return _applied("gelu", input, False, _gelu_tanh)
    raise OperationError(
        f"gelu: approximate must be 'none' or 'tanh', not {approximate!r} (at {user_location()})"
    )


def _gelu(x: Tensor) -> Tensor:
    share = ops.mul(ops.add(ops.erf(ops.mul(x, math.sqrt(0.5))), 1.0), 0.5)
    result: Tensor = ops.mul(x, share)
    return result


def _gelu_tanh(x: Tensor) -> Tensor:
    """(1 + tanh(u)) / 2 is sigmoid(2 u), which cancels nothing where it is small."""
    twice = 2.0 * math.sqrt(2.0 / math.pi)
    slope = ops.add(ops.mul(ops.mul(x, x), 0.044715 * twice), twice)
    result: Tensor = ops.mul(x, ops.sigmoid(ops.mul(x, slope)))
    return result


@fused()
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x)."""
    return _applied("silu", input, inplace, lambda x: ops.mul(x, ops.sigmoid(x)))


def log_one_plus_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)) without overflow."""
    positive = ops.gt(x, 0.0)
    exponent = ops.where(positive, ops.neg(x), x)
    result: Tensor = ops.add(ops.where(positive, x, 0.0), ops.log1p(ops.exp(exponent)))
    return result


def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)) without overflow."""
    result: Tensor = ops.neg(log_one_plus_exp(ops.neg(x)))
    return result


@public
@fused()
def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)), also where sigmoid(x) is too small for the dtype."""
    return _applied("logsigmoid", input, False, log_sigmoid)


@autocasts(cuda=FLOAT32)
@public
@fused()
def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta x)) / beta; x itself where beta x is above ``threshold``."""

    def formula(x: Tensor) -> Tensor:
        if beta == 1.0:
            return ops.where(ops.gt(x, threshold), x, log_one_plus_exp(x))
        scaled = ops.mul(x, beta)
        curve = ops.div(log_one_plus_exp(scaled), beta)
        return ops.where(ops.gt(scaled, threshold), x, curve)

    return _applied("softplus", input, False, formula)


@fused()
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x))."""
    return _applied("mish", input, inplace, lambda x: ops.mul(x, ops.tanh(log_one_plus_exp(x))))


@fused()
def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|); of integers in the default dtype."""
    x = _integers_as_floats("softsign", input)
    return _applied("softsign", x, False, lambda x: ops.div(x, ops.add(ops.abs(x), 1.0)))


@fused()
def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x); of integers in the default dtype."""
    x = _integers_as_floats("tanhshrink", input)
    return _applied("tanhshrink", x, False, lambda x: ops.sub(x, ops.tanh(x)))


@fused()
def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), where a and b are the halves of ``input`` along ``dim``."""
    require_tensor("glu", "input", input)
    shape = input._type.shape
    require(len(shape) > 0, "glu: does not support 0-dimensional tensors")
    axis = normalized_axis("glu", dim, len(shape))
    size = shape[axis]
    if not isinstance(size, SymbolicDim) or size % 2 != 0:
        require(
            size % 2 == 0,
            f"glu: halving dimension must be even, but dimension {axis} is size {size}",
        )
    half = size // 2

    def part(x: Tensor, start: object) -> Tensor:
        starts = tuple(start if i == axis else 0 for i in range(len(shape)))
        sizes = tuple(half if i == axis else d for i, d in enumerate(shape))
        window: Tensor = ops.slice(x, starts=starts, sizes=sizes, steps=(1,) * len(shape))
        return window

    return _applied("glu", input, False, lambda x: ops.mul(part(x, 0), ops.sigmoid(part(x, half))))


TENSOR_METHODS = {"relu": relu, "relu_": relu_, "prelu": prelu, "hardshrink": hardshrink}
