"""Linear algebra: derivatives of every order against differences, compiled against eager.

Values are compared with PyTorch in ``tests/parity/test_linalg_parity.py`` and with NumPy by the op
table; here functions are differentiated that do not depend on the signs of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from finite_differences import differences

import flamec
from flamec import linalg

Function = Callable[..., flamec.Tensor]
BATCH = 2


def eye(x: flamec.Tensor) -> flamec.Tensor:
    return flamec.eye(x.shape[-1], dtype=x.dtype, device=x.device)


def symmetric(x: flamec.Tensor) -> flamec.Tensor:
    return x + x.mT + flamec.diag(flamec.arange(float(x.shape[-1])).to(x.dtype) * 3)


def positive(x: flamec.Tensor) -> flamec.Tensor:
    return x @ x.mT + 2 * eye(x)


def regular(x: flamec.Tensor) -> flamec.Tensor:
    return x + 3 * eye(x)


def weights(x: flamec.Tensor) -> flamec.Tensor:
    """The same numbers at each call, one for each element."""
    count = int(np.prod(x.shape))
    return flamec.arange(float(count)).to(x.dtype).sin().reshape(x.shape)


def projected(vectors: flamec.Tensor) -> flamec.Tensor:
    """Sums of outer products of columns, which do not depend on their signs."""
    columns = [vectors[..., i : i + 1] for i in range(vectors.shape[-1])]
    return sum((i + 1) * c @ c.mT for i, c in enumerate(columns))  # type: ignore[return-value]


def svd_vectors(x: flamec.Tensor) -> flamec.Tensor:
    u, s, vh = linalg.svd(x, full_matrices=False)
    return u @ flamec.diag_embed(s.exp()) @ vh


def qr_signed(x: flamec.Tensor) -> flamec.Tensor:
    q, r = linalg.qr(x)
    k = r.shape[-2]
    sign = flamec.diagonal(r, 0, -2, -1)[..., :k].detach().sign()
    return flamec.cat([(q * sign[..., None, :]).flatten(-2), (r * sign[..., None]).flatten(-2)], -1)


def lu_parts(x: flamec.Tensor) -> flamec.Tensor:
    p, low, up = linalg.lu(x)
    return flamec.cat([low.sin(), up.cos(), p], -1)


SQUARE, TALL, WIDE = (BATCH, 3, 3), (BATCH, 4, 2), (BATCH, 2, 4)
CASES: dict[str, tuple[Function, tuple[tuple[int, ...], ...]]] = {
    "cholesky": (lambda x: linalg.cholesky(positive(x)), (SQUARE,)),
    "cholesky_upper": (lambda x: linalg.cholesky(positive(x), upper=True), (SQUARE,)),
    "cholesky_solve": (
        lambda x, b: flamec.cholesky_solve(b, linalg.cholesky(positive(x))),
        (SQUARE, (BATCH, 3, 2)),
    ),
    "solve": (lambda x, b: linalg.solve(regular(x), b), (SQUARE, (BATCH, 3, 2))),
    "solve_vector": (lambda x, b: linalg.solve(regular(x), b), ((3, 3), (3,))),
    "solve_right": (
        lambda x, b: linalg.solve(regular(x), b, left=False),
        (SQUARE, (BATCH, 2, 3)),
    ),
    "solve_broadcast": (lambda x, b: linalg.solve(regular(x), b), ((3, 3), (BATCH, 3, 2))),
    "triangular": (
        lambda x, b: linalg.solve_triangular(regular(x), b, upper=True),
        (SQUARE, (BATCH, 3, 2)),
    ),
    "triangular_unit": (
        lambda x, b: linalg.solve_triangular(x, b, upper=False, unitriangular=True),
        (SQUARE, (BATCH, 3, 2)),
    ),
    "inv": (lambda x: linalg.inv(regular(x)), (SQUARE,)),
    "det": (linalg.det, (SQUARE,)),
    "slogdet": (lambda x: linalg.slogdet(regular(x)).logabsdet, (SQUARE,)),
    "logdet": (lambda x: flamec.logdet(positive(x)), (SQUARE,)),
    "eigvalsh": (lambda x: linalg.eigvalsh(symmetric(x)), (SQUARE,)),
    "eigh_vectors": (lambda x: projected(linalg.eigh(symmetric(x))[1]), (SQUARE,)),
    "eigh": (
        lambda x: (lambda w, v: v @ flamec.diag_embed(w.sin()) @ v.mT)(*linalg.eigh(symmetric(x))),
        (SQUARE,),
    ),
    "svdvals": (linalg.svdvals, (TALL,)),
    "svd_tall": (svd_vectors, (TALL,)),
    "svd_wide": (svd_vectors, (WIDE,)),
    "svd_u": (lambda x: projected(linalg.svd(x, False).U), (TALL,)),
    "svd_v": (lambda x: projected(linalg.svd(x, False).Vh.mT), (WIDE,)),
    "qr_square": (qr_signed, (SQUARE,)),
    "qr_tall": (qr_signed, (TALL,)),
    "qr_wide": (qr_signed, (WIDE,)),
    "lu": (lu_parts, (SQUARE,)),
    "lu_tall": (lambda x: linalg.lu(x).L.sin() @ linalg.lu(x).U.cos(), (TALL,)),
    "lu_wide": (lambda x: linalg.lu(x).L.sin() @ linalg.lu(x).U.cos(), (WIDE,)),
    "lu_solve": (
        lambda x, b: linalg.lu_solve(*linalg.lu_factor(x), b),
        (SQUARE, (BATCH, 3, 2)),
    ),
    "pinv_tall": (linalg.pinv, (TALL,)),
    "pinv_wide": (linalg.pinv, (WIDE,)),
    "lstsq": (lambda x, b: linalg.lstsq(x, b).solution, (WIDE, (BATCH, 2, 3))),
    "matrix_exp": (linalg.matrix_exp, (SQUARE,)),
    "matrix_power": (lambda x: linalg.matrix_power(regular(x), -2), (SQUARE,)),
    "multi_dot": (lambda x, y, z: linalg.multi_dot([x, y, z]), ((2, 3), (3, 4), (4,))),
    "norm": (lambda x: linalg.norm(x, 3, dim=1), (SQUARE,)),
    "nuclear_norm": (lambda x: linalg.matrix_norm(x, "nuc"), (WIDE,)),
    "spectral_norm": (lambda x: linalg.matrix_norm(x, 2), (WIDE,)),
    "norm_1": (lambda x: linalg.matrix_norm(x, 1, keepdim=True), (WIDE,)),
    "cond": (linalg.cond, (TALL,)),
    "cond_1": (lambda x: linalg.cond(regular(x), 1), (SQUARE,)),
    "vander": (linalg.vander, ((3,),)),
    "tensorsolve": (
        lambda x, b: linalg.tensorsolve(regular(x).reshape(2, 2, 4), b),
        ((4, 4), (2, 2)),
    ),
}
every_case = pytest.mark.parametrize(("function", "shapes"), CASES.values(), ids=list(CASES))


def drawn(shapes: tuple[tuple[int, ...], ...], seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(-1, 1, shape) for shape in shapes]


def tensors(arrays: list[np.ndarray], grad: bool = False) -> list[flamec.Tensor]:
    return [flamec.tensor(a).requires_grad_(grad) for a in arrays]


def total(function: Function, operands: list[flamec.Tensor]) -> flamec.Tensor:
    result = function(*operands)
    return (result * weights(result)).sum()


@every_case
def test_gradient(function: Function, shapes: Any) -> None:
    arrays = drawn(shapes, 1)
    operands = tensors(arrays, True)
    found = flamec.autograd.grad(total(function, operands), operands)
    wanted = differences(lambda moved: total(function, tensors(moved)).item(), arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)


def slope(function: Function, operands: list[flamec.Tensor], create: bool) -> flamec.Tensor:
    first = flamec.autograd.grad(total(function, operands), operands, create_graph=create)
    return sum((g * weights(g)).sum() for g in first)  # type: ignore[return-value]


@every_case
def test_second_gradient(function: Function, shapes: Any) -> None:
    arrays = drawn(shapes, 2)
    operands = tensors(arrays, True)
    found = flamec.autograd.grad(slope(function, operands, True), operands, materialize_grads=True)
    wanted = differences(lambda m: slope(function, tensors(m, True), False).item(), arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=2e-5, atol=1e-5)


@every_case
def test_compiled_step_equals_eager(function: Function, shapes: Any) -> None:
    """Value and gradient in one program."""

    def step(*operands: flamec.Tensor) -> Any:
        value = total(function, list(operands))
        return (value, *flamec.autograd.grad(value, operands))

    arrays = drawn(shapes, 3)
    found = flamec.compile(step)(*tensors(arrays, True))
    wanted = step(*tensors(arrays, True))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-10)


def test_sizes_of_compiled_functions_vary() -> None:
    compiled = flamec.compile(lambda x, b: linalg.solve(regular(x), b) + linalg.inv(regular(x)) @ b)
    for size in (3, 5, 4, 7):
        x, b = tensors(drawn(((size, size), (size, 2)), size))
        np.testing.assert_allclose(
            compiled(x, b).numpy(), 2 * np.linalg.solve(x.numpy() + 3 * np.eye(size), b.numpy())
        )
    assert compiled.stats.traces <= 2


def test_the_determinant_of_a_singular_matrix_has_a_gradient() -> None:
    x = flamec.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
    linalg.det(x).backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [[4, -2], [-2, 1]], atol=1e-5)


def test_what_is_not_unique_has_no_derivative() -> None:
    x = flamec.tensor(drawn((TALL,), 0)[0], requires_grad=True)
    with pytest.raises(RuntimeError, match="mode='complete'"):
        linalg.qr(x, "complete").Q.sum().backward()


def test_on_a_gpu(gpu: Any) -> None:
    (array,) = drawn((SQUARE,), 4)
    x = flamec.tensor(array, device=gpu)
    inverse = linalg.inv(regular(x))
    assert inverse.device == gpu
    np.testing.assert_allclose(inverse.cpu().numpy(), np.linalg.inv(array + 3 * np.eye(3)))
    compiled = flamec.compile(lambda x: linalg.cholesky(positive(x)) * 2)
    wanted = 2 * np.linalg.cholesky(array @ array.swapaxes(1, 2) + 2 * np.eye(3))
    np.testing.assert_allclose(compiled(x).cpu().numpy(), wanted, rtol=1e-12, atol=1e-12)


def beyond(x: flamec.Tensor) -> flamec.Tensor:
    """Projections on the columns that full matrices have beyond the singular values."""
    u, s, vh = linalg.svd(x)
    k = s.shape[-1]
    w, z = u[..., k:], vh[..., k:, :]
    parts = [(v @ v.mT).flatten() for v in (w, z.mT)]
    return flamec.cat([*parts, projected(u[..., :k]).flatten(), s.flatten()])


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (2, 5, 2)])
def test_spaces_beyond_the_singular_values_have_derivatives(shape: tuple[int, ...]) -> None:
    x = flamec.tensor(drawn((shape,), 3)[0], requires_grad=True)
    assert flamec.autograd.gradcheck(beyond, (x,))
    assert flamec.autograd.gradgradcheck(beyond, (x,))


def test_failures_are_numbers_on_request() -> None:
    """And NaN or infinity where a matrix has no factor or no inverse."""
    good, bad = np.array([[4.0, 2.0], [2.0, 3.0]]), np.array([[1.0, 2.0], [2.0, 4.0]])
    x = flamec.tensor(np.stack([good, bad, -good]), requires_grad=True)
    factor, info = linalg.cholesky_ex(x)
    assert info.dtype is flamec.int32 and info.tolist() == [0, 2, 1]
    np.testing.assert_allclose(factor[0].detach().numpy(), np.linalg.cholesky(good))
    assert factor[1:].isnan().all()
    factor[0].sum().backward()
    assert x.grad is not None and np.isfinite(x.grad.numpy()).all()
    upper = linalg.cholesky_ex(x, upper=True).L
    np.testing.assert_allclose(upper[0].detach().numpy(), np.linalg.cholesky(good).T)
    inverse, info = linalg.inv_ex(x)
    assert info.tolist() == [0, 2, 0]
    np.testing.assert_allclose(inverse[2].detach().numpy(), np.linalg.inv(-good))
    result, info = linalg.solve_ex(x, flamec.ones(3, 2, dtype=flamec.float64))
    assert info.tolist() == [0, 2, 0]
    np.testing.assert_allclose(result[0].detach().numpy(), np.linalg.solve(good, np.ones(2)))
    assert linalg.lu_factor_ex(x).info.tolist() == [0, 2, 0]
    compiled = flamec.compile(lambda x: linalg.cholesky_ex(x).info + linalg.inv_ex(x).info)
    assert compiled(x).tolist() == [0, 4, 1]
    for function in (linalg.inv_ex, linalg.lu_factor_ex, linalg.cholesky_ex):
        with pytest.raises(flamec.linalg.LinAlgError, match="Batch element 1"):
            function(x, check_errors=True)
    assert linalg.lu_factor_ex(flamec.zeros(2, 0, 0)).info.tolist() == [0, 0]


def test_tolerances_of_any_size_take_one_program() -> None:
    """max(m, n) eps is that of the matrix at hand."""

    def function(a: Any) -> Any:
        return linalg.pinv(a), linalg.matrix_rank(a), linalg.lstsq(a, a[:, :1]).solution

    compiled = flamec.compile(function, dynamic=True, fullgraph=True)
    generator = np.random.default_rng(0)
    for rows, columns in ((9, 4), (30, 7), (200, 2), (4, 4)):
        array = generator.standard_normal((rows, columns))
        array[:, 1] = array[:, 0] * (1 + 100 * rows * np.finfo(float).eps)
        inverse, rank, solution = compiled(flamec.from_numpy(array))
        eager_inverse, _, eager_solution = function(flamec.from_numpy(array))
        np.testing.assert_allclose(inverse.numpy(), eager_inverse.numpy(), 1e-9, 1e-9)
        np.testing.assert_allclose(solution.numpy(), eager_solution.numpy(), 1e-9, 1e-9)
        assert int(rank) == np.linalg.matrix_rank(array)
    assert compiled.stats.traces == 1
