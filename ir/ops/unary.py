"""Elementwise ops of one operand: declarations only.

Each has the operand's shape and dtype (``signbit``: bool). A derivative rule is
given the gradient and what its parameter's name says: nothing more
(``by_gradient``), the operand (``by_input``) or the result (``by_output``); exactly
that is saved for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flamec.ir.builder import Builder
from flamec.ir.op import Derivative, Op, OpKind, register
from flamec.ir.ops import special_functions
from flamec.ir.ops.elementwise import FLOAT, INTEGER_OR_BOOL, NUMERIC, elementwise_rule, lanes
from flamec.ir.types import DType, bool_

Text = str | Mapping[str, str]
Rule = Callable[[Builder, Any, Any], Any]  # (builder, gradient, saved value) -> gradient
LinearRule = Callable[[Builder, Any], Any]  # (builder, gradient) -> gradient


def unary(
    name: str,
    evaluate: Callable[[np.ndarray], np.ndarray],
    *,
    accepts: frozenset[str] = FLOAT,
    result: DType | None = None,
    by_gradient: LinearRule | None = None,
    by_input: Rule | None = None,
    by_output: Rule | None = None,
    c: Text | None = None,
    **facts: Any,
) -> Op:
    """Declare an elementwise op of one operand; its C text is ``v<name>_<lane>`` unless given."""
    return register(
        Op(
            name=name,
            kind=OpKind.ELEMENTWISE,
            infer=elementwise_rule(name, 1, accepts, result),
            evaluate=lambda attributes, x: evaluate(x),
            derivative=_derivative(by_gradient, by_input, by_output),
            saves_inputs=(0,) if by_input else (),
            saves_outputs=(0,) if by_output else (),
            c=c or f"v{name}_{{t}}({{0}})",
            **facts,
        )
    )


def _derivative(
    by_gradient: LinearRule | None, by_input: Rule | None, by_output: Rule | None
) -> Derivative | None:
    if by_gradient:
        return lambda b, ctx, g: (by_gradient(b, g),)
    if by_input:
        return lambda b, ctx, g: (by_input(b, g, ctx.inputs[0]),)
    if by_output:
        return lambda b, ctx, g: (by_output(b, g, ctx.outputs[0]),)
    return None


def _times(b: Builder, value: Any, factor: float) -> Any:
    return b.mul(value, b.constant(factor, b.type_of(value)))


def _plus(b: Builder, value: Any, term: float) -> Any:
    return b.add(value, b.constant(term, b.type_of(value)))


def _minus_from_one(b: Builder, value: Any) -> Any:
    return b.sub(b.constant(1.0, b.type_of(value)), value)


def _square(b: Builder, value: Any) -> Any:
    return b.mul(value, value)


def _zero(b: Builder, g: Any) -> Any:
    """The gradient of a function that is constant between its steps."""
    return b.full_like(0.0, b.type_of(g))


def _abs_derivative(b: Builder, g: Any, x: Any) -> Any:
    """g times the sign of x, which counts as 0 for NaN."""
    sign = b.where(b.eq(x, x), b.sign(x), b.constant(0.0, b.type_of(x)))
    return b.mul(g, sign)


# sign and rounding ------------------------------------------------------------------


unary(
    "neg",
    np.negative,
    accepts=NUMERIC,
    by_gradient=lambda b, g: b.neg(g),
    c="(-{0})",
    triton=lanes(floats="({0} * -1.0)", integers="(-{0})"),
    involution=True,
    doc="The negative; wraps around for integers.",
)
unary(
    "abs",
    np.abs,
    accepts=NUMERIC,
    by_input=_abs_derivative,
    triton={**lanes(floats="tl.abs({0})", integers="tl.abs({0})"), "u8": "{0}"},
    idempotent=True,
    doc="The absolute value; its derivative at 0 and at NaN is 0.",
)
unary(
    "sign",
    np.sign,
    accepts=NUMERIC,
    by_gradient=_zero,
    triton={
        **lanes(floats="flamec_sign({0})", integers="flamec_sign({0})"),
        "u8": "flamec_sign_unsigned({0})",
    },
    idempotent=True,
    jumps=True,
    doc="-1, 0 or 1; NaN for NaN.",
)
unary(
    "signbit",
    lambda x: np.signbit(x) if x.dtype.kind == "f" else np.less(x, 0),
    accepts=NUMERIC,
    result=bool_,
    triton=lanes(floats="(libdevice.signbit({0}) != 0)", integers="({0} < 0)"),
    doc="Whether the sign bit is set, also of -0.0 and NaN.",
)
unary(
    "bitwise_not",
    np.invert,
    accepts=INTEGER_OR_BOOL,
    c="(~{0})",
    triton={**lanes(integers="(~{0})", b="({0} == 0)"), "u8": "({0} ^ 255)"},
    involution=True,
    doc="All bits inverted; logical not for bool.",
)


def _rounding(name: str, evaluate: Callable[[np.ndarray], np.ndarray], triton: str, doc: str) -> Op:
    """A rounding op: integers pass unchanged; the gradient is zero."""
    return unary(
        name,
        lambda x: evaluate(x) if x.dtype.kind == "f" else x.copy(),
        accepts=NUMERIC,
        by_gradient=_zero,
        triton=lanes(floats=triton, integers="{0}"),
        idempotent=True,
        jumps=True,
        doc=doc,
    )


_rounding("floor", np.floor, "tl.floor({0})", "The largest integer that is not above.")
_rounding("ceil", np.ceil, "tl.ceil({0})", "The smallest integer that is not below.")
_rounding("round", np.rint, "libdevice.rint({0})", "The nearest integer, halves to even.")
_rounding("trunc", np.trunc, "libdevice.trunc({0})", "The fraction cut off.")

# exponentials and logarithms -----------------------------------------------------------

_LN2 = math.log(2.0)
_LN10 = math.log(10.0)

unary(
    "exp",
    np.exp,
    by_output=lambda b, g, y: b.mul(g, y),
    triton="libdevice.exp({0})",
    triton_approximate={"f32": "flamec_fast_exp({0})"},
    expensive=True,
    inexact=True,
)
unary(
    "exp2",
    np.exp2,
    by_output=lambda b, g, y: b.mul(g, _times(b, y, _LN2)),
    triton="libdevice.exp2({0})",
    expensive=True,
    inexact=True,
)
unary(
    "expm1",
    np.expm1,
    by_output=lambda b, g, y: b.mul(g, _plus(b, y, 1.0)),
    triton="libdevice.expm1({0})",
    expensive=True,
    inexact=True,
)
unary(
    "log",
    np.log,
    by_input=lambda b, g, x: b.div(g, x),
    triton="libdevice.log({0})",
    expensive=True,
    inexact=True,
)
unary(
    "log2",
    np.log2,
    by_input=lambda b, g, x: b.div(g, _times(b, x, _LN2)),
    triton="libdevice.log2({0})",
    expensive=True,
    inexact=True,
)
unary(
    "log10",
    np.log10,
    by_input=lambda b, g, x: b.div(g, _times(b, x, _LN10)),
    triton="libdevice.log10({0})",
    expensive=True,
    inexact=True,
)
unary(
    "log1p",
    np.log1p,
    by_input=lambda b, g, x: b.div(g, _plus(b, x, 1.0)),
    triton="libdevice.log1p({0})",
    expensive=True,
    inexact=True,
)
unary(
    "sigmoid",
    lambda x: 1 / (1 + np.exp(-x)),
    by_output=lambda b, g, y: b.mul(g, b.mul(y, _minus_from_one(b, y))),
    triton="flamec_sigmoid({0})",
    triton_approximate={"f32": "flamec_fast_sigmoid({0})"},
    expensive=True,
    inexact=True,
    doc="1 / (1 + exp(-x)).",
)

# roots -------------------------------------------------------------------------------

unary(
    "sqrt",
    np.sqrt,
    by_output=lambda b, g, y: b.div(g, _times(b, y, 2.0)),
    triton={"f32": "tl.sqrt_rn({0})", "f64": "libdevice.sqrt({0})"},
)
unary(
    "rsqrt",
    lambda x: 1 / np.sqrt(x),
    by_output=lambda b, g, y: b.mul(g, _times(b, b.mul(y, _square(b, y)), -0.5)),
    triton="libdevice.rsqrt({0})",
    doc="1 / sqrt(x).",
)

# trigonometric and hyperbolic functions --------------------------------------------------

unary(
    "sin",
    np.sin,
    by_input=lambda b, g, x: b.mul(g, b.cos(x)),
    triton="libdevice.sin({0})",
    expensive=True,
    inexact=True,
)
unary(
    "cos",
    np.cos,
    by_input=lambda b, g, x: b.neg(b.mul(g, b.sin(x))),
    triton="libdevice.cos({0})",
    expensive=True,
    inexact=True,
)
unary(
    "tan",
    np.tan,
    by_output=lambda b, g, y: b.mul(g, _plus(b, _square(b, y), 1.0)),
    triton="libdevice.tan({0})",
    expensive=True,
    inexact=True,
)
unary(
    "asin",
    np.arcsin,
    by_input=lambda b, g, x: b.mul(g, b.rsqrt(_minus_from_one(b, _square(b, x)))),
    triton="libdevice.asin({0})",
    expensive=True,
    inexact=True,
)
unary(
    "acos",
    np.arccos,
    by_input=lambda b, g, x: b.neg(b.mul(g, b.rsqrt(_minus_from_one(b, _square(b, x))))),
    triton="libdevice.acos({0})",
    expensive=True,
    inexact=True,
)
unary(
    "atan",
    np.arctan,
    by_input=lambda b, g, x: b.div(g, _plus(b, _square(b, x), 1.0)),
    triton="libdevice.atan({0})",
    expensive=True,
    inexact=True,
)
unary(
    "sinh",
    np.sinh,
    by_input=lambda b, g, x: b.mul(g, b.cosh(x)),
    triton="libdevice.sinh({0})",
    expensive=True,
    inexact=True,
)
unary(
    "cosh",
    np.cosh,
    by_input=lambda b, g, x: b.mul(g, b.sinh(x)),
    triton="libdevice.cosh({0})",
    expensive=True,
    inexact=True,
)
unary(
    "tanh",
    np.tanh,
    by_output=lambda b, g, y: b.mul(g, _minus_from_one(b, _square(b, y))),
    triton="libdevice.tanh({0})",
    triton_approximate={"f32": "flamec_fast_tanh({0})"},
    expensive=True,
    inexact=True,
)
unary(
    "asinh",
    np.arcsinh,
    by_input=lambda b, g, x: b.mul(g, b.rsqrt(_plus(b, _square(b, x), 1.0))),
    triton="libdevice.asinh({0})",
    expensive=True,
    inexact=True,
)
unary(
    "acosh",
    np.arccosh,
    by_input=lambda b, g, x: b.mul(g, b.rsqrt(_plus(b, _square(b, x), -1.0))),
    triton="libdevice.acosh({0})",
    expensive=True,
    inexact=True,
)
unary(
    "atanh",
    np.arctanh,
    by_input=lambda b, g, x: b.div(g, _minus_from_one(b, _square(b, x))),
    triton="libdevice.atanh({0})",
    expensive=True,
    inexact=True,
)

# special functions ---------------------------------------------------------------------

_ERF_SLOPE = 2.0 / math.sqrt(math.pi)


def _gaussian(b: Builder, g: Any, x: Any, factor: float) -> Any:
    return b.mul(g, _times(b, b.exp(b.neg(_square(b, x))), factor))


_TETRAGAMMA = (5 / 6, 3 / 10, 1 / 6, 1 / 6, 1 / 2)  # by powers of -1/z^2, highest first
_TETRAGAMMA_SHIFT = 12


def _tetragamma(b: Builder, g: Any, x: Any) -> Any:
    """The derivative of trigamma, in primitives, so that every order exists.

    M. Abramowitz, I. A. Stegun, Handbook of Mathematical Functions: recurrence 6.4.6 up
    to the asymptotic series 6.4.13; reflection 6.4.7 below 1/2.
    """

    def constant(value: float) -> Any:
        return b.constant(value, b.type_of(x))

    reflect = b.lt(x, constant(0.5))
    z = b.where(reflect, _minus_from_one(b, x), x)
    total = constant(0.0)
    for k in range(_TETRAGAMMA_SHIFT):
        term = _plus(b, z, float(k))
        total = b.add(total, b.div(constant(-2.0), b.mul(term, _square(b, term))))
    inverse = b.div(constant(1.0), _plus(b, z, float(_TETRAGAMMA_SHIFT)))
    square = _square(b, inverse)
    series = constant(0.0)
    for coefficient in _TETRAGAMMA:
        series = b.sub(constant(coefficient), b.mul(series, square))
    series = b.add(_plus(b, inverse, 1.0), b.mul(series, square))
    total = b.sub(total, b.mul(series, square))
    angle = _times(b, b.where(reflect, x, constant(0.25)), math.pi)
    sine = b.sin(angle)
    correction = b.div(_times(b, b.cos(angle), 2 * math.pi**3), b.mul(sine, _square(b, sine)))
    return b.mul(g, b.sub(total, b.where(reflect, correction, constant(0.0))))


unary(
    "erf",
    special_functions.erf,
    by_input=lambda b, g, x: _gaussian(b, g, x, _ERF_SLOPE),
    triton="libdevice.erf({0})",
    triton_approximate={"f32": "flamec_fast_erf({0})"},
    expensive=True,
    inexact=True,
    doc="The error function.",
)
unary(
    "erfc",
    special_functions.erfc,
    by_input=lambda b, g, x: _gaussian(b, g, x, -_ERF_SLOPE),
    triton="libdevice.erfc({0})",
    expensive=True,
    inexact=True,
    doc="1 - erf(x), accurate where erf is near 1.",
)
unary(
    "erfinv",
    special_functions.erfinv,
    by_output=lambda b, g, y: b.mul(g, _times(b, b.exp(_square(b, y)), 1.0 / _ERF_SLOPE)),
    triton="libdevice.erfinv({0})",
    expensive=True,
    inexact=True,
    doc="The inverse of the error function.",
)
unary(
    "lgamma",
    special_functions.lgamma,
    by_input=lambda b, g, x: b.mul(g, b.digamma(x)),
    triton="libdevice.lgamma({0})",
    expensive=True,
    inexact=True,
    doc="log |gamma(x)|.",
)
unary(
    "digamma",
    special_functions.digamma,
    by_input=lambda b, g, x: b.mul(g, b.polygamma1(x)),
    triton="flamec_digamma({0})",
    expensive=True,
    inexact=True,
    doc="The first derivative of lgamma.",
)
unary(
    "polygamma1",
    special_functions.trigamma,
    by_input=_tetragamma,
    triton="flamec_trigamma({0})",
    expensive=True,
    inexact=True,
    doc="Trigamma, the second derivative of lgamma.",
)
