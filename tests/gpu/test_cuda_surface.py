"""Layers, host operations and transformations on a GPU: eager and compiled, the CPU's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.nn import functional as F

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("float32_convolutions")]
DEVICE = "cuda"


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _spd(n: int) -> np.ndarray:
    a = _numbers(2, n, n)
    return (a @ a.transpose(0, 2, 1) + n * np.eye(n)).astype(np.float32)


Case = tuple[Callable[..., Any], list[np.ndarray]]
FUNCTIONS: dict[str, Case] = {
    "conv1d": (
        lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1, dilation=2),
        [_numbers(2, 4, 17), _numbers(6, 4, 3, seed=1), _numbers(6, seed=2)],
    ),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1),
        [_numbers(3, 5, 9, 11), _numbers(7, 5, 3, 3, seed=1), _numbers(7, seed=2)],
    ),
    "conv2d_groups_stride": (
        lambda x, w: F.conv2d(x, w, stride=2, groups=2, padding=(1, 0)),
        [_numbers(3, 4, 9, 11), _numbers(6, 2, 3, 2, seed=1)],
    ),
    "conv2d_depthwise": (
        lambda x, w: F.conv2d(x, w, groups=8, padding="same"),
        [_numbers(2, 8, 10, 7), _numbers(8, 1, 3, 3, seed=1)],
    ),
    "conv3d": (
        lambda x, w: F.conv3d(x, w, padding=1),
        [_numbers(2, 3, 5, 6, 7), _numbers(4, 3, 3, 3, 3, seed=1)],
    ),
    "conv_transpose2d": (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        [_numbers(2, 4, 5, 6), _numbers(4, 3, 3, 3, seed=1)],
    ),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, padding=1), [_numbers(2, 3, 13, 11)]),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, padding=1), [_numbers(2, 3, 13, 11)]),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 5)), [_numbers(2, 3, 13, 11)]),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        [_numbers(5, 6, 7, 3), _numbers(6, seed=1), _numbers(6, seed=2)],
    ),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, 3, w, b),
        [_numbers(5, 6, 7, 3), _numbers(6, seed=1), _numbers(6, seed=2)],
    ),
    "interpolate": (
        lambda x: F.interpolate(x, scale_factor=2.5, mode="bilinear"),
        [_numbers(2, 3, 7, 5)],
    ),
    "grid_sample": (
        lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False),
        [_numbers(2, 3, 7, 5), _numbers(2, 4, 6, 2, seed=1)],
    ),
    "unfold": (lambda x: F.unfold(x, 3, padding=1, stride=2), [_numbers(2, 3, 9, 8)]),
    "sort": (lambda x: x.sort(1).values * flamec.arange(9, device=x.device), [_numbers(5, 9)]),
    "topk": (lambda x: x.topk(4).values, [_numbers(5, 9)]),
    "cumsum": (lambda x: x.cumsum(1), [_numbers(5, 700)]),
    "cumprod": (lambda x: (1 + 0.1 * x).cumprod(0), [_numbers(33, 9)]),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), [_numbers(5, 70)]),
    "quantile": (lambda x: x.quantile(0.3, dim=1), [_numbers(5, 9)]),
    "median": (lambda x: x.median(1).values, [_numbers(5, 9)]),
    "cholesky": (lambda a: flamec.linalg.cholesky(a + a.mT), [_spd(6)]),
    "solve": (lambda a, b: flamec.linalg.solve(a, b), [_spd(6), _numbers(2, 6, 3, seed=1)]),
    "eigh": (lambda a: flamec.linalg.eigh(a + a.mT)[0], [_spd(6)]),
    "svdvals": (lambda a: flamec.linalg.svdvals(a), [_numbers(2, 5, 7)]),
    "det": (lambda a: flamec.linalg.slogdet(a)[1], [_spd(6)]),
    "einsum": (
        lambda a, b: flamec.einsum("bij,bkj->bik", a, b),
        [_numbers(3, 5, 7), _numbers(3, 4, 7, seed=1)],
    ),
    "attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        [_numbers(2, 3, 17, 8), _numbers(2, 3, 17, 8, seed=1), _numbers(2, 3, 17, 8, seed=2)],
    ),
    "cross_entropy": (
        lambda x: F.cross_entropy(
            x, flamec.arange(9, device=x.device) % 5, label_smoothing=0.1, ignore_index=2
        ),
        [_numbers(9, 5)],
    ),
    "ctc_loss": (
        lambda x: F.ctc_loss(
            x.log_softmax(2),
            flamec.tensor([[1, 2, 3], [2, 2, 1]], device=x.device),
            (11, 9),
            (3, 2),
        ),
        [_numbers(11, 2, 5)],
    ),
    "index_add": (
        lambda x, y: x.index_add(0, flamec.tensor([1, 1, 4], device=x.device), y),
        [_numbers(6, 7), _numbers(3, 7, seed=1)],
    ),
    "scatter_reduce": (
        lambda x, y: x.scatter_reduce(
            0, flamec.tensor([[1, 0, 1], [2, 0, 1]], device=x.device), y, "mean"
        ),
        [_numbers(4, 3), _numbers(2, 3, seed=1)],
    ),
    "vmap": (
        lambda a, b: flamec.func.vmap(lambda u, v: (u @ v).tanh().sum(0))(a, b),
        [_numbers(4, 3, 5), _numbers(4, 5, 6, seed=1)],
    ),
    "hessian": (
        lambda x: flamec.func.hessian(lambda v: (v.sin() * v.roll(1)).sum())(x),
        [_numbers(5)],
    ),
    "checkpoint": (
        lambda x, w: flamec.utils.checkpoint.checkpoint(
            lambda u: (u @ w).tanh() @ w, x, use_reentrant=False
        ),
        [_numbers(5, 6), _numbers(6, 6, seed=1)],
    ),
    "embedding_bag": (
        lambda w: F.embedding_bag(
            flamec.tensor([[1, 2, 0], [3, 3, 1]], device=w.device), w, mode="mean", padding_idx=3
        ),
        [_numbers(5, 4)],
    ),
    "prod_and_var": (lambda x: x.prod(1) * x.var(1) + x.std((0, 1)), [_numbers(5, 9)]),
}


def _run(name: str, device: str, compiled: bool) -> list[np.ndarray]:
    function, arrays = FUNCTIONS[name]

    def value_and_gradients(*tensors: Any) -> Any:
        result = function(*tensors)
        weights = flamec.linspace(0.5, 1.5, result.numel(), device=device).reshape(result.shape)
        return result, *flamec.autograd.grad((result * weights).sum(), tensors)

    run = flamec.compile(value_and_gradients) if compiled else value_and_gradients
    tensors = [flamec.tensor(a, device=device, requires_grad=True) for a in arrays]
    return [t.detach().cpu().numpy() for t in run(*tensors)]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_and_its_gradient(name: str, compiled: bool) -> None:
    for got, wanted in zip(_run(name, DEVICE, compiled), _run(name, "cpu", False), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-5)


class _Doubled(flamec.autograd.Function):
    """Twice the square root, with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        y = x.sqrt()
        ctx.save_for_backward(y)
        return 2 * y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (y,) = ctx.saved_tensors
        return gradients[0] / y


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_custom_function(compiled: bool) -> None:
    def step(x: Any) -> Any:
        return flamec.autograd.grad(_Doubled.apply(x).sum(), x)[0]

    x = flamec.rand(7, device=DEVICE, requires_grad=True)
    got = (flamec.compile(step) if compiled else step)(x)
    np.testing.assert_allclose(got.cpu().numpy(), x.detach().cpu().numpy() ** -0.5, rtol=1e-5)


def test_a_transformer_trains_like_on_the_cpu() -> None:
    def losses(device: str, compiled: bool) -> list[float]:
        flamec.manual_seed(0)
        model = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True).to(device)
        optimizer = flamec.optim.AdamW(model.parameters(), 1e-2)
        source = flamec.tensor(_numbers(3, 7, 16), device=device)
        target = flamec.tensor(_numbers(3, 5, 16, seed=1), device=device)

        def step(source: Any, target: Any) -> Any:
            optimizer.zero_grad()
            loss = F.mse_loss(model(source, target), target.flip(1))
            loss.backward()
            optimizer.step()
            return loss

        run = flamec.compile(step) if compiled else step
        return [run(source, target).item() for _ in range(5)]

    wanted = losses("cpu", True)
    np.testing.assert_allclose(losses(DEVICE, True), wanted, rtol=1e-3)
    np.testing.assert_allclose(losses(DEVICE, False), wanted, rtol=1e-3)


def test_random_numbers_are_the_cpus() -> None:
    def draw(device: str) -> list[np.ndarray]:
        flamec.manual_seed(3)
        x = flamec.ones(50, 7, device=device)
        drawn = [
            flamec.rand(1000, device=device),
            flamec.randn(333, device=device),
            flamec.randint(0, 9, (77,), device=device),
            F.dropout(x, 0.3),
            flamec.bernoulli(0.5 * x),
        ]
        return [t.cpu().numpy() for t in drawn]

    for got, wanted in zip(draw(DEVICE), draw("cpu"), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
