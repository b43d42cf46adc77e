"""Rows of reductions, scans and contractions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import op_oracles as oracles
from op_row import EVERY, NUMBERS, Draw, ErrorInput, Row, Sample, tensor

from flamec.ir.types import DType, bool_, float32, int32

X = tensor(2, 3, dtype=float32)
FOLDS = (
    ((), ()),
    ((7,), (0,)),
    ((33,), (0,)),
    ((3, 5), (0,)),
    ((3, 5), (1,)),
    ((3, 5), (0, 1)),
    ((2, 3, 4), (0, 2)),
    ((2, 3, 4), (1,)),
    ((2, 3), ()),
    ((0, 3), (1,)),
)
EMPTY_FOLDS = (((0,), (0,)), ((2, 0, 3), (1,)))


def reduction(
    name: str,
    oracle: Callable[..., Any],
    *,
    dtypes: tuple[DType, ...] = NUMBERS,
    folds: Any = FOLDS,
    zeros: bool = False,
    errors: tuple[ErrorInput, ...] = (),
    **facts: Any,
) -> Row:
    """``zeros``: also fold rows with one, two and no zero."""

    def make(draw: Draw) -> list[Sample]:
        samples = [Sample((draw(*shape),), {"axes": axes}) for shape, axes in folds]
        if draw.dtype.kind == "float":
            values = draw.specials()
            for part in (values, values[values == values]):
                samples.append(Sample((part,), {"axes": (0,)}, finite=False))
        if zeros:
            rows = draw(3, 4)
            rows[0, 1] = rows[1, 0] = rows[1, 2] = 0
            samples += [Sample((rows,), {"axes": axes}) for axes in ((1,), (0, 1))]
        return samples

    return Row(
        name,
        dtypes,
        make,
        oracle,
        symbolic=lambda B, dtype: ((tensor(B, 3, 2, dtype=dtype),), {"axes": (1,)}),
        errors=(
            ErrorInput((X,), {"axes": (2,)}, ValueError, "axis 2 is out of range"),
            ErrorInput((X,), {"axes": (1, 0)}, ValueError, "sorted"),
            ErrorInput((X,), {"axes": [0]}, TypeError, "tuple"),
            ErrorInput((X, X), {"axes": (0,)}, TypeError, "1 operand"),
            *errors,
        ),
        **facts,
    )


def _plain_sum(elements: list[Any]) -> Any:
    total = 0
    for element in elements:
        total = total + element
    return total


def _extreme(sign: int) -> Callable[[list[Any]], Any]:
    position = oracles.first_extreme(sign)
    return lambda elements: elements[position(elements)]


def _empty_error(name: str) -> tuple[ErrorInput, ...]:
    empty = tensor(2, 0, dtype=float32)
    return (ErrorInput((empty,), {"axes": (1,)}, ValueError, "dimension 1 of [2, 0] is empty"),)


ONE_AXIS = tuple(f for f in FOLDS if len(f[1]) == 1)

REDUCTION_ROWS = [
    reduction(
        "sum",
        oracles.fold(_plain_sum),
        folds=FOLDS + EMPTY_FOLDS,
        ulps=8,
        scale=64.0,
        gradient=(0,),
    ),
    reduction(
        "prod",
        oracles.fold(math.prod),
        folds=FOLDS + EMPTY_FOLDS,
        zeros=True,
        ulps=64,
        gradient=(0,),
    ),
    reduction(
        "amax",
        oracles.fold(_extreme(1)),
        dtypes=EVERY,
        gradient=(0,),
        errors=_empty_error("amax"),
    ),
    reduction(
        "amin",
        oracles.fold(_extreme(-1)),
        dtypes=EVERY,
        gradient=(0,),
        errors=_empty_error("amin"),
    ),
    *(
        reduction(
            name,
            oracles.fold(oracles.first_extreme(sign), object),
            folds=ONE_AXIS,
            errors=(
                *_empty_error(name),
                ErrorInput((X,), {"axes": (0, 1)}, ValueError, "exactly one axis"),
                ErrorInput((X.with_dtype(bool_),), {"axes": (0,)}, TypeError, "bool"),
            ),
        )
        for name, sign in (("argmax", 1), ("argmin", -1))
    ),
]


# scans ---------------------------------------------------------------------
SCANS = (((7,), 0), ((1,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 3, 4), 1), ((0,), 0), ((2, 0), 0))


def scan(name: str, oracle: Callable[..., Any], *, zeros: bool = False, **facts: Any) -> Row:
    def make(draw: Draw) -> list[Sample]:
        samples = [Sample((draw(*shape),), {"axis": axis}) for shape, axis in SCANS]
        if draw.dtype.kind == "float":
            values = draw.array([1.0, 3.0, 3.0, -1.0, math.nan, 2.0, math.nan, math.inf, -math.inf])
            samples.append(Sample((values,), {"axis": 0}, finite=False))
        if zeros:
            rows = draw(3, 4)
            rows[0, 1] = rows[1, 0] = rows[1, 2] = 0
            samples += [Sample((rows,), {"axis": axis}) for axis in (0, 1)]
        return samples

    return Row(
        name,
        NUMBERS,
        make,
        oracle,
        gradient=(0,),
        symbolic=lambda B, dtype: ((tensor(2, B, 3, dtype=dtype),), {"axis": 1}),
        errors=(
            ErrorInput((X,), {"axis": 2}, ValueError, "axis 2 is out of range"),
            ErrorInput((tensor(),), {"axis": 0}, ValueError, "axis 0 is out of range"),
            ErrorInput((X.with_dtype(bool_),), {"axis": 0}, TypeError, "bool"),
        ),
        **facts,
    )


def recurrence() -> Row:
    def make(draw: Draw) -> list[Sample]:
        samples = [Sample((draw(*shape), draw(*shape)), {"axis": axis}) for shape, axis in SCANS]
        if draw.dtype.kind == "float":
            values = draw.array([1.0, math.inf, 2.0, math.nan, 3.0])
            factors = draw.array([0.0, 2.0, 0.5, 1.0, 1.0])
            samples.append(Sample((values, factors), {"axis": 0}, finite=False))
        return samples

    return Row(
        "recurrence",
        NUMBERS,
        make,
        oracles.linear_recurrence,
        gradient=(0, 1),
        symbolic=lambda B, dtype: ((tensor(2, B, 3, dtype=dtype),) * 2, {"axis": 1}),
        errors=(
            ErrorInput((X, X), {"axis": 2}, ValueError, "axis 2 is out of range"),
            ErrorInput((X, tensor(3, dtype=float32)), {"axis": 0}, ValueError, "a factor for each"),
            ErrorInput((X, X.with_dtype(int32)), {"axis": 0}, TypeError, "differ in dtype"),
            ErrorInput((X.with_dtype(bool_),) * 2, {"axis": 0}, TypeError, "bool"),
            ErrorInput((X,), {"axis": 0}, TypeError, "takes 2 operands"),
        ),
        ulps=16,
        scale=16.0,
    )


SCAN_ROWS = [
    scan("cumsum", oracles.running(lambda total, x: total + x), ulps=8, scale=16.0),
    scan("cumprod", oracles.running(lambda total, x: total * x), zeros=True, ulps=16),
    recurrence(),
    scan("cummax", oracles.running_extreme(1)),
    scan("cummin", oracles.running_extreme(-1)),
]


# contraction ---------------------------------------------------------------
PLAIN: Any = ((), ())
CONTRACTIONS = (
    # shapes of both operands, contracted axes, batch axes
    (((2, 3), (3, 4)), ((1,), (0,)), PLAIN),
    (((3, 2), (3, 4)), ((0,), (0,)), PLAIN),
    (((2, 3), (4, 3)), ((1,), (1,)), PLAIN),
    (((3,), (3,)), ((0,), (0,)), PLAIN),
    (((2,), (3,)), PLAIN, PLAIN),
    (((), (3,)), PLAIN, PLAIN),
    (((5, 2, 3), (5, 3, 4)), ((2,), (1,)), ((0,), (0,))),
    (((2, 5, 3), (3, 4, 5)), ((2,), (0,)), ((1,), (2,))),
    (((2, 3, 4), (4, 3, 5)), ((1, 2), (1, 0)), PLAIN),
    (((2, 3, 4, 2), (3, 2, 4, 2)), ((3, 2), (1, 2)), ((1, 0), (0, 3))),
    (((2, 0), (0, 3)), ((1,), (0,)), PLAIN),
    (((0, 2), (2, 3)), ((1,), (0,)), PLAIN),
)


def _make_contractions(draw: Draw) -> list[Sample]:
    return [
        Sample((draw(*x), draw(*y)), {"contract": contract, "batch": batch})
        for (x, y), contract, batch in CONTRACTIONS
    ]


def _bad(fragment: str, x: Any, y: Any, contract: Any, batch: Any = PLAIN) -> ErrorInput:
    attributes = {"contract": contract, "batch": batch}
    return ErrorInput((x, y), attributes, ValueError, fragment)


CONTRACTION_ROWS = [
    Row(
        "dot_general",
        NUMBERS,
        _make_contractions,
        oracles.dot_general,
        ulps=8,
        scale=32.0,
        gradient=(0, 1),
        symbolic=lambda B, dtype: (
            (tensor(B, 3, 2, dtype=dtype), tensor(4, 3, B, dtype=dtype)),
            {"contract": ((1,), (1,)), "batch": ((0,), (2,))},
        ),
        errors=(
            _bad("size 3 against dimension 0 of size 2", X, X, ((1,), (0,))),
            _bad("unevenly", X, X, ((1, 0), (0,))),
            _bad("used twice", X, X, ((1,), (1,)), ((1,), (1,))),
            _bad("axis 2 is out of range", X, X, ((2,), (0,))),
            ErrorInput(
                (X, X.with_dtype(int32)), {"contract": PLAIN, "batch": PLAIN}, TypeError, "dtype"
            ),
        ),
    )
]


# convolution ---------------------------------------------------------------
def _convolution(
    strides: Any, padding: Any, lhs: Any = None, rhs: Any = None, groups: int = 1
) -> dict[str, Any]:
    ones = (1,) * len(strides)
    return {
        "strides": strides,
        "padding": padding,
        "lhs_dilation": lhs or ones,
        "rhs_dilation": rhs or ones,
        "groups": groups,
    }


CONVOLUTIONS = (
    (((2, 3, 5), (4, 3, 3)), _convolution((1,), ((1, 1),))),
    (((1, 2, 7), (2, 1, 2)), _convolution((2,), ((0, 1),), groups=2)),
    (((2, 1, 5), (1, 1, 2)), _convolution((1,), ((-1, 2),), lhs=(2,), rhs=(3,))),
    (((2, 1, 4), (1, 1, 2)), _convolution((2,), ((-2, -3),), lhs=(3,))),
    (((0, 2, 4), (3, 2, 2)), _convolution((1,), ((0, 0),))),
    (((1, 2, 4, 3), (2, 2, 3, 2)), _convolution((2, 1), ((1, 1), (0, 0)))),
    (((1, 4, 3, 4), (6, 2, 2, 2)), _convolution((1, 2), ((1, 0), (1, 1)), groups=2)),
    (((1, 3, 5, 4), (3, 1, 2, 3)), _convolution((3, 1), ((0, 0), (1, 1)), groups=3)),
    (((1, 2, 2, 2), (2, 2, 3, 3)), _convolution((1, 1), ((2, 2), (2, 2)), lhs=(2, 1))),
    (((2, 1, 2, 3, 2), (2, 1, 2, 1, 2)), _convolution((1, 2, 1), ((0, 0), (0, 0), (1, 0)))),
)
IMAGE, KERNEL = tensor(1, 2, 4), tensor(3, 2, 3)


def _bad_convolution(fragment: str, x: Any, w: Any, **changed: Any) -> ErrorInput:
    attributes = _convolution((1,), ((0, 0),)) | changed
    return ErrorInput((x, w), attributes, ValueError, fragment)


CONVOLUTION_ROWS = [
    Row(
        "convolution",
        NUMBERS,
        lambda draw: [Sample((draw(*x), draw(*w)), a) for (x, w), a in CONVOLUTIONS],
        oracles.convolution,
        ulps=8,
        scale=64.0,
        gradient=(0, 1),
        symbolic=lambda B, dtype: (
            (tensor(B, 2, 6, dtype=dtype), tensor(3, 2, 3, dtype=dtype)),
            _convolution((2,), ((1, 1),)),
        ),
        errors=(
            _bad_convolution("has 2 channels", IMAGE, tensor(3, 3, 3)),
            _bad_convolution("has 2 channels", IMAGE, KERNEL, groups=2),
            _bad_convolution("spans 5 elements", IMAGE, tensor(3, 2, 5)),
            _bad_convolution("do not divide", tensor(1, 4, 4), tensor(3, 2, 3), groups=2),
            _bad_convolution("must be positive", IMAGE, KERNEL, strides=(0,)),
            _bad_convolution("strides has 4 entries", IMAGE, KERNEL, strides=(1, 1)),
            _bad_convolution("the same spatial dimensions", IMAGE, tensor(3, 2)),
            _bad_convolution("is empty", IMAGE, tensor(3, 2, 0)),
        ),
    )
]

FOLDING_ROWS = [*REDUCTION_ROWS, *SCAN_ROWS, *CONTRACTION_ROWS, *CONVOLUTION_ROWS]
