"""First and second gradients against PyTorch, at ordinary points and at kinks, ties and zeros."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from parity_expressions import assert_same, flamec_of

import flamec

torch = pytest.importorskip("torch")

KINKS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0]

AT_KINKS = """
torch.abs(x)
torch.sign(x)
torch.floor(x)
torch.round(x)
torch.trunc(x)
torch.frac(x)
torch.square(x)
torch.clamp(x, -1, 1)
torch.clamp(x, min=0.5)
torch.clamp(x, max=0.5)
torch.clamp(x, 1, -1)
torch.clamp(x, y, y + 1)
torch.clamp_min(x, y)
torch.maximum(x, y)
torch.minimum(x, y)
torch.fmax(x, y)
torch.fmin(x, y)
torch.where(x > 0, x, y)
x.masked_fill(x > 0, 2.0)
torch.nan_to_num(x / x.detach().abs().floor())
torch.amax(x)
torch.amin(torch.floor(x))
x.max(0).values
x.min(0).values
x.max()
x.min()
torch.cummax(x, 0).values
torch.cummin(x, 0).values
torch.prod(x)
torch.prod(x[x != 0])
torch.cumprod(x, 0)
torch.norm(x)
torch.norm(x * 0)
torch.norm(x, 1)
torch.norm(x, inf)
torch.norm(x, 3)
torch.std(x)
torch.std(x * 0)
torch.var(x)
torch.dist(x, y)
torch.dist(x, x.detach())
torch.cdist(x[:, None], y[:, None])
torch.cdist(x[:, None], x[:, None].detach())
x ** 2
x ** 3
x ** 0
x ** 1
torch.pow(x, 2.0)
torch.copysign(x, y)
torch.remainder(x, 0.7)
torch.fmod(x, 0.7)
torch.remainder(x, y + 3)
torch.div(x, 0.7, rounding_mode="trunc")
torch.xlogy(x, y.abs() + 1)
torch.sinc(x)
torch.lerp(x, y, 0.3)
torch.lerp(x, y, x)
torch.logsumexp(x, 0)
torch.logcumsumexp(x, 0)
torch.nansum(x)
torch.diff(x, n=2)
torch.trapezoid(x, y)
x.abs().sqrt()[x != 0]
torch.diag(x)
torch.outer(x, y)
torch.kron(x, y)
torch.sgn(x)
torch.aminmax(x).max
""".strip().splitlines()

SMOOTH = """
torch.exp(x)
torch.exp2(x)
torch.expm1(x)
torch.log(p)
torch.log2(p)
torch.log10(p)
torch.log1p(p)
torch.sqrt(p)
torch.rsqrt(p)
torch.reciprocal(p)
torch.sin(x)
torch.cos(x)
torch.tan(x)
torch.asin(u)
torch.acos(u)
torch.atan(x)
torch.sinh(x)
torch.cosh(x)
torch.tanh(x)
torch.asinh(x)
torch.acosh(p + 1)
torch.atanh(u)
torch.erf(x)
torch.erfc(x)
torch.erfinv(u)
torch.lgamma(p)
torch.digamma(p)
torch.sigmoid(x)
torch.logit(p / 4)
torch.logit(p / 4, 0.2)
torch.deg2rad(x)
x + y
x - y
x * y
x / y
p ** y
p ** 2.5
2.0 ** x
torch.float_power(p, y)
torch.atan2(x, y)
torch.hypot(x, y)
torch.logaddexp(x, y)
torch.logaddexp2(x, y)
torch.ldexp(x, y)
torch.addcmul(x, y, p, value=2)
torch.addcdiv(x, y, p, value=2)
torch.add(x, y, alpha=3)
torch.sub(x, y, alpha=3)
torch.mean(x, 1)
torch.var(x, 1)
torch.std(x, 0, unbiased=False)
torch.var_mean(x, 1)[0]
torch.std_mean(x, 1)[1]
torch.logsumexp(x, 1)
torch.logsumexp(x, (0, 1))
torch.logcumsumexp(x, 1)
torch.cumsum(x, 1)
torch.cumprod(p, 1)
torch.prod(p, 1)
torch.norm(x, dim=1)
torch.norm(x, 2.5, 0)
torch.cov(x)
torch.corrcoef(x)
torch.matmul(x, y.t())
torch.einsum("ij,kj->ik", x, y)
torch.einsum("ij,ij->j", x, y)
torch.einsum("ij,kl->", x, y)
torch.einsum("ij,ij,kj->ik", x, y, p)
torch.tensordot(x, y, dims=([0, 1], [0, 1]))
torch.addmm(x[:, :3], y, p.t(), beta=0.5, alpha=2)
torch.addmv(x[:, 0], y, p[0])
torch.addr(x, y[:, 0], p[0])
torch.bmm(x[None], y.t()[None])
torch.baddbmm(x[None, :, :3], y[None], p.t()[None])
torch.addbmm(x[:, :3], y[None], p.t()[None])
torch.inner(x, y)
torch.cross(x, y, dim=0)
torch.trace(x)
torch.matrix_power(x[:, :3], 3)
torch.cdist(x, y)
torch.cdist(x, y, p=1)
torch.cdist(x, y, p=3)
torch.cdist(x.repeat(10, 1), y)
torch.diff(x, dim=0)
torch.trapezoid(x, dx=0.5)
torch.cumulative_trapezoid(x, y)
torch.trace(x @ y.t())
torch.diag_embed(x)
x.sum() * y.mean()
(x * x.detach()).sum()
""".strip().splitlines()

# PyTorch has no second derivative there, or a NaN where the limit exists
FIRST_ONLY = {
    "torch.norm(x * 0)", "torch.dist(x, x.detach())", "torch.copysign(x, y)", "torch.sinc(x)",
    "torch.cdist(x[:, None], y[:, None])", "torch.cdist(x[:, None], x[:, None].detach())",
    "torch.cdist(x, y)", "torch.cdist(x, y, p=1)", "torch.cdist(x, y, p=3)",
}  # fmt: skip
LOOSE = {"torch.lgamma(p)": 1e5, "torch.digamma(p)": 1e5}  # PyTorch's trigamma has 9 digits


def gradients(
    framework: Any, expression: str, inputs: dict[str, Any], weights: Any, second: bool = True
) -> list[Any]:
    """The value, its gradients, and the gradients of those, each with fixed cotangents."""
    grad = framework.autograd.grad
    value = eval(expression, {"torch": framework, "inf": math.inf, "nan": math.nan, **inputs})
    wanted = list(inputs.values())
    weigh = framework.tensor if framework is torch else flamec.tensor
    total = (value * weigh(np.resize(weights, tuple(value.shape)))).sum()
    first = grad(total, wanted, create_graph=True, allow_unused=True)
    results = [value, *first]
    parts = [
        (g * weigh(np.resize(weights[::-1] * (1 + i), tuple(g.shape)))).sum()
        for i, g in enumerate(first)
        if g is not None and g.requires_grad
    ]
    if parts and second and expression not in FIRST_ONLY:
        results += grad(sum(parts), wanted, allow_unused=True)
    return results


def compare(
    expression: str, inputs: dict[str, Any], compiled: bool = False, second: bool = True
) -> None:
    weights = np.random.default_rng(9).uniform(0.5, 1.5, 7)
    theirs = gradients(torch, expression, inputs, weights, second)
    mine_inputs = {k: flamec_of(v) for k, v in inputs.items()}

    def program() -> list[Any]:
        return gradients(flamec, expression, mine_inputs, weights, second)

    mine = (flamec.compile(program) if compiled else program)()
    count = 1 + len(inputs)
    for i, (a, b) in enumerate(zip(mine, theirs, strict=False)):
        what = f"{expression}: {'second ' if i >= count else ''}gradient {(i - 1) % len(inputs)}"
        if a is None or b is None:  # a gradient that is missing is zero
            known = a if b is None else b
            assert known is None or not known.detach().abs().sum().item(), what
        else:
            assert_same(a, b, what if i else expression, LOOSE.get(expression, 100))


@pytest.mark.parametrize("expression", AT_KINKS)
def test_at_kinks(expression: str) -> None:
    x = torch.tensor(KINKS, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([*KINKS[1:], 2.0], dtype=torch.float64).round().requires_grad_()
    compare(expression, {"x": x, "y": y})


@pytest.mark.parametrize("expression", SMOOTH)
def test_smooth(expression: str) -> None:
    generator = np.random.default_rng(4)
    inputs = {
        "x": generator.normal(size=(3, 4)),
        "y": generator.normal(size=(3, 4)),
        "p": generator.uniform(0.5, 2, (3, 4)),
        "u": generator.uniform(-0.9, 0.9, (3, 4)),
    }
    compare(expression, {k: torch.tensor(v).requires_grad_() for k, v in inputs.items()})


AT_NAN_AND_INFINITIES = """
torch.abs(x)
torch.nn.functional.l1_loss(x, y, reduction="none")
torch.nn.functional.smooth_l1_loss(x, y, reduction="none")
torch.nn.functional.huber_loss(x, y, reduction="none")
torch.nn.functional.hinge_embedding_loss(x, y, reduction="none")
torch.clamp(x, -1, 1)
torch.clamp(x, min=0.5)
torch.clamp(x, max=nan)
torch.clamp(x, y, y + 1)
torch.clamp(x, y, y)
torch.clamp(x, min=y)
torch.clamp(x, max=y)
torch.maximum(x, y)
torch.minimum(x, y)
torch.fmax(x, y)
torch.fmin(x, y)
torch.nn.functional.prelu(x[x != 0][None], y[x != 0])
torch.nn.functional.hardswish(x[x == x]) * torch.where(y.abs() < 2, y, 0.5)[x == x]
torch.nn.functional.leaky_relu(x)
torch.nn.functional.elu(x[x != 0])
torch.nn.functional.selu(x[x != 0])
torch.nn.functional.threshold(x, 1, 2)
torch.fmod(x, y)
torch.remainder(x, y)
x.abs().pow((y == 7).double())
x ** -1
x ** -2
torch.logit(x.abs(), 0.1) * 0.5
""".strip().splitlines()
# PyTorch's second derivatives have 0 / 0
NAN_FIRST_ONLY = {"torch.logit(x.abs(), 0.1) * 0.5", "x.abs().pow((y == 7).double())"}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("expression", AT_NAN_AND_INFINITIES)
def test_at_nan_and_infinities(expression: str, compiled: bool) -> None:
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5]
    grid = np.meshgrid(special, special, indexing="ij")
    x, y = (torch.tensor(v.reshape(-1)).requires_grad_() for v in grid)
    compare(expression, {"x": x, "y": y}, compiled, expression not in NAN_FIRST_ONLY)


IN_PLACE = """
y.mul_(z)
y.mul_(y)
z.mul_(y)
y.sin_()
y.exp_()
y.abs_()
y.log_()
y.sigmoid_()
y.reciprocal_()
y.pow_(2)
y.square_()
y.div_(z)
y.clamp_(0, 2)
y.addcmul_(z, z)
y.addcmul_(y, z)
y.addcdiv_(z, y)
y.atan2_(z)
y.lerp_(z, 0.5)
y.masked_fill_(z > 1, 0)
y[0].mul_(z[0])
y[0] *= y[1]
y *= z
y **= 2
y.sub_(y)
y.add_(z, alpha=2)
y.cumsum_(0)
y.cumprod_(0)
y.xlogy_(z)
y.copysign_(z)
y[:1].copy_(z[1:])
""".strip().splitlines()


@pytest.mark.parametrize("statement", IN_PLACE)
def test_in_place(statement: str) -> None:
    """The old contents are kept where a derivative needs them, and an error where they are lost."""

    def outcome(framework: Any) -> Any:
        x = framework.tensor([1.0, 2.0], requires_grad=True)
        w = framework.tensor([1.5, 0.5], requires_grad=True)
        y, z = x * 3, w * 2
        exec(statement, {"y": y, "z": z})
        try:
            (y.sum() + z.sum()).backward()
        except RuntimeError as error:
            assert "in place" in str(error) or "inplace" in str(error)
            return "changed in place"
        return [x.grad.tolist(), w.grad.tolist()]

    mine, theirs = outcome(flamec), outcome(torch)
    if isinstance(theirs, str):
        assert mine == theirs
    else:
        np.testing.assert_allclose(mine, theirs, rtol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_second_derivative_of_singular_determinants(compiled: bool) -> None:
    """PyTorch's is right for matrices of rank n - 1; of lower ranks it is NaN, and known here."""
    rows = np.arange(9.0).reshape(3, 3)  # of rank 2
    matrices = [rows, np.diag([1.0, 0.0, 2.0]), rows[:2, :2] * 0 + 1, np.array([[2.0, 1], [1, 3]])]

    def second(package: Any, matrix: Any) -> Any:
        x = package.tensor(matrix, dtype=package.float64, requires_grad=True)
        (first,) = package.autograd.grad(package.linalg.det(x), x, create_graph=True)
        weights = package.arange(first.numel(), dtype=package.float64).reshape(first.shape) + 1
        return package.autograd.grad((first * weights).sum(), x)[0]

    def ours(matrix: Any) -> Any:
        def program() -> Any:
            return second(flamec, matrix)

        return (flamec.compile(program) if compiled else program)()

    for matrix in matrices:
        assert_same(ours(matrix), second(torch, matrix), "det", 1e3)
    np.testing.assert_allclose(ours(np.zeros((2, 2))).numpy(), [[4, -3], [-2, 1]], atol=1e-12)
    np.testing.assert_allclose(ours(np.ones((3, 3))).numpy(), np.zeros((3, 3)), atol=1e-12)
    corner = np.zeros((3, 3))
    corner[0, 0] = 2.0  # det = 2 (x11 x22 - x12 x21) to second order
    expected = [[0, 0, 0], [0, 18, -16], [0, -12, 10]]
    np.testing.assert_allclose(ours(corner).numpy(), expected, atol=1e-12)
