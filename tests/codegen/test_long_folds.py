"""Folds of very many numbers are as exact as eager mode's, in programs of fixed and symbolic sizes.

Eager mode is NumPy on the graph's own dtypes, the oracle NumPy in float64.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from accuracy import FACTOR, FAITHFUL

import flamec
from flamec.ir.evaluate import evaluate_graph

DTYPES = (flamec.float32, flamec.bfloat16, flamec.float16)


SMALL = 2.0**-17  # a product with it rounds nothing, so contraction changes nothing


def whole(x):
    """Results that each depend on every element."""
    v = x.reshape(-1)
    wide = x.float() if x.dtype.is_half else x
    return (
        x.sum(), x.mean(), x.norm(), flamec.logsumexp(v, 0), v @ (v * 0.5),
        ((wide - 0.5) ** 2).mean(), (1 + wide * SMALL).prod(),
        (x * x).sum(-1).mean(), (wide.exp() + 1).sum(), x.var(), x.std(),
    )  # fmt: skip


def lines(x):
    """Results of lines of the array."""
    wide = x.float() if x.dtype.is_half else x
    return (
        x.sum(-1), x.sum(0), flamec.softmax(x, -1).sum(-1), wide.cumsum(-1)[:, -5:],
        (1 + wide * SMALL).cumprod(-1)[:, -5:], (wide * wide).sum(-1), x.sum((0, -1)),
    )  # fmt: skip


def lengths(found: np.ndarray, exact: np.ndarray, dtype: flamec.dtype) -> float:
    """The largest error in units in the last place; results are sums of terms of one sign."""
    info = ml_dtypes.finfo(dtype.numpy)
    size = np.maximum(np.abs(exact), float(info.smallest_normal))
    unit = 2.0 ** (np.floor(np.log2(size)) - info.nmant)
    return float((np.abs(found.astype(np.float64) - exact) / unit).max())


def numbers(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    if kind == "equal":  # rounding errors of equal steps do not cancel
        each = np.random.default_rng(1).random((shape[0], 1), np.float32) + 0.01
        return np.broadcast_to(each, shape).copy()
    return np.random.default_rng(0).random(shape, np.float32) * 0.2 + 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "shape"), [(whole, (3, 700_001)), (lines, (19, 100_003))])
def test_long_folds(function, shape: tuple[int, ...], dtype: flamec.dtype) -> None:
    programs = {d: flamec.compile(function, dynamic=d, backend="c") for d in (False, True)}
    for kind in ("random", "equal"):
        x = flamec.from_numpy(numbers(kind, shape)).to(dtype)
        exact = [r.numpy() for r in function(x.double())]
        results = {d: f(x) for d, f in programs.items()}
        (program,) = programs[False].programs
        eager = evaluate_graph(program.captured.graph, [x._array])[0]
        if kind == "equal" and function is whole:
            exact = exact[:-3]  # how few rounded terms add up is chance
        for position, wanted in enumerate(exact):
            for dynamic, outputs in results.items():
                found = outputs[position]
                allowed = max(FAITHFUL, FACTOR * lengths(eager[position], wanted, found.dtype))
                off = lengths(found._array, wanted, found.dtype)
                assert off <= allowed, (position, kind, dynamic, off, allowed)


def test_infinities_and_nan_pass_through_long_sums() -> None:
    """What rounding loses is no number there, and must not become one in the result."""
    program = flamec.compile(lambda x: (x.sum(), x.sum(-1)), dynamic=True, backend="c")
    x = flamec.ones(2, 5000)
    for value, total in ((np.inf, np.inf), (-np.inf, -np.inf), (np.nan, np.nan)):
        x[1, 4321] = float(value)
        everything, rows = program(x)
        np.testing.assert_equal(everything.item(), total)
        np.testing.assert_equal(rows.numpy(), np.array([5000, total], np.float32))
    x = flamec.full((2, 5000), 3e38)
    assert program(x)[0].item() == np.inf


@pytest.mark.parametrize("shape", [(300_007, 3), (60_001, 70), (20_003, 2, 20), (9, 40, 50, 8)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_sums_of_many_rows(shape: tuple[int, ...], dynamic: bool) -> None:
    """Added one row after the other, they would be off by some 1e-5, and variances by more."""

    def sums(x):
        axes = tuple(range(x.ndim - 1))
        return x.sum(axes), (x * x).sum(axes), x.mean(axes), x.var(axes), x[::2].sum(axes)

    x = np.random.default_rng(0).random(shape, np.float32) + 0.5
    tensor = flamec.from_numpy(x)
    exact = [r.numpy() for r in sums(tensor.double())]
    program = flamec.compile(sums, dynamic=dynamic, backend="c")
    for found in (program(tensor), sums(tensor)):
        for one, other in zip(found, exact, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=1e-6)


def test_dot_products_are_sums_that_are_fused() -> None:
    program = flamec.compile(lambda x, y: (x * 2) @ (y + 1), backend="c")
    x, y = flamec.randn(100_000), flamec.randn(100_000)
    found = program(x, y).item()
    exact = ((x.numpy() * 2).astype(np.float64) * (y + 1).numpy()).sum()
    assert abs(found - exact) < 1e-3
    assert [k.kind for k in program.programs[0].prepared.compiled.kernels] == ["reduction"]


def test_products_do_not_overflow_on_the_way() -> None:
    """Eager and compiled, float32 products are float64 ones until the end."""
    x = flamec.tensor([1e30, 1e30, 1e-30, 1e-30])
    assert x.prod().item() == pytest.approx(1)
    assert flamec.compile(lambda x: x.prod(), backend="c")(x).item() == pytest.approx(1)
    assert (x * 1e9).prod().item() == np.inf


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", [(1_048_583,), (3, 70_001), (1,)])
def test_positions_in_everything(shape: tuple[int, ...], dynamic: bool) -> None:
    """The first of equal ones; a number that is none is both the greatest and the least."""
    f = flamec.compile(
        lambda x: (x.argmax(), x.argmin(), x.sum(), (x * 2).argmax(-1)),
        dynamic=dynamic,
        backend="c",
    )
    rng = np.random.default_rng(0)
    for spoiled in (False, True):
        x = rng.integers(-1000, 1000, shape).astype(np.float32)
        if spoiled:
            x.reshape(-1)[x.size // 2 :: 7] = np.nan
        greatest, least, _, last = f(flamec.from_numpy(x))
        assert (greatest.item(), least.item()) == (x.argmax(), x.argmin())
        np.testing.assert_array_equal(last.numpy(), x.argmax(-1))
