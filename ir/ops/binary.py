"""Elementwise ops of two operands, broadcast against each other: declarations only.

A derivative has a part for each operand (``dx``, ``dy``): a function of builder,
gradient and both operands, of the shape of the result; the broadcast is undone
here. An operand that is not in ``saves`` is given as None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flamec.ir.builder import Builder
from flamec.ir.op import Derivative, DerivativeContext, Op, OpKind, register
from flamec.ir.ops.elementwise import (
    ANY,
    FLOAT,
    INTEGER,
    INTEGER_OR_BOOL,
    NUMERIC,
    elementwise_rule,
    lanes,
)
from flamec.ir.types import DType, TensorType, float32, float64, highest, lowest

Text = str | Mapping[str, str]
Rule = Callable[[Builder, Any, Any, Any], Any]  # (builder, gradient, x, y) -> gradient
Evaluate = Callable[[np.ndarray, np.ndarray], np.ndarray]
Saves = tuple[int, ...] | Mapping[int, tuple[int, ...]]


def binary(
    name: str,
    evaluate: Evaluate,
    *,
    accepts: frozenset[str] = NUMERIC,
    dx: Rule | None = None,
    dy: Rule | None = None,
    saves: Saves = (),
    c: Text | None = None,
    **facts: Any,
) -> Op:
    """Declare an elementwise op of two operands; its C text is ``v<name>_<lane>`` unless given."""
    return register(
        Op(
            name=name,
            kind=OpKind.ELEMENTWISE,
            infer=facts.pop("infer", None) or elementwise_rule(name, 2, accepts),
            evaluate=lambda attributes, x, y: evaluate(x, y),
            derivative=broadcast_derivative(dx, dy) if dx or dy else None,
            saves_inputs=saves,
            c=c or f"v{name}_{{t}}({{0}}, {{1}})",
            **facts,
        )
    )


def broadcast_derivative(*parts: Rule | None) -> Derivative:
    """A rule from one part for each operand, each summed to the operand's own shape."""

    def derivative(b: Builder, ctx: DerivativeContext, g: Any) -> list[Any]:
        return [
            b.sum_to(part(b, g, *ctx.inputs), type.shape) if part and needed else None
            for part, type, needed in zip(parts, ctx.input_types, ctx.needs, strict=True)
        ]

    return derivative


# arithmetic --------------------------------------------------------------------------

binary(
    "add",
    np.add,
    accepts=ANY,
    dx=lambda b, g, x, y: g,
    dy=lambda b, g, x, y: g,
    c=lanes(floats="({0} + {1})", integers="({0} + {1})", b="({0} | {1})"),
    triton=lanes(floats="({0} + {1})", integers="({0} + {1})", b="({0} | {1})"),
    commutative=True,
    associative=True,
    identity=lambda dtype: -0.0 if dtype.is_floating_point else 0,  # 0.0 would change -0.0
    doc="x + y; logical or for bool.",
)
binary(
    "sub",
    np.subtract,
    dx=lambda b, g, x, y: g,
    dy=lambda b, g, x, y: b.neg(g),
    c="({0} - {1})",
    triton="({0} - {1})",
    identity=lambda dtype: 0,
)
binary(
    "mul",
    np.multiply,
    accepts=ANY,
    dx=lambda b, g, x, y: b.mul(g, y),
    dy=lambda b, g, x, y: b.mul(g, x),
    saves={0: (1,), 1: (0,)},
    c=lanes(floats="({0} * {1})", integers="({0} * {1})", b="({0} & {1})"),
    triton=lanes(floats="({0} * {1})", integers="({0} * {1})", b="({0} & {1})"),
    commutative=True,
    associative=True,
    identity=lambda dtype: 1,
    doc="x * y; logical and for bool.",
)
binary(
    "div",
    np.true_divide,
    accepts=FLOAT,
    dx=lambda b, g, x, y: b.div(g, y),
    dy=lambda b, g, x, y: b.neg(b.mul(g, b.div(b.div(x, y), y))),
    saves={0: (1,), 1: (0, 1)},
    c="({0} / {1})",
    triton="flamec_divide({0}, {1})",
    triton_approximate={"f32": "flamec_fast_divide({0}, {1})"},
    identity=lambda dtype: 1,
    doc="x / y of floating-point numbers.",
)

# powers --------------------------------------------------------------------------------


def _float_power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x ** y by the function for powers, whatever the operands' shapes and strides.

    NumPy takes squares, roots and reciprocals instead where an exponent is repeated along an
    axis, so that equal numbers would have other powers there than in a dense array.
    """
    shape = np.broadcast_shapes(x.shape, y.shape)
    last = 2 if not shape or shape[-1] == 1 else shape[-1]  # one element counts as repeated, too
    least = (*shape[:-1], last)
    powers = np.power(*(np.ascontiguousarray(np.broadcast_to(v, least)) for v in (x, y)))
    return powers[..., : shape[-1]] if shape else powers[0]


def _power(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x ** y; for integers with a negative exponent 1/x ** -y truncated, and 0 for x = 0."""
    if x.dtype.kind == "f":
        return _float_power(x, y)
    powers = np.power(x, np.maximum(y, 0))
    if x.dtype.kind == "u":
        return powers
    parity = np.where(y % 2 == 0, x * x, x)
    inverse = np.where(np.abs(x) == 1, parity, 0)
    return np.where(y < 0, inverse, powers).astype(x.dtype)


def _power_dx(b: Builder, g: Any, x: Any, y: Any) -> Any:
    """g y x^(y-1), and 0 where y is 0 and 1 / x is infinite or NaN."""
    like = b.type_of(y)
    zero, one = b.constant(0.0, like), b.constant(1.0, like)
    least = b.constant(2 * float(np.finfo(like.dtype.compute.numpy).tiny), like)
    unusable = b.bitwise_not(b.ge(b.abs(x), least))
    exponent = b.where(b.bitwise_and(b.eq(y, zero), unusable), one, y)
    return b.mul(g, b.mul(y, b.pow(x, b.sub(exponent, one))))


def _power_dy(b: Builder, g: Any, x: Any, y: Any) -> Any:
    """g x^y log x, and 0 where x is 0 and y is not negative."""
    like = b.type_of(x)
    zero, one = b.constant(0.0, like), b.constant(1.0, like)
    vanishes = b.bitwise_and(b.eq(x, zero), b.ge(y, zero))
    logarithm = b.log(b.where(vanishes, one, x))
    return b.mul(g, b.mul(b.pow(x, y), logarithm))


binary(
    "pow",
    _power,
    dx=_power_dx,
    dy=_power_dy,
    saves=(0, 1),
    triton=lanes(floats="libdevice.pow({0}, {1})", integers="flamec_int_pow({0}, {1})"),
    identity=lambda dtype: 1,
    expensive=True,
    inexact=True,
    doc="x ** y; an integer to a negative power is 0 unless x is 1 or -1.",
)

# division with remainder -----------------------------------------------------------------


def _checked(name: str, evaluate: Evaluate) -> Evaluate:
    """ZeroDivisionError for an integer division by zero, as in PyTorch."""

    def checked(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if y.dtype.kind != "f" and x.size and not np.all(y):
            raise ZeroDivisionError(f"{name}: integer division by zero")
        return evaluate(x, y)

    return checked


binary(
    "fmod",
    _checked("fmod", np.fmod),
    dx=lambda b, g, x, y: g,
    dy=lambda b, g, x, y: b.neg(b.mul(g, b.detach(b.trunc(b.div(x, y))))),
    saves={0: (), 1: (0, 1)},
    triton=lanes(floats="libdevice.fmod({0}, {1})", integers="({0} % {1})"),
    expensive=True,
    jumps=True,
    doc="The remainder of division, with the sign of the dividend.",
)
binary(
    "remainder",
    _checked("remainder", np.remainder),
    dx=lambda b, g, x, y: g,
    dy=lambda b, g, x, y: b.neg(b.mul(g, b.floor_divide(x, y))),
    saves={0: (), 1: (0, 1)},
    triton=lanes(floats="flamec_remainder({0}, {1})", integers="flamec_int_remainder({0}, {1})"),
    expensive=True,
    jumps=True,
    doc="The remainder of division, with the sign of the divisor.",
)
binary(
    "floor_divide",
    _checked("floor_divide", np.floor_divide),
    dx=lambda b, g, x, y: b.full_like(0.0, b.type_of(g)),
    dy=lambda b, g, x, y: b.full_like(0.0, b.type_of(g)),
    triton=lanes(
        floats="flamec_floor_divide({0}, {1})", integers="flamec_int_floor_divide({0}, {1})"
    ),
    expensive=True,
    jumps=True,
    doc="The largest integer that is not above x / y; the gradient is zero.",
)

# extremes ------------------------------------------------------------------------------


def _shared(loses: str) -> Rule:
    """The gradient goes to the winner, half to each at a tie (PyTorch's convention)."""

    def part(b: Builder, g: Any, mine: Any, other: Any) -> Any:
        like = b.type_of(g)
        half = b.mul(g, b.constant(0.5, like))
        kept = b.where(getattr(b, loses)(mine, other), b.constant(0.0, like), g)
        return b.where(b.eq(mine, other), half, kept)

    return part


def _extreme(name: str, evaluate: Evaluate, loses: str, combine: str, unit: Callable) -> Op:
    mine = _shared(loses)
    triton = f"tl.{name}({{0}}, {{1}}, propagate_nan=tl.PropagateNan.ALL)"
    return binary(
        name,
        evaluate,
        accepts=ANY,
        dx=mine,
        dy=lambda b, g, x, y: mine(b, g, y, x),
        saves=(0, 1),
        triton=lanes(floats=triton, integers=f"tl.{name}({{0}}, {{1}})", b=combine),
        commutative=True,
        associative=True,
        identity=unit,
        doc="NaN if either operand is NaN.",
    )


_extreme("maximum", np.maximum, "lt", "({0} | {1})", lowest)
_extreme("minimum", np.minimum, "gt", "({0} & {1})", highest)

# signs, angles, neighbours ---------------------------------------------------------------


def _inverse_square_radius(b: Builder, g: Any, y: Any, x: Any) -> Any:
    """g / (y² + x²), at the origin some number: the angle has derivative 0 there."""
    square = b.add(b.mul(y, y), b.mul(x, x))
    one = b.constant(1.0, b.type_of(square))
    return b.div(g, b.where(b.eq(square, b.constant(0.0, b.type_of(square))), one, square))


def _signs_agree(b: Builder, g: Any, x: Any, y: Any) -> Any:
    """g times the sign of x times the sign bit of y: zero at x = 0."""
    return b.mul(g, b.mul(b.sign(x), b.copysign(b.constant(1.0, b.type_of(y)), y)))


def _none_of(b: Builder, g: Any, *operands: Any) -> Any:
    """Zeros of the shape of g."""
    return b.full_like(0, b.type_of(g))


def _nextafter_type(types: tuple[TensorType, ...], attributes: Mapping[str, Any]) -> TensorType:
    """Not for 16-bit floats: the neighbour of one in float32 would round back to it."""
    result = elementwise_rule("nextafter", 2, FLOAT)(types, attributes)
    if result.dtype not in (float32, float64):
        raise TypeError(f"nextafter takes float32 or float64 operands, not {result.dtype.name}")
    return result


binary(
    "atan2",
    np.arctan2,
    accepts=FLOAT,
    dx=lambda b, g, y, x: b.mul(x, _inverse_square_radius(b, g, y, x)),
    dy=lambda b, g, y, x: b.neg(b.mul(y, _inverse_square_radius(b, g, y, x))),
    saves=(0, 1),
    triton="libdevice.atan2({0}, {1})",
    expensive=True,
    inexact=True,
    doc="The angle of the point with ordinate {0} and abscissa {1}.",
)
binary(
    "copysign",
    np.copysign,
    accepts=FLOAT,
    dx=_signs_agree,
    dy=_none_of,
    saves=(0, 1),
    triton="libdevice.copysign({0}, {1})",
    doc="The magnitude of x with the sign bit of y.",
)
binary(
    "nextafter",
    np.nextafter,
    infer=_nextafter_type,
    dx=lambda b, g, x, y: b.where(b.eq(x, y), _none_of(b, g), g),
    dy=_none_of,
    saves=(0, 1),
    triton={
        "f32": "flamec_nextafter({0}, {1}, tl.int32)",
        "f64": "flamec_nextafter({0}, {1}, tl.int64)",
    },
    doc="The next representable number after x towards y.",
)

# integers and bits -----------------------------------------------------------------------


def _shift(direction: str, evaluate: Evaluate) -> Op:
    return binary(
        f"shift_{direction}",
        evaluate,
        accepts=INTEGER,
        triton={
            **lanes(integers=f"flamec_shift_{direction}({{0}}, {{1}})"),
            "u8": f"flamec_shift_{direction}_unsigned({{0}}, {{1}})",
        },
        identity=lambda dtype: 0,
        doc="Shifts by the width of the type or more leave no bit but copies of the sign.",
    )


_shift("left", np.left_shift)
_shift("right", np.right_shift)
binary(
    "gcd",
    np.gcd,
    accepts=INTEGER,
    triton={**lanes(integers="flamec_gcd({0}, {1})"), "u8": "flamec_gcd_unsigned({0}, {1})"},
    commutative=True,
    associative=True,
    expensive=True,
    doc="The greatest common divisor, not negative.",
)


def _bitwise(name: str, evaluate: Evaluate, operator: str, unit: Callable) -> Op:
    return binary(
        f"bitwise_{name}",
        evaluate,
        accepts=INTEGER_OR_BOOL,
        c=f"({{0}} {operator} {{1}})",
        triton=f"({{0}} {operator} {{1}})",
        commutative=True,
        associative=True,
        identity=unit,
        doc=f"Bitwise {name}; logical {name} for bool.",
    )


def _all_ones(dtype: DType) -> Any:
    return -1 if dtype.kind == "int" else highest(dtype)


_bitwise("and", np.bitwise_and, "&", _all_ones)
_bitwise("or", np.bitwise_or, "|", lambda dtype: 0)
_bitwise("xor", np.bitwise_xor, "^", lambda dtype: 0)
