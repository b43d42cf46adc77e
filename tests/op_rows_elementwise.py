"""Rows of the elementwise primitives: oracles are float64 formulas and Python integers."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.special
from op_row import (
    BOOL,
    EVERY,
    FLOATS,
    INTEGERS,
    NUMBERS,
    Draw,
    ErrorInput,
    Interval,
    Row,
    Sample,
    tensor,
)

from flamec.ir.types import (
    ALL_DTYPES,
    DType,
    bool_,
    float32,
    float64,
    int32,
    int64,
)

UNARY_SHAPES = ((), (0,), (1,), (7,), (33,), (3, 5), (2, 0, 3))
BINARY_SHAPES = (
    ((), ()),
    ((5,), ()),
    ((33,), (33,)),
    ((3, 1), (4,)),
    ((0, 3), (1, 3)),
    ((2, 3, 5), (3, 5)),
)
ALL: Interval = (-3.0, 3.0)
POSITIVE: Interval = (0.2, 4.0)
INSIDE: Interval = (-0.9, 0.9)


def by_kind(floats: Callable[..., Any] | None, integers: Callable[..., Any] | None = None) -> Any:
    """An oracle that picks the float64 formula or, elementwise, the one for Python integers."""

    def oracle(sample: Sample, *arrays: np.ndarray) -> Any:
        if integers is not None and arrays[-1].dtype == object:
            return np.frompyfunc(integers, len(arrays), 1)(*arrays)
        assert floats is not None
        return floats(*arrays)

    return oracle


def symbolic_operands(*shapes: Any) -> Any:
    def types(B: Any, dtype: DType) -> tuple[Any, dict[str, Any]]:
        return tuple(tensor(*(B if d == "B" else d for d in s), dtype=dtype) for s in shapes), {}

    return types


# one operand ---------------------------------------------------------------
def unary(
    name: str,
    floats: Callable[[np.ndarray], Any] | None,
    integers: Callable[[Any], Any] | None = None,
    *,
    dtypes: tuple[DType, ...] = FLOATS,
    domain: Interval = ALL,
    gradient: bool = True,
    specials: bool = True,
    **facts: Any,
) -> Row:
    def make(draw: Draw) -> list[Sample]:
        samples = [Sample((draw(*shape, domain=domain),)) for shape in UNARY_SHAPES]
        if specials:
            samples.append(Sample((draw.specials(),), finite=False))
        return samples

    sample_type = tensor(2, dtype=dtypes[0])
    return Row(
        name,
        dtypes,
        make,
        by_kind(floats, integers),
        gradient=(0,) if gradient else (),
        symbolic=symbolic_operands(("B", 3)),
        errors=(
            ErrorInput((sample_type, sample_type), {}, TypeError, "1 operand"),
            ErrorInput((), {}, TypeError, "1 operand"),
        ),
        **facts,
    )


def _unchanged(x: int) -> int:
    return x


def _rounded(name: str, floats: Callable[[np.ndarray], Any]) -> Row:
    return unary(name, floats, _unchanged, dtypes=NUMBERS)


def _floor_by_parts(x: np.ndarray) -> np.ndarray:
    fraction, whole = np.modf(x)
    return np.where(fraction < 0, whole - 1, whole)


def _round_half_even(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), np.round(x), x)


def _digits(x: np.ndarray) -> np.ndarray:
    return np.array([math.copysign(1.0, v) < 0 for v in x.reshape(-1)], bool).reshape(x.shape)


def _log_gamma(x: np.ndarray) -> Any:
    return np.where(x == -np.inf, np.inf, scipy.special.gammaln(x))  # C's lgamma at -inf


def _trigamma(x: np.ndarray) -> Any:
    return np.where(x == -np.inf, np.nan, scipy.special.zeta(2.0, x))


UNARY_ROWS = [
    unary("neg", lambda x: -1.0 * x, lambda x: 0 - x, dtypes=NUMBERS),
    unary("abs", np.fabs, abs, dtypes=NUMBERS),
    unary(
        "sign",
        lambda x: np.where(np.isnan(x), x, np.heaviside(x, 0.0) - np.heaviside(-x, 0.0)),
        lambda x: (x > 0) - (x < 0),
        dtypes=NUMBERS,
    ),
    unary("signbit", _digits, lambda x: x < 0, dtypes=NUMBERS, gradient=False),
    Row(
        "bitwise_not",
        INTEGERS + BOOL,
        lambda draw: [Sample((draw(*s),)) for s in UNARY_SHAPES] + [Sample((draw.specials(),))],
        by_kind(np.logical_not, lambda x: -x - 1),
        symbolic=symbolic_operands(("B", 3)),
        errors=(ErrorInput((tensor(2, dtype=float32),), {}, TypeError, "bitwise_not"),),
    ),
    _rounded("floor", _floor_by_parts),
    _rounded("ceil", lambda x: -_floor_by_parts(-x)),
    _rounded("round", _round_half_even),
    _rounded("trunc", lambda x: np.modf(x)[1]),
    unary("exp", np.exp, ulps=4),
    unary("exp2", np.exp2, ulps=4),
    unary("expm1", np.expm1, ulps=4),
    unary("log", np.log, domain=POSITIVE, ulps=4),
    unary("log2", np.log2, domain=POSITIVE, ulps=4),
    unary("log10", np.log10, domain=POSITIVE, ulps=4),
    unary("log1p", np.log1p, domain=POSITIVE, ulps=4),
    unary("sigmoid", scipy.special.expit, ulps=4),
    unary("sqrt", lambda x: np.power(np.where(x < 0, np.nan, x), 0.5), domain=POSITIVE, ulps=2),
    unary("rsqrt", lambda x: 1 / np.sqrt(x), domain=POSITIVE, ulps=3),
    unary("sin", np.sin, ulps=4),
    unary("cos", np.cos, ulps=4),
    unary("tan", np.tan, domain=(-1.2, 1.2), ulps=4),
    unary("asin", np.arcsin, domain=INSIDE, ulps=4),
    unary("acos", np.arccos, domain=INSIDE, ulps=4),
    unary("atan", np.arctan, ulps=4),
    unary("sinh", np.sinh, ulps=4),
    unary("cosh", np.cosh, ulps=4),
    unary("tanh", np.tanh, ulps=4),
    unary("asinh", np.arcsinh, ulps=4),
    unary("acosh", np.arccosh, domain=(1.2, 4.0), ulps=4),
    unary("atanh", np.arctanh, domain=INSIDE, ulps=4),
    unary("erf", scipy.special.erf, ulps=4),
    unary("erfc", scipy.special.erfc, ulps=16),
    unary("erfinv", scipy.special.erfinv, domain=INSIDE, ulps=16),
    unary("lgamma", _log_gamma, domain=POSITIVE, ulps=16, scale=1.0),
    unary("digamma", scipy.special.digamma, domain=POSITIVE, ulps=16, scale=1.0),
    unary("polygamma1", _trigamma, domain=POSITIVE, ulps=16),
]


# two operands --------------------------------------------------------------
def binary(
    name: str,
    floats: Callable[[np.ndarray, np.ndarray], Any] | None,
    integers: Callable[[Any, Any], Any] | None = None,
    *,
    dtypes: tuple[DType, ...] = NUMBERS,
    left: Interval = ALL,
    right: Interval = ALL,
    repair: Callable[[np.ndarray], np.ndarray] = lambda y: y,
    gradient: tuple[int, ...] = (0, 1),
    specials: bool = True,
    **facts: Any,
) -> Row:
    """``repair`` brings integer right operands into the domain."""

    def make(draw: Draw) -> list[Sample]:
        def fixed(y: np.ndarray) -> np.ndarray:
            return repair(y) if draw.dtype.kind in ("int", "uint") else y

        samples = [
            Sample((draw(*a, domain=left), fixed(draw(*b, domain=right)))) for a, b in BINARY_SHAPES
        ]
        if specials:
            values = draw.specials()
            samples.append(Sample((values[:, None], fixed(values)), finite=False))
        return samples

    dtype, other = dtypes[0], next(d for d in ALL_DTYPES if d is not dtypes[0])
    return Row(
        name,
        dtypes,
        make,
        by_kind(floats, integers),
        gradient=gradient,
        symbolic=symbolic_operands(("B", 3), (2, 1, 3)),
        errors=(
            ErrorInput((tensor(2, 3, dtype=dtype), tensor(4, dtype=dtype)), {}, ValueError, name),
            ErrorInput(
                (tensor(2, 3, dtype=dtype), tensor(4, dtype=dtype)), {}, ValueError, "3 against 4"
            ),
            ErrorInput((tensor(2, dtype=dtype), tensor(2, dtype=other)), {}, TypeError, name),
            ErrorInput((tensor(2, dtype=dtype),), {}, TypeError, "2 operands"),
        ),
        **facts,
    )


def _nonzero(y: np.ndarray) -> np.ndarray:
    return np.where(y == 0, np.ones_like(y), y)


def _shift_amount(y: np.ndarray) -> np.ndarray:
    return np.asarray(np.abs(y.astype(np.int64)) % (8 * y.itemsize)).astype(y.dtype)


def _integer_power(x: int, y: int) -> int:
    if y >= 0:
        return pow(x, y, 1 << 64)
    return 0 if abs(x) != 1 else x if y % 2 else 1


def _truncated_remainder(x: int, y: int) -> int:
    return x - y * int(Fraction(x, y))


def _greater(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype == np.bool_:
        return x | y
    return np.where(np.isnan(x) | np.isnan(y), np.nan, np.where(x > y, x, y))


def _lesser(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x & y if x.dtype == np.bool_ else -_greater(-x, -y)


def _next_float(x: float, y: float, code: str, integer: str) -> float:
    """The neighbour of x towards y, by counting bit patterns."""
    if math.isnan(x) or math.isnan(y):
        return math.nan
    if x == y:
        return y
    if x == 0.0:
        smallest = struct.unpack(code, struct.pack(integer, 1))[0]
        return math.copysign(smallest, y)
    bits = struct.unpack(integer, struct.pack(code, x))[0]
    bits += 1 if (x < y) == (x > 0) else -1
    return struct.unpack(code, struct.pack(integer, bits))[0]


def _next_oracle(sample: Sample, x: np.ndarray, y: np.ndarray) -> Any:
    codes = ("<d", "<q") if sample.arrays[0].dtype == np.float64 else ("<f", "<i")
    step = np.frompyfunc(lambda a, b: _next_float(a, b, *codes), 2, 1)
    return np.asarray(step(x, y)).astype(np.float64)


def _logical(operation: Callable[[Any, Any], Any]) -> Callable[[np.ndarray, np.ndarray], Any]:
    return lambda x, y: np.frompyfunc(operation, 2, 1)(x, y)


def _comparison(name: str, holds: Callable[[Any, Any], bool]) -> Row:
    return binary(name, _logical(holds), holds, dtypes=EVERY, gradient=())


BINARY_ROWS = [
    binary(
        "add",
        lambda x, y: x | y if x.dtype == np.bool_ else x + y,
        lambda x, y: x + y,
        dtypes=EVERY,
        ulps=1,
    ),
    binary("sub", lambda x, y: x - y, lambda x, y: x - y, ulps=1),
    binary(
        "mul",
        lambda x, y: x & y if x.dtype == np.bool_ else x * y,
        lambda x, y: x * y,
        dtypes=EVERY,
        ulps=1,
    ),
    binary("div", lambda x, y: x / y, dtypes=FLOATS, right=POSITIVE, ulps=1),
    binary("pow", lambda x, y: x**y, _integer_power, left=POSITIVE, ulps=8),
    binary("fmod", np.fmod, _truncated_remainder, right=POSITIVE, repair=_nonzero, ulps=2),
    binary("remainder", np.mod, lambda x, y: x % y, right=POSITIVE, repair=_nonzero, ulps=2),
    binary(
        "floor_divide",
        np.floor_divide,
        lambda x, y: x // y,
        right=POSITIVE,
        repair=_nonzero,
    ),
    binary("maximum", _greater, max, dtypes=EVERY),
    binary("minimum", _lesser, min, dtypes=EVERY),
    binary("atan2", np.arctan2, dtypes=FLOATS, ulps=4),
    binary(
        "copysign",
        lambda x, y: np.where(np.signbit(y), -np.fabs(x), np.fabs(x)),
        dtypes=FLOATS,
        gradient=(0, 1),
    ),
    binary("gcd", None, math.gcd, dtypes=INTEGERS, gradient=()),
    binary(
        "shift_left",
        None,
        lambda x, y: x << y,
        dtypes=INTEGERS,
        repair=_shift_amount,
        gradient=(),
    ),
    binary(
        "shift_right",
        None,
        lambda x, y: x >> y,
        dtypes=INTEGERS,
        repair=_shift_amount,
        gradient=(),
    ),
    binary("bitwise_and", np.logical_and, lambda x, y: x & y, dtypes=INTEGERS + BOOL, gradient=()),
    binary("bitwise_or", np.logical_or, lambda x, y: x | y, dtypes=INTEGERS + BOOL, gradient=()),
    binary("bitwise_xor", np.logical_xor, lambda x, y: x ^ y, dtypes=INTEGERS + BOOL, gradient=()),
    _comparison("eq", lambda x, y: x == y),
    _comparison("ne", lambda x, y: x != y),
    _comparison("lt", lambda x, y: x < y),
    _comparison("le", lambda x, y: x <= y),
    _comparison("gt", lambda x, y: x > y),
    _comparison("ge", lambda x, y: x >= y),
]

_NEXT_SHAPES = binary("nextafter", None, dtypes=(float64, float32), gradient=())
BINARY_ROWS.append(
    Row(
        "nextafter",
        (float64, float32),
        _NEXT_SHAPES.make,
        _next_oracle,
        gradient=(0, 1),
        symbolic=_NEXT_SHAPES.symbolic,
        errors=_NEXT_SHAPES.errors,
    )
)


# choice and conversion ------------------------------------------------------
def _make_where(draw: Draw) -> list[Sample]:
    coin = Draw(bool_, draw.rng)
    shapes = (((), (), ()), ((4,), (4,), (4,)), ((3, 1), (5,), ()), ((0,), (1,), ()), ((2, 3),) * 3)
    samples = [Sample((coin(*c), draw(*x), draw(*y))) for c, x, y in shapes]
    values = draw.specials()
    return [*samples, Sample((coin(len(values)), values, values[::-1]), finite=False)]


def _where_oracle(sample: Sample, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> Any:
    picked = np.frompyfunc(lambda c, a, b: a if c else b, 3, 1)(condition, x, y)
    return picked if x.dtype == object else np.asarray(picked).astype(x.dtype)


def _make_convert(draw: Draw) -> list[Sample]:
    samples = []
    for target in ALL_DTYPES:
        samples += [
            Sample((draw(*shape, domain=(-30.0, 30.0)),), {"dtype": target})
            for shape in ((), (0,), (3, 5))
        ]
        if draw.dtype.kind != "float" or target.kind in ("float", "bool"):
            samples.append(Sample((draw.specials(),), {"dtype": target}, finite=False))
    return samples


def _convert_oracle(sample: Sample, x: np.ndarray) -> Any:
    kind = sample.attributes["dtype"].kind
    if kind == "bool":
        return np.frompyfunc(lambda v: v != 0, 1, 1)(x)
    if kind == "float":
        return x.astype(np.float64)
    return np.frompyfunc(lambda v: int(v), 1, 1)(x)


def _make_require(draw: Draw) -> list[Sample]:
    shapes = (((), ()), ((4,), (4,)), ((5,), (3, 1)), ((1,), (0,)), ((2, 3), (2, 3)))
    asked = {"message": "draw: values must be small", "error": "ValueError"}
    return [Sample((np.ones(c, bool), draw(*x)), asked) for c, x in shapes]


def _require_error(types: Any, kind: type[Exception], match: str, **changed: str) -> ErrorInput:
    asked = {"message": "draw: values must be small", "error": "ValueError"}
    return ErrorInput(types, {**asked, **changed}, kind, match)


_TWO = tensor(2, dtype=bool_), tensor(2)
SELECTION_ROWS = [
    Row(
        "require",
        EVERY,
        _make_require,
        lambda sample, condition, x: np.broadcast_to(x, np.broadcast(condition, x).shape),
        gradient=(1,),
        symbolic=lambda B, dtype: (
            (tensor(B, 3, dtype=bool_), tensor(B, 1, dtype=dtype)),
            {"message": "draw: values must be small", "error": "ValueError"},
        ),
        admit=np.ones_like,
        errors=(
            _require_error((tensor(2), tensor(2)), TypeError, "must be bool"),
            _require_error(_TWO, ValueError, "braces", message="{x}"),
            _require_error(_TWO, ValueError, "must be one of", error="KeyError"),
            _require_error((tensor(3, dtype=bool_), tensor(2)), ValueError, "3 against 2"),
        ),
    ),
    Row(
        "where",
        EVERY,
        _make_where,
        _where_oracle,
        gradient=(1, 2),
        symbolic=lambda B, dtype: (
            (tensor(B, 1, dtype=bool_), tensor(3, dtype=dtype), tensor(B, 3, dtype=dtype)),
            {},
        ),
        errors=(
            ErrorInput((tensor(2, dtype=float32),) * 3, {}, TypeError, "condition"),
            ErrorInput(
                (tensor(2, dtype=bool_), tensor(2, dtype=float32), tensor(2, dtype=int32)),
                {},
                TypeError,
                "dtype",
            ),
            ErrorInput(
                (tensor(2, dtype=bool_), tensor(3, dtype=int64), tensor(3, dtype=int64)),
                {},
                ValueError,
                "2 against 3",
            ),
        ),
    ),
    Row(
        "convert",
        EVERY,
        _make_convert,
        _convert_oracle,
        ulps=1,
        gradient=(0,),
        symbolic=lambda B, dtype: ((tensor(B, 2, dtype=dtype),), {"dtype": float32}),
        errors=(ErrorInput((), {"dtype": float32}, TypeError, "1 operand"),),
    ),
]

ELEMENTWISE_ROWS = [*UNARY_ROWS, *BINARY_ROWS, *SELECTION_ROWS]
