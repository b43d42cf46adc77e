"""Elementwise declarations: types and errors, values at the edges, and that the facts are true."""

from __future__ import annotations

import operator

import ml_dtypes
import numpy as np
import pytest
import scipy.special

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec.ir.evaluate import run_op
from flamec.ir.op import REGISTRY, Op, OpKind
from flamec.ir.ops import special_functions
from flamec.ir.ops.selection import _chosen
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import (
    ALL_DTYPES,
    CPU,
    Device,
    DType,
    TensorType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int32,
    int64,
    uint8,
)

NAN, INF = float("nan"), float("inf")
ELEMENTWISE = [op for op in REGISTRY.values() if op.kind is OpKind.ELEMENTWISE]
B = SymbolicDim.symbol("B")


def typed(op: Op, *types: TensorType, **attributes: object) -> TensorType:
    (result,) = op.infer_types(types, attributes)
    return result


def call(name: str, *operands: object, dtype: DType = float64, **attributes: object) -> np.ndarray:
    op = REGISTRY[name]
    arrays = [np.asarray(x).astype(dtype.numpy) if isinstance(x, list) else x for x in operands]
    types = tuple(
        TensorType(a.shape, next(d for d in ALL_DTYPES if d.numpy == a.dtype)) for a in arrays
    )
    return run_op(op, attributes, arrays, op.infer_types(types, attributes))[0]


def accepted(op: Op, operands: int) -> list[DType]:
    found = []
    for dtype in ALL_DTYPES:
        try:
            op.infer_types((TensorType((), dtype),) * operands, {})
        except TypeError:
            continue
        found.append(dtype)
    return found


def operand_count(op: Op) -> int:
    return next(n for n in (1, 2, 3) if op.name == "where" or accepted(op, n))


# types ---------------------------------------------------------------------------------------


def test_shapes_broadcast_and_may_be_symbolic() -> None:
    add = REGISTRY["add"]
    assert typed(add, TensorType((3, 1), float32), TensorType((4,), float32)).shape == (3, 4)
    assert typed(add, TensorType((B, 1), int64), TensorType((5,), int64)).shape == (B, 5)
    assert typed(add, TensorType((), bool_), TensorType((0, 2), bool_)).shape == (0, 2)
    result = typed(REGISTRY["lt"], TensorType((B,), float32), TensorType((), float32))
    assert result == TensorType((B,), bool_)
    where = typed(
        REGISTRY["where"],
        TensorType((3, 1), bool_),
        TensorType((2,), int8),
        TensorType((), int8),
    )
    assert where == TensorType((3, 2), int8)
    assert typed(REGISTRY["convert"], TensorType((B,), int8), dtype=float16).dtype is float16


@pytest.mark.parametrize(
    ("name", "types", "error", "words"),
    [
        ("exp", [TensorType((3,), int64)], TypeError, ("exp", "floating-point", "int64[3]")),
        ("div", [TensorType((), int8)] * 2, TypeError, ("div", "int8")),
        ("sub", [TensorType((), bool_)] * 2, TypeError, ("sub", "bool")),
        ("bitwise_and", [TensorType((), float32)] * 2, TypeError, ("bitwise_and", "float32")),
        ("shift_left", [TensorType((), bool_)] * 2, TypeError, ("shift_left", "bool")),
        ("nextafter", [TensorType((), float16)] * 2, TypeError, ("nextafter", "float16")),
        ("add", [TensorType((), float32)], TypeError, ("add", "2", "1")),
        (
            "add",
            [TensorType((), float32), TensorType((), float64)],
            TypeError,
            ("add", "float32", "float64"),
        ),
        (
            "mul",
            [TensorType((2, 3), float32), TensorType((4,), float32)],
            ValueError,
            ("mul", "[2, 3]", "[4]", "dimension -1"),
        ),
        (
            "eq",
            [TensorType((), float32), TensorType((), float32, Device("cuda", 1))],
            ValueError,
            ("eq", "cpu", "cuda:1"),
        ),
        (
            "where",
            [TensorType((), int64), TensorType((), float32), TensorType((), float32)],
            TypeError,
            ("where", "bool", "int64"),
        ),
        (
            "where",
            [TensorType((), bool_), TensorType((), float32), TensorType((), float64)],
            TypeError,
            ("where", "float32", "float64"),
        ),
    ],
)
def test_errors_name_the_op_and_what_is_wrong(name, types, error, words) -> None:
    with pytest.raises(error) as raised:
        REGISTRY[name].infer_types(tuple(types), {})
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_texts_cover_the_accepted_lanes(op: Op) -> None:
    """A table of C or Triton texts has no lane that the op does not accept."""
    lanes = {"float32": "f32", "float64": "f64", "bool": "b", "uint8": "u8"}
    lanes |= {f"int{n}": f"i{n}" for n in (8, 16, 32, 64)}
    if op.name in ("where", "convert"):
        return
    count = operand_count(op)
    takes = {lanes[d.name] for d in accepted(op, count) if not d.is_half}
    assert op.c is not None
    if not isinstance(op.c, str):
        assert set(op.c) == takes
    if op.triton is not None and not isinstance(op.triton, str):
        assert set(op.triton) <= takes
    for text in (op.c, op.triton):
        for single in [text] if isinstance(text, str) else (text or {}).values():
            filled = single.format("<left>", "<right>", t="f32", r="f32")
            assert "<left>" in filled
            assert ("<right>" in filled) == (count == 2)


# facts ---------------------------------------------------------------------------------------


def edges(dtype: DType) -> np.ndarray:
    if dtype.is_floating_point:
        values = [0.0, -0.0, 1.0, -1.0, 2.5, -3.5, 1e-4, INF, -INF, NAN]
        return np.array(values).astype(dtype.numpy)
    if dtype is bool_:
        return np.array([False, True])
    bounds = np.iinfo(dtype.numpy)
    return np.array([bounds.min, bounds.max, 0, 1, 2, 7], dtype.numpy)


def bits(array: np.ndarray) -> list[bytes]:
    """The bytes of each element; all NaN alike."""
    return [b"nan" if x != x else x.tobytes() for x in array.ravel()]


FACTS = [
    (op, dtype)
    for op in ELEMENTWISE
    if op.name not in ("where", "convert")
    for dtype in accepted(op, operand_count(op))
]


@pytest.mark.parametrize(("op", "dtype"), FACTS, ids=lambda p: getattr(p, "name", ""))
def test_facts_hold_for_every_value(op: Op, dtype: DType) -> None:
    x = edges(dtype)
    type = TensorType(x.shape, dtype)

    def f(*arrays: np.ndarray) -> np.ndarray:
        return run_op(op, {}, arrays, op.infer_types((type,) * len(arrays), {}))[0]

    if op.identity is not None:
        unit = np.full(x.shape, op.identity(dtype)).astype(dtype.numpy)
        assert bits(f(x, unit)) == bits(x)
        if op.commutative:
            assert bits(f(unit, x)) == bits(x)
    if op.involution:
        assert bits(f(f(x))) == bits(x)
    if op.idempotent:
        assert bits(f(f(x))) == bits(f(x))
    if op.commutative:
        left, right = (a.ravel() for a in np.meshgrid(x, x))
        type = TensorType(left.shape, dtype)
        assert np.array_equal(
            f(left, right).astype(np.float64), f(right, left).astype(np.float64), equal_nan=True
        )


# values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("erf", scipy.special.erf),
        ("erfc", scipy.special.erfc),
        ("erfinv", scipy.special.erfinv),
        ("lgamma", scipy.special.gammaln),
        ("digamma", scipy.special.digamma),
        ("polygamma1", lambda x: scipy.special.polygamma(1, x)),
        ("sigmoid", scipy.special.expit),
    ],
)
def test_special_functions_match_scipy(name, reference) -> None:
    rng = np.random.default_rng(3)
    if name == "erfinv":
        tail = np.copysign(1 - 10 ** rng.uniform(-15, -1, 300), rng.normal(size=300))
        x = np.concatenate([rng.uniform(-1, 1, 2000), tail])
    elif name in ("erf", "erfc", "sigmoid"):
        x = np.concatenate([rng.normal(size=2000) * 3, rng.uniform(-0.01, 0.01, 300)])
    else:
        x = np.concatenate([rng.uniform(0.01, 30, 2000), rng.uniform(-9, 0, 500)])
        x = x[np.abs(x - np.rint(x)) > 1e-3]  # next to a pole the argument's rounding counts
    wanted = reference(x)
    np.testing.assert_allclose(call(name, x), wanted, rtol=3e-14, atol=2e-15)
    single = call(name, x.astype(np.float32))
    assert single.dtype == np.float32
    wanted = reference(x.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(single, wanted, rtol=3e-7, atol=1e-7)


def test_special_functions_at_their_limits() -> None:
    def check(function, points: list[float], wanted: list[float]) -> None:
        np.testing.assert_array_equal(function(np.array(points)), np.array(wanted))

    check(special_functions.erf, [0.0, INF, -INF, NAN], [0.0, 1.0, -1.0, NAN])
    check(special_functions.erfc, [INF, -INF, 30.0, NAN], [0.0, 2.0, 0.0, NAN])
    check(special_functions.erfinv, [1.0, -1.0, 1.5, 0.0, NAN], [INF, -INF, NAN, 0.0, NAN])
    check(special_functions.lgamma, [0.0, -2.0, INF, -INF, 1.0, NAN], [INF, INF, INF, INF, 0, NAN])
    check(special_functions.digamma, [0.0, -0.0, -1.0, INF, NAN], [-INF, INF, NAN, INF, NAN])
    check(special_functions.trigamma, [0.0, -3.0, INF, NAN], [INF, INF, 0.0, NAN])
    assert np.signbit(special_functions.erf(np.array([-0.0])))[0]
    assert special_functions.erf(np.zeros((2, 0, 3))).shape == (2, 0, 3)


def test_sixteen_bit_floats_are_rounded_once() -> None:
    x = np.linspace(-3, 3, 99)
    for dtype in (float16, bfloat16):
        half = x.astype(dtype.numpy)
        wanted = np.tanh(half.astype(np.float32)).astype(dtype.numpy)
        assert bits(call("tanh", half)) == bits(wanted)


def test_integer_division_follows_python() -> None:
    pairs = [(a, b) for a in range(-7, 8) for b in (-3, -2, -1, 1, 2, 3)]
    for dtype in (int8, int32, int64):
        a, b = (list(column) for column in zip(*pairs, strict=True))
        quotient, rest = (call(n, a, b, dtype=dtype) for n in ("floor_divide", "remainder"))
        assert [divmod(x, y) for x, y in pairs] == list(
            zip(quotient.tolist(), rest.tolist(), strict=True)
        )
        truncated = [x - y * int(x / y) for x, y in pairs]
        assert call("fmod", a, b, dtype=dtype).tolist() == truncated
    for name in ("floor_divide", "remainder", "fmod"):
        with pytest.raises(ZeroDivisionError, match=name):
            call(name, [1, 2], [1, 0], dtype=int64)
        assert call(name, np.zeros(0, np.int64), np.zeros(1, np.int64)).size == 0
    assert call("remainder", [5.0, -5.0, -5.0], [3.0, 3.0, INF]).tolist() == [2.0, 1.0, INF]


def test_integer_powers_shifts_and_divisors() -> None:
    base, exponent = [2, 1, -1, -1, 0, 3, -2], [-1, -5, -3, -2, -1, 4, 3]
    assert call("pow", base, exponent, dtype=int64).tolist() == [0, 1, -1, 1, 0, 81, -8]
    assert call("pow", [3, 200], [5, 0], dtype=uint8).tolist() == [243, 1]
    assert call("shift_left", [1, -3, 5], [3, 1, 64], dtype=int64).tolist() == [8, -6, 0]
    assert call("shift_right", [8, -8, -5], [2, 1, 64], dtype=int64).tolist() == [2, -4, -1]
    assert call("gcd", [12, -12, 0, 7], [18, 8, 5, 0], dtype=int32).tolist() == [6, 4, 5, 7]


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_agree_with_python(name: str) -> None:
    for dtype in ALL_DTYPES:
        x = edges(dtype)
        left, right = (a.ravel() for a in np.meshgrid(x, x))
        pairs = zip(left.tolist(), right.tolist(), strict=True)
        wanted = [getattr(operator, name)(a, b) for a, b in pairs]
        assert call(name, left, right).tolist() == wanted


def test_extremes_propagate_nan_and_work_on_bool() -> None:
    np.testing.assert_array_equal(call("maximum", [NAN, 1.0, 2.0], [1.0, NAN, 3.0]), [NAN, NAN, 3])
    np.testing.assert_array_equal(call("minimum", [NAN, 1.0, 2.0], [1.0, NAN, 3.0]), [NAN, NAN, 2])
    assert call("maximum", [0, 1, 0], [0, 0, 1], dtype=bool_).tolist() == [False, True, True]
    assert call("add", [0, 1, 1], [0, 0, 1], dtype=bool_).tolist() == [False, True, True]
    assert call("mul", [0, 1, 1], [0, 0, 1], dtype=bool_).tolist() == [False, False, True]


def test_rounding_and_signs() -> None:
    assert call("round", [0.5, 1.5, -2.5, 2.6]).tolist() == [0.0, 2.0, -2.0, 3.0]
    assert call("floor", [-5, 7], dtype=int32).tolist() == [-5, 7]
    assert call("signbit", [-0.0, 0.0, -NAN]).tolist() == [True, False, True]
    assert call("signbit", [-3, 0, 3], dtype=int8).tolist() == [True, False, False]
    assert call("bitwise_not", [0, 1], dtype=bool_).tolist() == [True, False]
    assert call("bitwise_not", [0, 1], dtype=uint8).tolist() == [255, 254]


def test_convert() -> None:
    assert run_convert([NAN, 0.0, -0.0, 0.1], float64, bool_) == [True, False, False, True]
    assert run_convert([True, False], bool_, float16) == [1.0, 0.0]
    assert run_convert([300, -1], int64, int8) == [44, -1]
    assert run_convert([2.9, -2.9, 300.7], float32, uint8) == [2, 254, 44]
    assert run_convert([1 + 2**-9], float64, bfloat16) == [1.0]


def run_convert(values: list, source: DType, target: DType) -> list:
    op = REGISTRY["convert"]
    x = np.array(values).astype(source.numpy)
    attributes = {"dtype": target}
    types = op.infer_types((TensorType(x.shape, source, CPU),), attributes)
    return run_op(op, attributes, [x], types)[0].tolist()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "bfloat16", "float64"])
def test_a_choice_of_many_elements_has_the_bits_that_were_chosen(dtype: str) -> None:
    rng = np.random.default_rng(3)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    shapes = ((100, 60), (100, 60), ()), ((60, 100), (1,), (100,)), ((6000,), (2, 1), (2, 6000))
    for condition, left, right in shapes:
        chosen = rng.random(condition[::-1]).T < 0.5
        x, y = ((rng.standard_normal(s) * 9).astype(kind)[...] for s in (left, right))
        assert_bits(_chosen(chosen, x, y), np.where(chosen, x, y))
    nan = np.array([np.nan, -0.0, 0.0, -np.inf] * 2000)
    assert_bits(_chosen(nan < 0, -nan, nan), np.where(nan < 0, -nan, nan))


def assert_bits(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype and got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()
