"""Rows of the operations on matrices, with oracles by SciPy, by definition, or by elimination."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg
from op_row import Attributes, Draw, Row, Sample, bad, tensor

from flamec.ir.types import DType, float32, float64, int32

DTYPES = (float32, float64)
X = tensor(2, 3, dtype=float32)
SQUARE = tensor(3, 3, dtype=float32)
BATCHES = ((), (2,), (2, 0), (1, 2))
Oracle = Callable[..., Any]


def each(function: Oracle) -> Oracle:
    """An oracle of one matrix as one of batches; the sample is given first."""

    def oracle(sample: Sample, *arrays: np.ndarray) -> Any:
        batch = arrays[0].shape[:-2]
        results = [function(sample, *(a[i] for a in arrays)) for i in np.ndindex(*batch)]
        if not results:  # the shapes are those of one matrix of ones
            ones = function(sample, *(np.eye(*a.shape[-2:]) for a in arrays))
            several = ones if isinstance(ones, tuple) else (ones,)
            empty = tuple(np.zeros((*batch, *np.shape(r))) for r in several)
            return empty if isinstance(ones, tuple) else empty[0]
        if isinstance(results[0], tuple):
            return tuple(
                np.array(part).reshape((*batch, *np.shape(part[0])))
                for part in zip(*results, strict=True)
            )
        return np.array(results).reshape((*batch, *np.shape(results[0])))

    return oracle


def matrices(
    shapes: tuple[tuple[int, ...], ...], *choices: Attributes, regular: bool = False
) -> Callable[[Draw], list[Sample]]:
    """Operands of these shapes in batches; ``regular``: the first one is well conditioned."""

    def make(draw: Draw) -> list[Sample]:
        samples = []
        for attributes in choices or ({},):
            for batch in BATCHES:
                arrays = [draw(*batch, *shape) for shape in shapes]
                if regular:
                    arrays[0] = arrays[0] + 6 * np.eye(shapes[0][-1], dtype=arrays[0].dtype)
                samples.append(Sample(tuple(arrays), attributes))
        return samples

    return make


def positive(x: np.ndarray) -> np.ndarray:
    """Positive definite matrices made of square ones."""
    product = x @ np.swapaxes(x, -1, -2) + 4 * np.eye(x.shape[-1], dtype=x.dtype)
    return np.asarray(product, x.dtype)


def symmetric(x: np.ndarray) -> np.ndarray:
    return np.asarray(x + np.swapaxes(x, -1, -2))


def symmetric_samples(draw: Draw) -> list[Sample]:
    """With eigenvalues that lie apart."""
    samples = matrices(((3, 3),), {"lower": True}, {"lower": False})(draw)
    apart = np.diag([0.0, 9.0, 18.0])
    return [
        Sample((np.asarray(symmetric(s.arrays[0]) + apart, s.arrays[0].dtype),), s.attributes)
        for s in samples
    ]


def positive_samples(draw: Draw) -> list[Sample]:
    return [Sample((positive(draw(*batch, 4, 4)),)) for batch in (*BATCHES, (3,))]


def batched(*shapes: tuple[int, ...], **attributes: Any) -> Any:
    """Operands in a batch of symbolic size."""

    def symbolic(B: Any, dtype: DType) -> Any:
        return tuple(tensor(B, *shape, dtype=dtype) for shape in shapes), attributes

    return symbolic


# oracles -----------------------------------------------------------------------------------
def cholesky(sample: Sample, a: np.ndarray) -> np.ndarray:
    """Column by column, by the definition."""
    low = np.zeros_like(a)
    for j in range(len(a)):
        low[j, j] = np.sqrt(a[j, j] - low[j, :j] @ low[j, :j])
        for i in range(j + 1, len(a)):
            low[i, j] = (a[i, j] - low[i, :j] @ low[j, :j]) / low[j, j]
    return low


def failing_minor(sample: Sample, a: np.ndarray) -> np.ndarray:
    """By the signs of determinants (Sylvester's criterion)."""
    low = np.tril(a) + np.tril(a, -1).T
    signs = [np.linalg.det(low[:order, :order]) > 0 for order in range(1, len(a) + 1)]
    return np.asarray(signs.index(False) + 1 if False in signs else 0, np.int32)


def aligned(vectors: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The signs of columns (over which there is no rule) as in ``like``."""
    return np.where((vectors * like).sum(0) < 0, -1, 1)


def eigh(sample: Sample, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower = sample.attributes["lower"]
    values, vectors = scipy.linalg.eigh(a, lower=lower, driver="evr")
    return values, vectors * aligned(vectors, np.linalg.eigh(a, "L" if lower else "U")[1])


def svd(sample: Sample, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    full = sample.attributes["full_matrices"]
    u, s, vh = scipy.linalg.svd(a, full_matrices=full, lapack_driver="gesvd")
    own_u, _, own_vh = np.linalg.svd(a, full_matrices=full)
    return u * aligned(u, own_u), s, vh * aligned(vh.T, own_vh.T)[:, None]


def qr(sample: Sample, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    complete = sample.attributes["complete"]
    q, r = scipy.linalg.qr(a, mode="full" if complete else "economic")
    sign = aligned(q, np.linalg.qr(a, "complete" if complete else "reduced")[0])
    return q * sign, r * sign[:, None]


def lu(sample: Sample, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    packed, pivots = scipy.linalg.lu_factor(a)
    order = list(range(len(a)))
    for k, chosen in enumerate(pivots):
        order[k], order[chosen] = order[chosen], order[k]
    return packed, pivots + 1, np.array(order)


def row_order(sample: Sample, a: np.ndarray, pivots: np.ndarray) -> np.ndarray:
    results = np.zeros(a.shape[:-1], object)
    for place in np.ndindex(*a.shape[:-2]):
        order = list(range(a.shape[-2]))
        for k, chosen in enumerate(pivots[place]):
            order[k], order[chosen - 1] = order[chosen - 1], order[k]
        results[place] = order
    return results


def solve_triangular(sample: Sample, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    options = sample.attributes
    result: np.ndarray = scipy.linalg.solve_triangular(
        a, b, lower=not options["upper"], unit_diagonal=options["unitriangular"]
    )
    return result


def minor(a: np.ndarray, i: int, j: int) -> float:
    return float(determinant(None, np.delete(np.delete(a, i, 0), j, 1)))


def determinant(sample: Any, a: np.ndarray) -> float:
    """Laplace's expansion along the first row."""
    if not len(a):
        return 1.0
    return sum((-1) ** j * a[0, j] * minor(a, 0, j) for j in range(len(a)))


def cofactors(sample: Sample, a: np.ndarray) -> np.ndarray:
    size = range(len(a))
    return np.array([[(-1) ** (i + j) * minor(a, i, j) for j in size] for i in size])


def change_of_cofactors(sample: Sample, a: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Minors of minors: of the rows and columns but i, k and j, l."""
    size = range(len(a))
    result = np.zeros_like(a)
    for i, j, k, l in itertools.product(size, size, size, size):
        if i != k and j != l:
            rest = np.delete(np.delete(a, (i, k), 0), (j, l), 1)
            sign = (-1) ** (i + j + k + l) * (1 if (i < k) == (j < l) else -1)
            result[i, j] += sign * g[k, l] * determinant(None, rest)
    return result


def slogdet(sample: Sample, a: np.ndarray) -> tuple[float, float]:
    value = determinant(None, a)
    return np.sign(value), np.log(abs(value))


def _pivot_samples(draw: Draw) -> list[Sample]:
    rng = draw.rng
    return [
        Sample((draw(*batch, 5, 3), rng.integers(1, 6, (*batch, 3)).astype(np.int32)))
        for batch in BATCHES
    ]


SYSTEM = {"caller": "linalg.solve", "refuse_singular": True}
TRIANGLES = [{"upper": u, "unitriangular": n} for u in (False, True) for n in (False, True)]
LOOSE: Any = {"ulps": 256, "scale": 16.0}

MATRIX_ROWS = [
    Row(
        "cholesky",
        DTYPES,
        positive_samples,
        each(cholesky),
        **LOOSE,
        symbolic=batched((3, 3)),
        admit=positive,
        gradient=(0,),
        direction=symmetric,
        errors=(bad(ValueError, "square", X), bad(ValueError, "at least 2", tensor(3))),
    ),
    Row(
        "failing_minor",
        DTYPES,
        lambda draw: (
            positive_samples(draw)
            + [Sample((s.arrays[0] * sign,)) for s in symmetric_samples(draw) for sign in (1, -1)]
        ),
        each(failing_minor),
        symbolic=batched((3, 3)),
        errors=(bad(ValueError, "square", X),),
    ),
    Row(
        "eigh",
        DTYPES,
        symmetric_samples,
        each(eigh),
        ulps=2048,
        scale=16.0,
        gradient=(0,),
        direction=symmetric,
        symbolic=batched((3, 3), lower=True),
        errors=(bad(ValueError, "square", X, lower=True),),
    ),
    Row(
        "svd",
        DTYPES,
        lambda draw: (
            [
                sample
                for full, shapes in (
                    (False, ((3, 3), (4, 2), (2, 4))),
                    (True, ((3, 3), (3, 2), (2, 3))),
                )
                for shape in shapes
                for sample in matrices((shape,), {"full_matrices": full})(draw)
            ]
        ),
        each(svd),
        gradient=(0,),
        ulps=2048,
        scale=16.0,
        symbolic=batched((3, 2), full_matrices=False),
        errors=(bad(ValueError, "at least 2", tensor(3), full_matrices=True),),
    ),
    Row(
        "qr",
        DTYPES,
        lambda draw: (
            [
                sample
                for shape in ((3, 3), (4, 2), (2, 4))
                for sample in matrices((shape,), {"complete": False})(draw)
            ]
            + matrices(((2, 3),), {"complete": True})(draw)
        ),
        each(qr),
        gradient=(0,),
        ulps=512,
        scale=16.0,
        symbolic=batched((3, 2), complete=False),
        errors=(bad(ValueError, "at least 2", tensor(3), complete=True),),
    ),
    Row(
        "lu",
        DTYPES,
        lambda draw: [sample for s in ((4, 4), (5, 3), (3, 5)) for sample in matrices((s,))(draw)],
        each(lu),
        gradient=(0,),
        **LOOSE,
        symbolic=batched((3, 3)),
        errors=(bad(ValueError, "at least 2", tensor(3)),),
    ),
    Row(
        "row_order",
        DTYPES,
        _pivot_samples,
        row_order,
        symbolic=lambda B, dtype: ((tensor(B, 3, 3, dtype=dtype), tensor(B, 3, dtype=int32)), {}),
        errors=(
            bad(TypeError, "int32", SQUARE, tensor(3)),
            bad(ValueError, "do not belong", SQUARE, tensor(2, dtype=int32)),
        ),
    ),
    Row(
        "solve",
        DTYPES,
        matrices(((3, 3), (3, 2)), SYSTEM, regular=True),
        each(lambda sample, a, b: scipy.linalg.solve(a, b)),
        **LOOSE,
        gradient=(0, 1),
        symbolic=batched((3, 3), (3, 2), **SYSTEM),
        errors=(
            bad(ValueError, "square", X, X, **SYSTEM),
            bad(ValueError, "do not match", SQUARE, X, **SYSTEM),
            bad(TypeError, "dtype", SQUARE, tensor(3, 3), **SYSTEM),
        ),
    ),
    Row(
        "solve_triangular",
        DTYPES,
        matrices(((3, 3), (3, 2)), *TRIANGLES, regular=True),
        each(solve_triangular),
        **LOOSE,
        gradient=(0, 1),
        symbolic=batched((3, 3), (3, 2), **TRIANGLES[0]),
        errors=(bad(ValueError, "do not match", SQUARE, X, **TRIANGLES[0]),),
    ),
    Row(
        "det",
        DTYPES,
        matrices(((3, 3),)),
        each(determinant),
        ulps=256,
        scale=64.0,
        gradient=(0,),
        symbolic=batched((3, 3)),
        errors=(bad(ValueError, "square", X),),
    ),
    Row(
        "cofactors",
        DTYPES,
        matrices(((3, 3),)),
        each(cofactors),
        ulps=512,
        scale=64.0,
        gradient=(0,),
        orders=1,
        symbolic=batched((3, 3)),
        errors=(bad(ValueError, "square", X),),
    ),
    Row(
        "change_of_cofactors",
        DTYPES,
        matrices(((3, 3), (3, 3))),
        each(change_of_cofactors),
        ulps=512,
        scale=64.0,
        gradient=(0, 1),
        orders=1,
        symbolic=batched((3, 3), (3, 3)),
        errors=(
            bad(ValueError, "square", X, X),
            bad(ValueError, "do not match", SQUARE, tensor(2, 2, dtype=float32)),
        ),
    ),
    Row(
        "slogdet",
        DTYPES,
        matrices(((3, 3),), regular=True),
        each(slogdet),
        **LOOSE,
        gradient=(0,),
        symbolic=batched((3, 3)),
        errors=(bad(ValueError, "square", X),),
    ),
    Row(
        "pinv",
        DTYPES,
        lambda draw: [
            sample
            for s in ((3, 3), (4, 2), (2, 4))
            for sample in matrices((s,), {"atol": 0.0, "rtol": 1e-5}, regular=s == (3, 3))(draw)
        ],
        each(lambda sample, a: scipy.linalg.pinv(a)),
        ulps=4096,
        scale=16.0,
        gradient=(0,),
        symbolic=batched((3, 2), atol=0.0, rtol=1e-5),
        errors=(bad(ValueError, "at least 2", tensor(3), atol=0.0, rtol=0.0),),
    ),
    Row(
        "matrix_exp",
        DTYPES,
        matrices(((3, 3),)),
        each(lambda sample, a: scipy.linalg.expm(a)),
        ulps=512,
        scale=64.0,
        gradient=(0,),
        symbolic=batched((3, 3)),
        errors=(bad(ValueError, "square", X),),
    ),
]
