"""``flamec.array_api`` against NumPy, which implements the standard.

Random arrays of all dtypes and shapes (zero-dimensional and empty ones included) go through each
function of both; the result must have the same values, shape and dtype.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import flamec
from flamec import array_api as xp

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
NUMBERS = (*FLOATS, *INTEGERS)
EVERY = (*NUMBERS, "bool")

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)

# names of the standard that need dtypes or an extension that flamec lacks
ABSENT = {"complex64", "complex128", "imag", "uint16", "uint32", "uint64"}
NEWER = {"isin"}  # 2025.12


def standard() -> tuple[Any, list[str]]:
    strict = pytest.importorskip("array_api_strict")
    own = {"ArrayAPIStrictFlags", "Device", "ModuleType", "linalg", "fft", "ALL_DEVICES"}
    names = [n for n in dir(strict) if not n.startswith("_") and n not in own]
    return strict, [n for n in names if not n.endswith("array_api_strict_flags")]


def test_the_namespace_is_complete() -> None:
    strict, names = standard()
    assert {n for n in names if not hasattr(xp, n)} == (ABSENT | NEWER) & set(names)
    complex_only = {"eig", "eigvals"}
    linear = {n for n, v in vars(strict.linalg).items() if inspect.isfunction(v) and n[0] != "_"}
    foreign = {
        "NamedTuple",
        "conj",
        "reshape",
        "finfo",
        "get_array_api_strict_flags",
        "normalize_axis_tuple",
    }
    foreign |= {"requires_api_version", "requires_extension"}
    assert linear - set(xp.linalg.__all__) - foreign == complex_only


def test_arguments_are_the_standards() -> None:
    strict, names = standard()
    pairs = [(n, getattr(strict, n), getattr(xp, n)) for n in names if hasattr(xp, n)]
    pairs += [(n, getattr(strict.linalg, n), getattr(xp.linalg, n)) for n in xp.linalg.__all__]
    checked = 0
    for name, wanted, mine in pairs:
        if not inspect.isfunction(wanted):
            continue
        theirs = inspect.signature(wanted).parameters
        ours = inspect.signature(mine).parameters
        assert [*ours] == [*theirs] or name in ("astype", "broadcast_shapes"), name
        for argument in theirs.values():
            if argument.name in ours and type(argument.default) in (int, float, bool, str):
                assert ours[argument.name].default == argument.default, (name, argument.name)
        checked += 1
    assert checked > 140


def to_numpy(value: Any) -> Any:
    return value.numpy() if isinstance(value, flamec.Tensor) else value


def same(mine: Any, theirs: Any, rtol: float = 0.0) -> None:
    if isinstance(theirs, (tuple, list)):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            same(a, b, rtol)
        return
    assert isinstance(mine, flamec.Tensor)
    theirs = np.asarray(theirs)
    assert tuple(mine.shape) == theirs.shape
    expected = {"uint64": "int64"}.get(theirs.dtype.name, theirs.dtype.name)  # sums of uint8
    assert mine.dtype.name == expected
    if theirs.dtype.kind == "f":
        tolerance = {"float32": 3e-6, "float64": 1e-12}[theirs.dtype.name]
        np.testing.assert_allclose(mine.numpy(), theirs, rtol=max(rtol, tolerance), atol=tolerance)
    else:
        np.testing.assert_array_equal(mine.numpy(), theirs)


def arrays(dtypes: tuple[str, ...], min_dims: int = 0, min_side: int = 0) -> Any:
    def of_dtype(name: str) -> Any:
        elements: dict[str, Any] = {}
        if name in FLOATS:
            width = 32 if name == "float32" else 64
            elements = {"elements": st.floats(-100, 100, width=width, allow_subnormal=False)}
        elif name not in ("bool",):
            elements = {"elements": st.integers(0 if name == "uint8" else -10, 10)}
        shapes = hnp.array_shapes(min_dims=max(min_dims, 0), max_dims=3, min_side=min_side)
        if min_dims == 0:
            shapes = st.one_of(st.just(()), shapes)
        return hnp.arrays(name, shapes, **elements)

    return st.sampled_from(dtypes).flatmap(of_dtype)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.5, 2.5, 1.0, -3.0])

UNARY = {
    "floats": (FLOATS, "acos acosh asin asinh atan atanh cos cosh exp expm1 isfinite isinf isnan "
               "log log1p log2 log10 reciprocal signbit sin sinh sqrt tan tanh"),
    "numbers": (NUMBERS, "abs ceil floor negative positive round sign square trunc real conj "
                "isfinite isinf isnan"),
    "integers": ((*INTEGERS, "bool"), "bitwise_invert"),
    "bool": (("bool",), "logical_not"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNARY)
def test_elementwise_functions_of_one_array(kind: str) -> None:
    dtypes, names = UNARY[kind]

    @quick
    @given(arrays(dtypes))
    def check(x: np.ndarray) -> None:
        with np.errstate(all="ignore"):
            for name in names.split():
                same(getattr(xp, name)(xp.asarray(x)), getattr(np, name)(x))

    check()
    if "float32" in dtypes:
        for dtype in FLOATS:
            x = SPECIAL.astype(dtype)
            with np.errstate(all="ignore"):
                for name in names.split():
                    same(getattr(xp, name)(xp.asarray(x)), getattr(np, name)(x))


BINARY = {
    "floats": (FLOATS, "atan2 copysign divide hypot logaddexp nextafter"),
    "numbers": (NUMBERS, "add subtract multiply equal not_equal less less_equal greater "
                "greater_equal maximum minimum"),
    "divisions": (NUMBERS, "floor_divide remainder"),
    "integers": ((*INTEGERS, "bool"), "bitwise_and bitwise_or bitwise_xor"),
    "bool": (("bool",), "logical_and logical_or logical_xor equal not_equal"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BINARY)
def test_elementwise_functions_of_two_arrays(kind: str) -> None:
    dtypes, names = BINARY[kind]

    @quick
    @given(st.data())
    def check(data: Any) -> None:
        x = data.draw(arrays(dtypes))
        other = data.draw(st.sampled_from(dtypes))
        if {x.dtype.name, other} & set(FLOATS) and {x.dtype.name, other} & set(INTEGERS):
            other = x.dtype.name  # not promoted by the standard
        if "bool" in (x.dtype.name, other):
            other = x.dtype.name
        shape = data.draw(hnp.broadcastable_shapes(x.shape, max_dims=3, max_side=4))
        y = np.asarray(data.draw(st.integers(1, 5)) * np.ones(shape)).astype(other)
        with np.errstate(all="ignore"):
            for name in names.split():
                same(getattr(xp, name)(xp.asarray(x), xp.asarray(y)), getattr(np, name)(x, y))
                if kind not in ("floats",) or name == "divide":
                    scalar = True if x.dtype == np.bool_ else 3
                    same(
                        getattr(xp, name)(xp.asarray(x), scalar),
                        getattr(np, name)(x, x.dtype.type(scalar)),
                    )

    check()


REDUCTIONS = {
    "numbers": (NUMBERS, "sum prod max min"),
    "floats": (FLOATS, "mean var std"),
    "every": (EVERY, "all any count_nonzero"),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions(kind: str) -> None:
    dtypes, names = REDUCTIONS[kind]

    @quick
    @given(st.data())
    def check(data: Any) -> None:
        x = data.draw(arrays(dtypes, min_side=1))
        x = x if x.dtype.name not in FLOATS else x / 10
        x = x.astype(x.dtype)
        axis = data.draw(st.one_of(st.none(), hnp.valid_tuple_axes(x.ndim)))
        keepdims = data.draw(st.booleans())
        for name in names.split():
            mine = getattr(xp, name)(xp.asarray(x), axis=axis, keepdims=keepdims)
            theirs = getattr(np, name)(x, axis=axis, keepdims=keepdims)
            if name in ("sum", "count_nonzero") or x.dtype.name not in INTEGERS:
                same(mine, theirs, 2e-5 if x.dtype == np.float32 else 1e-9)
            else:
                same(mine.to(flamec.int64), theirs.astype(np.int64))

    check()


@quick
@given(st.data())
def test_searching_sorting_and_running(data: Any) -> None:
    x = data.draw(arrays(NUMBERS, min_dims=1, min_side=1))
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    t = xp.asarray(x)
    for keepdims in (False, True):
        same(xp.argmax(t, axis=axis, keepdims=keepdims), np.argmax(x, axis=axis, keepdims=keepdims))
        same(xp.argmin(t, axis=axis, keepdims=keepdims), np.argmin(x, axis=axis, keepdims=keepdims))
    same(xp.sort(t, axis=axis), np.sort(x, axis=axis))
    same(xp.argsort(t, axis=axis), np.argsort(x, axis=axis, stable=True))
    same(xp.sort(t, axis=axis, descending=True), np.flip(np.sort(x, axis=axis), axis))
    same(xp.nonzero(t), np.nonzero(x))
    same(xp.diff(t, axis=axis), np.diff(x, axis=axis))
    wide = x.astype(np.float64)
    same(xp.cumulative_sum(xp.asarray(wide), axis=axis), np.cumulative_sum(wide, axis=axis))
    same(
        xp.cumulative_sum(xp.asarray(wide), axis=axis, include_initial=True),
        np.cumulative_sum(wide, axis=axis, include_initial=True),
    )
    scaled = wide / 100
    same(
        xp.cumulative_prod(xp.asarray(scaled), axis=axis, include_initial=True),
        np.cumulative_prod(scaled, axis=axis, include_initial=True),
    )
    flat = np.sort(x.reshape(-1))
    for side in ("left", "right"):
        same(xp.searchsorted(xp.asarray(flat), t, side=side), np.searchsorted(flat, x, side=side))
    indices = np.array([0, x.shape[axis] - 1, -1, 0])
    same(xp.take(t, xp.asarray(indices), axis=axis), np.take(x, indices, axis=axis))
    order = np.argsort(x, axis=axis, stable=True)
    same(
        xp.take_along_axis(t, xp.asarray(order), axis=axis),
        np.take_along_axis(x, order, axis=axis),
    )
    same(tuple(xp.unique_all(t)), tuple(np.unique_all(x)))
    same(tuple(xp.unique_counts(t)), tuple(np.unique_counts(x)))
    same(tuple(xp.unique_inverse(t)), tuple(np.unique_inverse(x)))
    same(xp.unique_values(t), np.sort(np.unique_values(x)))


@quick
@given(st.data())
def test_manipulation(data: Any) -> None:
    x = data.draw(arrays(EVERY, min_dims=1))
    t = xp.asarray(x)
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    axes = tuple(data.draw(st.permutations(range(x.ndim))))
    same(xp.permute_dims(t, axes), np.permute_dims(x, axes))
    same(xp.flip(t), np.flip(x))
    same(xp.flip(t, axis=axis), np.flip(x, axis=axis))
    same(xp.roll(t, 2, axis=axis), np.roll(x, 2, axis=axis))
    same(xp.roll(t, -1), np.roll(x, -1))
    same(xp.concat([t, t], axis=axis), np.concat([x, x], axis=axis))
    same(xp.concat((t, t), axis=None), np.concat((x, x), axis=None))
    same(xp.stack([t, t], axis=axis), np.stack([x, x], axis=axis))
    same(xp.unstack(t, axis=axis), tuple(np.moveaxis(x, axis, 0)))
    same(xp.expand_dims(t, axis), np.expand_dims(x, axis))
    same(xp.expand_dims(t, (0, -1)), np.expand_dims(x, (0, -1)))
    same(xp.squeeze(xp.expand_dims(t, axis), axis), x)
    same(xp.reshape(t, (-1,)) if x.size else xp.reshape(t, (0,)), x.reshape(-1))
    same(xp.repeat(t, 2, axis=axis), np.repeat(x, 2, axis=axis))
    same(xp.repeat(t, 3), np.repeat(x, 3))
    same(xp.tile(t, (2, 1)), np.tile(x, (2, 1)))
    same(xp.moveaxis(t, axis, 0), np.moveaxis(x, axis, 0))
    same(xp.broadcast_to(t, (2, *x.shape)), np.broadcast_to(x, (2, *x.shape)))
    if x.ndim >= 2:
        same(xp.tril(t, k=1), np.tril(x, k=1))
        same(xp.triu(t, k=-1), np.triu(x, k=-1))
        same(xp.matrix_transpose(t), np.matrix_transpose(x))
        same(xp.linalg.diagonal(t, offset=1), np.linalg.diagonal(x, offset=1))
    condition = x.astype(bool)
    same(xp.where(xp.asarray(condition), t, t), x)


def test_creation() -> None:
    for name, arguments, options in [
        ("arange", (5,), {}),
        ("arange", (1, 10, 3), {}),
        ("arange", (5, 1), {}),
        ("arange", (0.0, 1.0, 0.25), {"dtype": "float64"}),
        ("linspace", (0, 1, 5), {"dtype": "float64"}),
        ("linspace", (0, 1, 5), {"dtype": "float64", "endpoint": False}),
        ("eye", (3,), {"dtype": "float64"}),
        ("eye", (3, 4), {"k": 1, "dtype": "int64"}),
        ("eye", (3, 2), {"k": -1, "dtype": "float32"}),
        ("zeros", (3,), {"dtype": "float64"}),
        ("ones", ((2, 0),), {"dtype": "bool"}),
        ("full", ((2, 2), 7), {}),
        ("full", (3, True), {}),
    ]:
        own = {k: getattr(xp, v) if k == "dtype" else v for k, v in options.items()}
        same(getattr(xp, name)(*arguments, **own), getattr(np, name)(*arguments, **options))
    assert xp.zeros(2).dtype is xp.float32 and xp.full(2, 1.5).dtype is xp.float32
    x = np.arange(3.0)
    same(xp.meshgrid(xp.asarray(x), xp.asarray(x[:2])), np.meshgrid(x, x[:2]))
    same(
        xp.meshgrid(xp.asarray(x), xp.asarray(x[:2]), indexing="ij"),
        np.meshgrid(x, x[:2], indexing="ij"),
    )
    shared = xp.from_dlpack(x)
    x[0] = 9.0
    assert float(shared[0]) == 9.0
    assert float(xp.from_dlpack(x, copy=True)[0]) == 9.0
    t = xp.asarray(x)
    assert xp.asarray(t, copy=False) is t and xp.asarray(t, copy=True) is not t


def test_clip_and_powers() -> None:
    x = np.array([-2, 0, 3, 9])
    same(xp.clip(xp.asarray(x), 0, 5), np.clip(x, 0, 5))
    same(xp.clip(xp.asarray(x), max=xp.asarray([1, 2, 3, 4])), np.clip(x, None, [1, 2, 3, 4]))
    same(xp.clip(xp.asarray(x)), x)
    y = np.array([0.5, 2.0, np.nan])
    same(xp.clip(xp.asarray(y), 1.0, 1.5), np.clip(y, 1.0, 1.5))
    same(xp.pow(xp.asarray(x), 2), x**2)
    same(xp.pow(xp.asarray(y), xp.asarray(y)), y**y)
    same(xp.bitwise_left_shift(xp.asarray(abs(x)), 2), abs(x) << 2)
    same(xp.bitwise_right_shift(xp.asarray(abs(x)), xp.asarray([1, 1, 1, 1])), abs(x) >> 1)
    for call in (lambda: xp.add(1, 2), lambda: xp.add(xp.asarray([1]), 1.5)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="is not 1"):
        xp.squeeze(xp.zeros((2, 1)), 0)


def test_information() -> None:
    info = xp.__array_namespace_info__()
    assert info.default_device() in info.devices()
    assert info.default_dtypes()["real floating"] is xp.float32
    assert set(info.dtypes()) == set(EVERY)
    assert set(info.dtypes(kind=("bool", "unsigned integer"))) == {"bool", "uint8"}
    assert xp.isdtype(xp.int8, ("signed integer", "bool")) and not xp.isdtype(xp.int8, "bool")
    assert xp.result_type(xp.int8, xp.asarray([1], dtype=xp.int32), 3) is xp.int32
    assert xp.can_cast(xp.int8, xp.int16) and not xp.can_cast(xp.float64, xp.float32)
    assert xp.finfo(xp.asarray([1.0])).eps == np.finfo(np.float32).eps
    assert xp.iinfo(xp.int8).max == 127
    x = xp.zeros(2)
    assert x.__array_namespace__() is xp and x.__array_namespace__(api_version="2023.12") is xp
    with pytest.raises(ValueError, match="2019"):
        x.__array_namespace__(api_version="2019.01")
    assert x.to_device("cpu") is x
    assert xp.astype(x, xp.float32, copy=False) is x and xp.astype(x, xp.int8).dtype is xp.int8


def test_linear_algebra() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 3)), rng.standard_normal((2, 3, 4))
    s = a @ np.swapaxes(a, 1, 2) + np.eye(3)
    t, u, p = (xp.asarray(x) for x in (a, b, s))
    linear, theirs = xp.linalg, np.linalg
    same(xp.matmul(t, u), a @ b, 1e-10)
    same(xp.vecdot(t, t, axis=-2), np.vecdot(a, a, axis=-2), 1e-10)
    same(xp.tensordot(t, t, axes=((1, 2), (2, 1))), np.tensordot(a, a, ((1, 2), (2, 1))), 1e-10)
    for name in ("det", "inv", "svdvals", "matrix_norm", "pinv"):
        same(getattr(linear, name)(t), getattr(theirs, name)(a), 1e-9)
    for name in ("cholesky", "eigvalsh"):
        same(getattr(linear, name)(p), getattr(theirs, name)(s), 1e-9)
    same(linear.matrix_rank(t), theirs.matrix_rank(a))
    same(linear.matrix_power(t, 3), theirs.matrix_power(a, 3), 1e-9)
    same(linear.solve(t, u), theirs.solve(a, b), 1e-9)
    same(linear.solve(t, u[0, :, 0]), theirs.solve(a, b[0, :, 0]), 1e-9)
    same(tuple(linear.slogdet(t)), tuple(theirs.slogdet(a)), 1e-9)
    same(linear.trace(t), theirs.trace(a), 1e-10)
    same(linear.outer(t[0, 0], t[0, 1]), theirs.outer(a[0, 0], a[0, 1]))
    same(linear.cross(t, t[:1] + 1), theirs.cross(a, a[:1] + 1), 1e-10)
    same(linear.vector_norm(t, axis=(0, 2), ord=3), theirs.vector_norm(a, axis=(0, 2), ord=3), 1e-9)
    values, vectors = linear.eigh(p)
    same(vectors @ (values[..., None] * xp.matrix_transpose(vectors)), s, 1e-9)
    q, r = linear.qr(u)
    same(q @ r, b, 1e-9)
    left, single, right = linear.svd(u, full_matrices=False)
    same(left @ (single[..., None] * right), b, 1e-9)
