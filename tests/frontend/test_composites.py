"""Composite functions: NumPy oracle, finite differences, and the compiled form, for each row.

A row is a function of tensors, the same of NumPy arrays in float64 (or Python), and the
intervals that the operands are drawn from. Each is checked eagerly in float64,
float32 and float16, on non-contiguous and empty operands, for first and second
derivatives against central differences, and compiled with two batch sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.special
from finite_differences import differences

import flamec

Interval = tuple[float, float]
ANY: Interval = (-2.0, 2.0)
POSITIVE: Interval = (0.3, 2.5)
INSIDE: Interval = (-0.9, 0.9)
UNIT: Interval = (0.1, 0.9)


@dataclass(frozen=True)
class Row:
    name: str
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    domains: Sequence[Interval] = (ANY,)
    shapes: Sequence[tuple[int, ...]] | None = None
    differentiable: bool = True
    empty: bool = True  # accepts a first dimension of size 0
    loosen: float = 1.0

    def arrays(self, rows: int = 3, seed: int = 0) -> list[np.ndarray]:
        generator = np.random.default_rng(seed)
        shapes = self.shapes or [(rows, 4)] * len(self.domains)
        if self.shapes is not None:
            shapes = [tuple(rows if d == -1 else d for d in s) for s in shapes]
        return [generator.uniform(*d, s) for d, s in zip(self.domains, shapes, strict=True)]

    def __str__(self) -> str:
        return self.name


def _log_cumsum(x: np.ndarray) -> np.ndarray:
    return np.logaddexp.accumulate(x, axis=1)


def _distances(p: float) -> Callable[..., np.ndarray]:
    def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.array([[np.linalg.norm(a - b, p) for b in y] for a in x]).reshape(len(x), len(y))

    return distances


def _quantile(q: Any, dim: int | None = 1, name: str = "quantile") -> Callable[..., flamec.Tensor]:
    """Quantiles, which are not defined for 16-bit floats, rounded to the operand's dtype."""

    def quantile(x: flamec.Tensor) -> flamec.Tensor:
        wide = x.float() if x.dtype.is_half else x
        level = q if isinstance(q, float) else flamec.tensor(q, dtype=wide.dtype)
        return getattr(flamec, name)(wide, level, dim).to(x.dtype)

    return quantile


F = flamec
TWO = (ANY, ANY)
ROWS = [
    Row("exp2", F.exp2, lambda x: 2.0**x),
    Row("log2", F.log2, lambda x: np.log(x) / np.log(2), (POSITIVE,)),
    Row("rsqrt", F.rsqrt, lambda x: x**-0.5, (POSITIVE,)),
    Row("reciprocal", F.reciprocal, lambda x: 1 / x, (POSITIVE,)),
    Row("square", F.square, lambda x: x * x),
    Row("sinc", F.sinc, np.sinc),
    Row("logit", F.logit, scipy.special.logit, (UNIT,)),
    Row(
        "logit_eps",
        lambda x: F.logit(x, 0.2),
        lambda x: scipy.special.logit(np.clip(x, 0.2, 0.8)),
        (UNIT,),
    ),
    Row("deg2rad", F.deg2rad, np.deg2rad),
    Row("rad2deg", F.rad2deg, np.rad2deg),
    Row("frac", F.frac, lambda x: np.modf(x)[0]),
    Row("erfinv", F.erfinv, scipy.special.erfinv, (INSIDE,), loosen=4),
    Row("digamma", F.digamma, scipy.special.digamma, (POSITIVE,), loosen=4),
    Row("nan_to_num", F.nan_to_num, np.nan_to_num),
    Row("add_alpha", lambda x, y: F.add(x, y, alpha=3), lambda x, y: x + 3 * y, TWO),
    Row("rsub", lambda x: 2 - x, lambda x: 2 - x),
    Row("rdiv", lambda x: 2 / x, lambda x: 2 / x, (POSITIVE,)),
    Row("pow_number", lambda x: x**2.5, lambda x: x**2.5, (POSITIVE,), loosen=4),
    Row("number_pow", lambda x: 2.5**x, lambda x: 2.5**x, loosen=4),
    Row("pow_minus_two", lambda x: x**-2, lambda x: x**-2.0, (POSITIVE,), loosen=4),
    Row("pow_half", lambda x: x**0.5, np.sqrt, (POSITIVE,)),
    Row("remainder", lambda x: x % 0.7, lambda x: np.mod(x, 0.7), loosen=20),
    Row("fmod", lambda x: F.fmod(x, 0.7), lambda x: np.fmod(x, 0.7), loosen=20),
    Row("clamp", lambda x: F.clamp(x, -0.5, 1), lambda x: np.clip(x, -0.5, 1)),
    Row("clamp_tensors", F.clamp, np.clip, (ANY, (-2.0, -1.0), (1.0, 2.0))),
    Row("fmax", F.fmax, np.fmax, TWO),
    Row("fmin", F.fmin, np.fmin, TWO),
    Row("where", lambda x, y: F.where(x > 0, x, y), lambda x, y: np.where(x > 0, x, y), TWO),
    Row("lerp", lambda x, y: F.lerp(x, y, 0.3), lambda x, y: x + 0.3 * (y - x), TWO),
    Row("lerp_tensor", F.lerp, lambda x, y, w: x + w * (y - x), (ANY, ANY, UNIT)),
    Row(
        "addcmul",
        lambda x, y, z: F.addcmul(x, y, z, value=0.5),
        lambda x, y, z: x + y * z / 2,
        (ANY, ANY, ANY),
    ),
    Row(
        "addcdiv",
        lambda x, y, z: F.addcdiv(x, y, z, value=0.5),
        lambda x, y, z: x + y / z / 2,
        (ANY, ANY, POSITIVE),
    ),
    Row("hypot", F.hypot, np.hypot, TWO),
    Row("ldexp", F.ldexp, lambda x, y: x * 2.0**y, TWO),
    Row("xlogy", F.xlogy, scipy.special.xlogy, (ANY, POSITIVE)),
    Row("logaddexp", F.logaddexp, np.logaddexp, TWO),
    Row("logaddexp2", F.logaddexp2, np.logaddexp2, TWO),
    Row("atan2", F.atan2, np.arctan2, TWO),
    Row("broadcast", lambda x, y: x * y - y, lambda x, y: x * y - y, TWO, [(-1, 1), (4,)]),
    Row("sum", lambda x: F.sum(x, 1), lambda x: x.sum(1)),
    Row("sum_all", F.sum, np.sum, loosen=4),
    Row("mean", lambda x: F.mean(x, -1, keepdim=True), lambda x: x.mean(1, keepdims=True)),
    Row("mean_rows", lambda x: F.mean(x, 0), lambda x: x.mean(0), empty=False),
    Row("prod", lambda x: F.prod(x, 1), lambda x: x.prod(1)),
    Row("var", lambda x: F.var(x, 1), lambda x: x.var(1, ddof=1), loosen=4),
    Row("var_zero", lambda x: F.var(x, correction=0), np.var, empty=False, loosen=4),
    Row("std", lambda x: F.std(x, 1), lambda x: x.std(1, ddof=1), loosen=4),
    Row(
        "std_mean",
        lambda x: sum(F.std_mean(x, 1, keepdim=True)),
        lambda x: x.std(1, ddof=1, keepdims=True) + x.mean(1, keepdims=True),
        loosen=4,
    ),
    Row("logsumexp", lambda x: F.logsumexp(x, 1), lambda x: scipy.special.logsumexp(x, 1)),
    Row("norm", lambda x: F.norm(x, dim=1), lambda x: np.linalg.norm(x, axis=1)),
    Row("norm_one", lambda x: F.norm(x, 1), lambda x: np.abs(x).sum(), loosen=4),
    Row("norm_three", lambda x: F.norm(x, 3, 1), lambda x: np.linalg.norm(x, 3, 1), loosen=8),
    Row("norm_inf", lambda x: F.norm(x, float("inf"), 1), lambda x: np.abs(x).max(1)),
    Row("amax", lambda x: F.amax(x, 1), lambda x: x.max(1)),
    Row("max_values", lambda x: F.max(x, 1).values, lambda x: x.max(1)),
    Row("min_values", lambda x: x.min(0)[0], lambda x: x.min(0), empty=False),
    Row("argmax", lambda x: F.argmax(x, 1), lambda x: x.argmax(1), differentiable=False),
    Row("any", lambda x: F.any(x > 1, 1), lambda x: (x > 1).any(1), differentiable=False),
    Row("all", lambda x: F.all(x > -1), lambda x: (x > -1).all(), differentiable=False),
    Row(
        "count_nonzero",
        lambda x: F.count_nonzero(x > 0, 1),
        lambda x: (x > 0).sum(1),
        differentiable=False,
    ),
    Row("cumsum", lambda x: F.cumsum(x, 1), lambda x: x.cumsum(1), loosen=4),
    Row("cumprod", lambda x: F.cumprod(x, 1), lambda x: x.cumprod(1), loosen=4),
    Row("cummax", lambda x: F.cummax(x, 1).values, lambda x: np.maximum.accumulate(x, 1)),
    Row("logcumsumexp", lambda x: F.logcumsumexp(x, 1), _log_cumsum, loosen=4),
    Row("diff", lambda x: F.diff(x, n=2), lambda x: np.diff(x, n=2), loosen=4),
    Row("trapezoid", lambda x: F.trapezoid(x, dx=0.5), lambda x: np.trapezoid(x, dx=0.5), loosen=4),
    Row("cov", F.cov, np.cov, empty=False, loosen=8),
    Row("corrcoef", F.corrcoef, np.corrcoef, empty=False, loosen=8),
    Row("matmul", F.matmul, np.matmul, TWO, [(-1, 4), (4, 2)], loosen=8),
    Row("matmul_batched", F.matmul, np.matmul, TWO, [(-1, 3, 4), (4, 2)], loosen=8),
    Row("matmul_broadcast", F.matmul, np.matmul, TWO, [(-1, 1, 3, 4), (2, 4, 2)], loosen=8),
    Row("matmul_left_matrix", F.matmul, np.matmul, TWO, [(3, 4), (-1, 4, 2)], loosen=8),
    Row("matmul_vector", F.matmul, np.matmul, TWO, [(4,), (-1, 4, 2)], loosen=8),
    Row("bmm", F.bmm, np.matmul, TWO, [(-1, 3, 4), (-1, 4, 2)], loosen=8),
    Row("mv", F.mv, np.matmul, TWO, [(-1, 4), (4,)], loosen=8),
    Row("dot", F.dot, np.dot, TWO, [(-1,), (-1,)], loosen=8),
    Row("inner", F.inner, np.inner, TWO, [(-1, 4), (2, 4)], loosen=8),
    Row("outer", F.outer, np.outer, TWO, [(-1,), (3,)]),
    Row("kron", F.kron, np.kron, TWO, [(-1, 2), (2, 3)]),
    Row("cross", lambda x, y: F.cross(x, y, dim=1), np.cross, TWO, [(-1, 3), (-1, 3)], loosen=8),
    Row("trace", F.trace, np.trace, (ANY,), [(4, 4)], loosen=4),
    Row(
        "matrix_power",
        lambda x: F.matrix_power(x, 3),
        lambda x: x @ x @ x,
        (ANY,),
        [(3, 3)],
        loosen=20,
    ),
    Row("cdist", F.cdist, _distances(2), TWO, [(-1, 4), (2, 4)], loosen=8),
    Row(
        "cdist_one",
        lambda x, y: F.cdist(x, y, p=1),
        _distances(1),
        TWO,
        [(-1, 4), (2, 4)],
        loosen=8,
    ),
    Row("tensordot", F.tensordot, np.tensordot, TWO, [(-1, 3, 4), (3, 4, 2)], loosen=16),
    Row(
        "einsum",
        lambda x, y, z: F.einsum("bij,kj,b->ik", x, y, z),
        lambda x, y, z: np.einsum("bij,kj,b->ik", x, y, z),
        (ANY, ANY, ANY),
        [(-1, 3, 4), (2, 4), (-1,)],
        loosen=16,
    ),
    Row(
        "einsum_diagonal",
        lambda x: F.einsum("bii->b", x),
        lambda x: np.einsum("bii->b", x),
        (ANY,),
        [(-1, 3, 3)],
        loosen=4,
    ),
    Row(
        "addmm",
        lambda x, y, z: F.addmm(x, y, z, beta=0.5, alpha=2),
        lambda x, y, z: 0.5 * x + 2 * (y @ z),
        (ANY,) * 3,
        [(2,), (-1, 4), (4, 2)],
        loosen=16,
    ),
    Row(
        "baddbmm",
        F.baddbmm,
        lambda x, y, z: x + y @ z,
        (ANY,) * 3,
        [(-1, 3, 2), (-1, 3, 4), (-1, 4, 2)],
        loosen=16,
    ),
    Row("sort", lambda x: F.sort(x, 0).values, lambda x: np.sort(x, 0)),
    Row("sort_back", lambda x: x.sort(descending=True)[0], lambda x: -np.sort(-x, 1)),
    Row("argsort", F.argsort, lambda x: np.argsort(x, 1), differentiable=False),
    Row("topk", lambda x: x.topk(2, 1).values, lambda x: -np.sort(-x, 1)[:, :2]),
    Row("smallest", lambda x: x.topk(3, largest=False)[0], lambda x: np.sort(x, 1)[:, :3]),
    Row("kthvalue", lambda x: x.kthvalue(2, 1, True)[0], lambda x: np.sort(x, 1)[:, 1:2]),
    Row("median", lambda x: x.median(1).values, lambda x: np.sort(x, 1)[:, 1]),
    Row(
        "median_of_all",
        F.median,
        lambda x: np.sort(x, None)[(x.size - 1) // 2],
        empty=False,
    ),
    Row("mode", lambda x: x.mode().values, lambda x: np.min(x, 1), empty=False),
    Row("quantile", _quantile(0.3), lambda x: np.quantile(x, 0.3, 1), empty=False),
    Row(
        "quantiles",
        _quantile([0.0, 0.6, 0.95]),
        lambda x: np.quantile(x, [0, 0.6, 0.95], 1),
        empty=False,
    ),
    Row(
        "nanquantile",
        _quantile(0.7, None, "nanquantile"),
        lambda x: np.nanquantile(x, 0.7),
        empty=False,
    ),
    Row(
        "searchsorted",
        lambda x, y: F.searchsorted(x.sort(1).values, y),
        lambda x, y: (np.sort(x, 1)[:, None] < y[:, :, None]).sum(-1),
        TWO,
        differentiable=False,
    ),
    Row(
        "search_in_line",
        lambda x, y: F.searchsorted(x.flatten().sort().values, y, right=True),
        lambda x, y: (x.ravel() <= y[:, :, None]).sum(-1),
        TWO,
        differentiable=False,
    ),
    Row(
        "isin",
        lambda x, y: F.isin(x.round(), y.round()),
        lambda x, y: np.isin(np.rint(x), np.rint(y)),
        TWO,
        differentiable=False,
    ),
    Row(
        "histc",
        lambda x: F.histc(x, 5, -1.5, 2),
        lambda x: np.histogram(x, 5, (-1.5, 2))[0].astype(float),
        differentiable=False,
    ),
]  # fmt: skip

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
differentiable = pytest.mark.parametrize("row", [r for r in ROWS if r.differentiable], ids=str)

TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 4e-3}


def tensors(arrays: Sequence[np.ndarray], dtype: str = "float64") -> list[flamec.Tensor]:
    return [flamec.tensor(a, dtype=getattr(flamec, dtype)) for a in arrays]


def values(x: flamec.Tensor) -> np.ndarray:
    array = x.detach().numpy()
    return array.astype(np.float64) if x.is_floating_point() else array


def agree(row: Row, found: flamec.Tensor, wanted: Any, dtype: str, factor: float = 1.0) -> None:
    tolerance = TOLERANCE[dtype] * row.loosen * factor
    assert tuple(found.shape) == np.shape(wanted)
    np.testing.assert_allclose(values(found), wanted, rtol=tolerance, atol=tolerance)


@every_row
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_values(row: Row, dtype: str) -> None:
    operands = tensors(row.arrays(), dtype)
    wanted = row.oracle(*(values(x) for x in operands))
    found = row.function(*operands)
    if found.is_floating_point():
        assert found.dtype is getattr(flamec, dtype)
    agree(row, found, wanted, dtype)


@every_row
def test_strided_operands(row: Row) -> None:
    arrays = row.arrays()
    views = []
    for array in arrays:
        wide = np.repeat(array, 2, axis=-1)  # every second element of the transposed transposed
        view = flamec.tensor(wide.T.copy()).permute(*range(array.ndim - 1, -1, -1))[..., ::2]
        views.append(view)
    agree(row, row.function(*views), row.oracle(*arrays), "float64")


@every_row
def test_no_rows(row: Row) -> None:
    if not row.empty:
        pytest.skip("needs a row")
    arrays = row.arrays(rows=0)
    with np.errstate(all="ignore"):
        wanted = row.oracle(*arrays)
    agree(row, row.function(*tensors(arrays)), wanted, "float64")


def weighted(row: Row, operands: Sequence[flamec.Tensor]) -> flamec.Tensor:
    """A scalar in which each element of the result has its own weight."""
    result = row.function(*operands)
    weights = np.random.default_rng(5).uniform(0.5, 1.5, tuple(result.shape))
    return (result * flamec.tensor(weights)).sum()


@differentiable
def test_gradient_equals_finite_differences(row: Row) -> None:
    arrays = row.arrays(rows=2, seed=1)
    operands = [x.requires_grad_() for x in tensors(arrays)]
    found = flamec.autograd.grad(weighted(row, operands), operands)
    wanted = differences(lambda moved: weighted(row, tensors(moved)).item(), arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(values(a), b, rtol=1e-6, atol=1e-7)


@differentiable
def test_second_gradient_equals_finite_differences(row: Row) -> None:
    arrays = row.arrays(rows=2, seed=2)

    def slope(arrays: list[np.ndarray], create_graph: bool) -> tuple[Any, Any]:
        operands = [x.requires_grad_() for x in tensors(arrays)]
        first = flamec.autograd.grad(weighted(row, operands), operands, create_graph=create_graph)
        total = sum((g * g).sum() for g in first)
        return total, operands

    total, operands = slope(arrays, True)
    if not total.requires_grad:
        pytest.skip("the gradient does not depend on the operands")
    found = flamec.autograd.grad(total, operands, materialize_grads=True)
    wanted = differences(lambda moved: slope(moved, False)[0].item(), arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(values(a), b, rtol=2e-5, atol=2e-6)


@every_row
def test_compiled_equals_eager(row: Row) -> None:
    compiled = flamec.compile(row.function)
    for rows in (3, 5, 2):
        operands = tensors(row.arrays(rows), "float32")
        agree(row, compiled(*operands), values(row.function(*operands)), "float32")
    assert compiled.stats.traces <= 2
