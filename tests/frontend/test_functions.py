"""What functions and methods promise beyond values: dtypes, errors, in-place forms, arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from op_table import OP_TABLE

import flamec
from flamec.errors import DataDependentError, OperationError, OperationTypeError
from flamec.functional.primitives import PrimitiveOperations
from flamec.ir.op import lookup

NAN, INF = math.nan, math.inf
T = flamec.tensor
f32, f64, i64 = flamec.float32, flamec.float64, flamec.int64


def same(x: flamec.Tensor, wanted: Any, dtype: flamec.DType | None = None) -> None:
    np.testing.assert_allclose(np.array(x.tolist(), dtype=float), wanted, rtol=1e-6)
    assert dtype is None or x.dtype is dtype


# dtypes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (lambda i, f, b: i + 1.5, f32),
        (lambda i, f, b: i + True, i64),
        (lambda i, f, b: b + 1, i64),
        (lambda i, f, b: b + b, flamec.bool),
        (lambda i, f, b: i / i.add(1), f32),
        (lambda i, f, b: i // 2, i64),
        (lambda i, f, b: f.half() + f, f32),
        (lambda i, f, b: f.half() + 1e8, flamec.float16),
        (lambda i, f, b: f.half() + f.bfloat16(), f32),
        (lambda i, f, b: f + T(1.0, dtype=f64), f32),
        (lambda i, f, b: i + T(1.0, dtype=f64), f64),
        (lambda i, f, b: i.to(flamec.uint8) + i.to(flamec.int8), flamec.int16),
        (lambda i, f, b: i.sum(), i64),
        (lambda i, f, b: b.sum(), i64),
        (lambda i, f, b: i.to(flamec.int8).prod(), i64),
        (lambda i, f, b: i.sum(dtype=f32), f32),
        (lambda i, f, b: i.exp(), f32),
        (lambda i, f, b: i.abs(), i64),
        (lambda i, f, b: i.square(), i64),
        (lambda i, f, b: b.square(), i64),
        (lambda i, f, b: i.argmax(), i64),
        (lambda i, f, b: i.clamp(0.5), f32),
        (lambda i, f, b: flamec.where(b, i, 1.5), f32),
        (lambda i, f, b: flamec.float_power(i, 2), f64),
        (lambda i, f, b: i == f, flamec.bool),
        (lambda i, f, b: f.any(), flamec.bool),
        (lambda i, f, b: i.to(flamec.uint8).all(), flamec.uint8),
        (lambda i, f, b: i.to(flamec.int32).cumsum(0), i64),
        (lambda i, f, b: f.masked_fill(b, 2), f32),
        (lambda i, f, b: flamec.arange(3), i64),
        (lambda i, f, b: flamec.arange(3.0), f32),
        (lambda i, f, b: flamec.full((2,), True), flamec.bool),
        (lambda i, f, b: flamec.full_like(i, 2.7), i64),
        (lambda i, f, b: flamec.trace(i.to(flamec.int8).expand(2, 2)), i64),
    ],
)
def test_result_dtypes(make: Callable[..., flamec.Tensor], dtype: flamec.DType) -> None:
    i, f, b = T([1, 2]), T([1.0, 2.0]), T([True, False])
    assert make(i, f, b).dtype is dtype


def test_the_default_dtype_is_used() -> None:
    flamec.set_default_dtype(f64)
    try:
        for made in (flamec.zeros(1), T([1]) + 0.5, T([1]).exp(), flamec.rand(1), T(1.0)):
            assert made.dtype is f64
    finally:
        flamec.set_default_dtype(f32)


def test_a_number_is_not_rounded_to_sixteen_bits() -> None:
    small = flamec.full((2,), 1000.0, dtype=flamec.float16) * 1e-8
    same(small, [1.0013580322265625e-05] * 2, flamec.float16)
    scaled = flamec.full((2,), 1e-3, dtype=flamec.float16) * 65536.0 * 2
    assert scaled.isfinite().all()


def test_integers_wrap_around() -> None:
    u = flamec.ones(1, dtype=flamec.uint8)
    assert (u + 300).tolist() == [45] and (u - 2).tolist() == [255] and (-u).tolist() == [255]
    with pytest.raises(OverflowError):
        u + 2**70


# special values --------------------------------------------------------------------------


def test_nan_and_infinity() -> None:
    x, y = T([NAN, 1.0, INF, -INF]), T([1.0, NAN, INF, INF])
    same(flamec.maximum(x, y), [NAN, NAN, INF, INF])
    same(flamec.fmax(x, y), [1, 1, INF, INF])
    same(flamec.fmin(x, y), [1, 1, INF, -INF])
    same(flamec.clamp(x, 0, 2), [NAN, 1, 2, 0])
    same(flamec.clamp(T([1.0, 2.0]), max=NAN), [NAN, NAN])
    same(flamec.logaddexp(x, y), [NAN, NAN, INF, INF])
    same(flamec.logaddexp(T(-INF), T(-INF)), -INF)
    same(flamec.xlogy(T([0.0, 0.0, 0.0]), T([0.0, INF, NAN])), [0, 0, NAN])
    same(flamec.hypot(T([INF, 3e38]), T([NAN, 3e38])), [INF, np.float32(INF)])
    same(flamec.hypot(T(3e30), T(4e30)), 5e30)
    same(flamec.sign(x), [0, 1, 1, -1])
    same(flamec.nan_to_num(x, 7.0), [7, 1, 3.4028235e38, -3.4028235e38])
    same(flamec.logsumexp(T([-INF, -INF]), 0), -INF)
    same(flamec.logsumexp(T([INF, 1.0]), 0), INF)
    same(flamec.max(x), NAN)
    assert flamec.max(T([[1.0, NAN, 2.0]]), 1).indices.tolist() == [1]
    assert flamec.argmin(x).item() == 0
    assert (x == x).tolist() == [False, True, True, True]
    assert flamec.isclose(T([NAN, INF]), T([NAN, INF]), equal_nan=True).tolist() == [True, True]
    same(flamec.heaviside(T([-1.0, 0.0, NAN]), T(0.5)), [0, 0.5, 0])
    same(T([5.0, -5.0]) % T([-3.0, 3.0]), [-1, 1])
    same(T([1.0, -1.0]) // 0.0, [INF, -INF])
    same(flamec.pow(T([1, -1, 2, 0]), T([-1, -3, -1, -1])), [1, -1, 0, 0])


def test_nothing_to_reduce() -> None:
    e = flamec.zeros(0, 3)
    same(e.sum(0), [0, 0, 0])
    same(e.prod(0), [1, 1, 1])
    same(e.mean(0), [NAN] * 3)
    same(e.var(0), [NAN] * 3)
    same(flamec.logsumexp(e, 0), [-INF] * 3)
    assert e.all().item() is True and e.any(0).tolist() == [False] * 3
    assert e.amax(1).shape == (0,) and e.max(1).values.shape == (0,)
    for call in (e.amax, e.max, lambda: e.argmax()):
        with pytest.raises(OperationError, match="dim"):
            call()
    with pytest.raises(IndexError, match="non-zero size"):
        e.max(0)
    same(flamec.ones(1).var(), NAN)


# gradients where a choice is made ----------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "at", "gradient"),
    [
        (flamec.floor, [0.5, 1.0], [0, 0]),
        (flamec.sign, [-2.0, 0.0], [0, 0]),
        (lambda x: flamec.clamp(x, -1, 1), [-1.0, 1.0, 2.0], [1, 1, 0]),
        (lambda x: x.amax(), [2.0, 1.0, 2.0], [0.5, 0, 0.5]),
        (lambda x: x.max(0).values, [2.0, 1.0, 2.0], [1, 0, 0]),
        (lambda x: flamec.norm(x), [0.0, 0.0], [0, 0]),
        (lambda x: flamec.std(x), [1.0, 1.0], [0, 0]),
        (lambda x: flamec.prod(x), [0.0, 2.0, 3.0], [6, 0, 0]),
        (lambda x: flamec.cumprod(x, 0), [0.0, 2.0], [3, 0]),
        (lambda x: x**0, [0.0, 2.0], [0, 0]),
        (lambda x: flamec.cdist(x[:, None], x[:, None].detach()), [1.0, 1.0], [0, 0]),
    ],
)
def test_gradients_at_kinks(function: Any, at: list[float], gradient: list[float]) -> None:
    x = T(at, requires_grad=True)
    function(x).sum().backward()
    assert x.grad is not None
    same(x.grad, gradient)


# in place ----------------------------------------------------------------------------------


def test_in_place_forms_change_the_tensor_and_its_views() -> None:
    x = flamec.arange(6.0).reshape(2, 3)
    row = x[1]
    assert x.add_(1).mul_(2) is x
    same(row, [8, 10, 12])
    row.exp_().log_().clamp_(max=11)
    same(x, [[2, 4, 6], [8, 10, 11]])
    x += 1
    x **= 2
    same(row, [81, 121, 144])
    b = T([True, False])
    same(b.logical_not_(), [0, 1])
    same(T([1.0, 2.0]).eq_(2), [0, 1], f32)


def test_in_place_gradients() -> None:
    x = T([1.0, 2.0], requires_grad=True)
    y = x * 3
    y.mul_(x)
    y[0].add_(x[1])
    y.sin_()
    y.sum().backward()
    assert x.grad is not None
    same(x.grad, [6 * math.cos(5), 12 * math.cos(12) + math.cos(5)])
    y = x * 3
    y.mul_(y)
    with pytest.raises(RuntimeError, match=r"changed in place at .*test_functions"):
        y.sum().backward()


@pytest.mark.parametrize(
    ("call", "error", "fragment"),
    [
        (lambda: T([1, 2]).add_(1.5), RuntimeError, "float32 can't be cast .* int64"),
        (lambda: T([1, 2]).div_(2), RuntimeError, "can't be cast"),
        (lambda: T([1.0]).add_(flamec.ones(3)), RuntimeError, r"shape \[1\] .* \[3\]"),
        (lambda: T([1.0], requires_grad=True).add_(1), RuntimeError, "leaf"),
        (lambda: flamec.ones(1).expand(3).add_(1), RuntimeError, "clone"),
        (lambda: flamec.add(T([1.0]), None), TypeError, "add.*NoneType"),
        (lambda: flamec.exp(2.0), TypeError, "exp.*float"),
        (lambda: flamec.maximum(T([1.0]), 2), TypeError, "maximum.*other"),
        (lambda: flamec.add(T([1, 2]), 1, alpha=2.5), RuntimeError, "alpha"),
        (lambda: T([True]) - T([True]), RuntimeError, "bool"),
        (lambda: -T([True]), RuntimeError, "bool"),
        (lambda: T([1]) ** -1, RuntimeError, "negative integer powers"),
        (lambda: T([1]) // 0, ZeroDivisionError, "zero"),
        (lambda: T([1, 2]).mean(), RuntimeError, "floating point"),
        (lambda: T([1.0]).sum(1), IndexError, r"\[-1, 0\], but got 1"),
        (lambda: flamec.ones(2, 2).sum((0, 0)), RuntimeError, "multiple times"),
        (lambda: T([1.0]) & T([1.0]), TypeError, "bitwise_and"),
        (lambda: flamec.ones(2) + flamec.ones(3), RuntimeError, r"\[2\] and \[3\]"),
        (lambda: flamec.ones(2, 3) @ flamec.ones(2, 3), RuntimeError, "3 against 2"),
        (lambda: flamec.ones(2) @ flamec.ones(2).double(), RuntimeError, "float32 != float64"),
        (lambda: T(1.0) @ T(1.0), RuntimeError, "at least 1D"),
        (lambda: flamec.lerp(T([1.0]), T([1.0]).double(), 0.5), RuntimeError, "`end`"),
        (lambda: flamec.where(T([1.0]), 1, 2), TypeError, "bool"),
        (lambda: flamec.zeros(-1), RuntimeError, "-1"),
        (lambda: flamec.zeros(2, device="tpu"), RuntimeError, "device string: tpu"),
        (lambda: flamec.zeros(2, dtyp=f32), TypeError, "dtyp"),
        (lambda: flamec.arange(1, 5, 0), RuntimeError, "nonzero"),
        (lambda: flamec.arange(5, 1), RuntimeError, "inconsistent"),
        (lambda: flamec.full((2,), NAN, dtype=i64), RuntimeError, "nan"),
        (lambda: flamec.ones(2, dtype=i64, requires_grad=True), RuntimeError, "floating"),
        (lambda: flamec.einsum("ij,j", flamec.ones(2, 3), T([1.0, 2.0])), RuntimeError, "j has"),
        (lambda: flamec.einsum("ij->ik", flamec.ones(2, 3)), RuntimeError, "'k' does not appear"),
        (lambda: flamec.max(T([1.0]), dim=(0,)), TypeError, "int"),
        (lambda: flamec.tensor([1.0]) + 1j, TypeError, "unsupported|complex"),
        (lambda: flamec.clamp(T([1.0])), RuntimeError, "min and max"),
        (lambda: flamec.div(T([1.0]), 2, rounding_mode="up"), RuntimeError, "'up'"),
        (
            lambda: flamec.exp(flamec.ones(2, requires_grad=True), out=flamec.ones(3)),
            RuntimeError,
            "out",
        ),
        (lambda: flamec.exp(flamec.ones(2), out=T([1, 2])), RuntimeError, "cast"),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], error: type[Exception], fragment: str) -> None:
    with pytest.raises(error, match=fragment) as caught:
        call()
    if isinstance(caught.value, (OperationError, OperationTypeError)):
        assert "test_functions.py" in str(caught.value)


# arguments -----------------------------------------------------------------------------------


def test_out_of_another_size_is_resized_with_a_warning() -> None:
    empty = flamec.empty(0)
    assert flamec.exp(flamec.zeros(2), out=empty) is empty
    assert empty.tolist() == [1.0, 1.0]
    three = flamec.ones(3)
    with pytest.warns(UserWarning, match="resized"):
        flamec.add(flamec.ones(2), 1, out=three)
    assert three.tolist() == [2.0, 2.0]


def test_out_and_numpy_names() -> None:
    x = flamec.arange(6.0).reshape(2, 3)
    target = flamec.zeros(2)
    assert flamec.sum(x, axis=1, out=target) is target
    same(target, [3, 12])
    same(x.sum(axis=0, keepdims=True), [[3, 5, 7]])
    values, indices = flamec.zeros(2), flamec.zeros(2, dtype=i64)
    result = flamec.max(x, 1, out=(values, indices))
    assert result.values is values and indices.tolist() == [2, 2]


def test_named_results() -> None:
    x = T([[1.0, 3.0], [4.0, 2.0]])
    result = flamec.max(x, 1)
    assert type(result) is flamec.return_types.max
    assert result.values.tolist() == [3, 4] and result.indices.tolist() == [1, 0]
    values, indices = x.min(dim=0, keepdim=True)
    assert values.tolist() == [[1, 2]] and indices.tolist() == [[0, 1]]
    assert repr(x.cummax(0)).startswith("flamec.return_types.cummax(\nvalues=tensor(")
    assert flamec.aminmax(x).max.item() == 4
    assert flamec.max(x, x + 1).tolist() == (x + 1).tolist()


def test_a_running_extreme_of_one_element_is_that_element_in_the_loop_of_another_scan() -> None:
    x = flamec.from_numpy(np.random.default_rng(0).standard_normal((5, 9, 1), np.float32))

    @flamec.compile
    def extremes(x: flamec.Tensor) -> Any:
        return x.cummin(1)[0].cummax(2), x.cumsum(0).cummin(2)

    largest, least = extremes(x)
    np.testing.assert_array_equal(largest.values.numpy(), np.minimum.accumulate(x.numpy(), 1))
    same(least.values, np.cumsum(x.numpy(), 0))
    assert not largest.indices.any() and not least.indices.any()


def test_both_forms_of_var() -> None:
    x = flamec.arange(6.0).reshape(2, 3)
    same(x.var(False), np.var(np.arange(6)))
    same(x.var(1, False, True), [[2 / 3], [2 / 3]])
    same(x.var(dim=1, unbiased=True), [1, 1])
    same(x.std((0, 1), correction=1.5), np.std(np.arange(6)) * math.sqrt(6 / 4.5))
    with pytest.raises(TypeError):
        x.var(1, correction=0, unbiased=True)


def test_operators_leave_foreign_operands_alone() -> None:
    class Foreign:
        def __radd__(self, other: Any) -> str:
            return "radd"

        def __rmatmul__(self, other: Any) -> str:
            return "rmatmul"

    x = T([1.0])
    assert x + Foreign() == "radd" and x @ Foreign() == "rmatmul"
    assert (x == "a") is False and (x != None) is True  # noqa: E711
    with pytest.raises(TypeError):
        x < None  # noqa: B015
    same(x + np.array([2.0], np.float32), [3.0], f32)
    same(np.array([2.0], np.float32) + x, [3.0], f32)
    same(np.float32(2) * x, [2.0], f32)


def test_equal_and_allclose_are_python_bools() -> None:
    x = T([1.0, 2.0])
    assert flamec.equal(x, x.clone()) is True and flamec.equal(x, T([1.0])) is False
    assert flamec.allclose(x, x + 1e-7) is True and flamec.allclose(x, x + 1) is False
    for read in (flamec.equal, flamec.allclose):

        def choice(a: Any, b: Any, read: Any = read) -> Any:
            return a if read(a, b) else -a

        with pytest.raises(DataDependentError, match="test_functions"):
            flamec.compile(choice, fullgraph=True)(x, x)
        split = flamec.compile(choice)
        assert split(x, x.clone()).tolist() == [1, 2] and split(x, x + 1).tolist() == [-1, -2]


def test_creation() -> None:
    same(flamec.arange(1, 2, 0.3), [1, 1.3, 1.6, 1.9], f32)
    same(flamec.arange(5, 1, -2), [5, 3], i64)
    same(flamec.arange(3, dtype=flamec.float16), [0, 1, 2], flamec.float16)
    same(flamec.linspace(0, 1, 5), [0, 0.25, 0.5, 0.75, 1])
    same(flamec.linspace(0, 10, 5, dtype=i64), [0, 2, 5, 7, 10], i64)
    assert flamec.linspace(3, 1, 0).shape == (0,) and flamec.linspace(3, 1, 1).tolist() == [3]
    same(flamec.logspace(0, 3, 4, base=2), [1, 2, 4, 8])
    same(flamec.eye(2, 3), [[1, 0, 0], [0, 1, 0]])
    assert flamec.zeros((2, 3)).shape == flamec.zeros(2, 3).shape == (2, 3)
    assert flamec.zeros(()).shape == () and flamec.ones(size=(2,)).tolist() == [1, 1]
    assert flamec.ones(2, requires_grad=True).requires_grad
    assert flamec.zeros(2, dtype=float).dtype is f64
    same(flamec.full((2,), T(3)), [3, 3], i64)


def test_einsum_forms() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 3)), generator.normal(size=(3, 4))
    x, y = T(a), T(b)
    for found in (
        flamec.einsum("ij,jk->ik", x, y),
        flamec.einsum("i j , j k", x, y),
        flamec.einsum("ij,jk", [x, y]),
        flamec.einsum(x, [0, 1], y, [1, 2], [0, 2]),
    ):
        np.testing.assert_allclose(found.numpy(), a @ b)
    np.testing.assert_allclose(flamec.einsum("...j,jk->...k", x[None], y).numpy(), (a @ b)[None])
    np.testing.assert_allclose(flamec.einsum("ba", x).numpy(), a.T)
    np.testing.assert_allclose(flamec.einsum("ij,ij->", x, x).item(), (a * a).sum())
    np.testing.assert_allclose(
        flamec.einsum("ij,ij->i", x[:, :1], x).numpy(), (a[:, :1] * a).sum(1)
    )


def test_limits_of_dtypes() -> None:
    assert flamec.finfo(f32).eps == 2.0**-23 and flamec.finfo(flamec.float16).max == 65504
    assert flamec.finfo(flamec.bfloat16).bits == 16 and flamec.finfo().dtype == "float32"
    assert flamec.iinfo(flamec.int8).min == -128 and flamec.iinfo(flamec.uint8).max == 255
    with pytest.raises(TypeError):
        flamec.finfo(i64)
    with pytest.raises(TypeError):
        flamec.iinfo(f32)


def test_operations_with_several_results_are_declared_for_type_checks() -> None:
    several = set()
    for row in OP_TABLE:
        sample = row.samples(row.dtypes[0], np.random.default_rng(0))[0]
        if len(lookup(row.name).infer_types(sample.types, sample.attributes)) > 1:
            several.add(row.name)
    assert several == set(PrimitiveOperations.__annotations__)
