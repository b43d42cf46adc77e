"""Losses agree with PyTorch: results, gradients and second gradients in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import compare, to_flamec, torch

import flamec.nn.functional as flamec_functional

torch_functional = torch.nn.functional
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def between(low: float, high: float, *shape: int) -> np.ndarray:
    return RNG.uniform(low, high, shape)


def classes(count: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, count, shape)


ELEMENTWISE_LOSSES = {
    "mse_loss": ({}, lambda: [normal(4, 3), normal(4, 3)]),
    "l1_loss": ({}, lambda: [normal(4, 3), normal(4, 3)]),
    "smooth_l1_loss": ({"beta": 0.7}, lambda: [normal(4, 3), normal(4, 3)]),
    "smooth_l1_loss_0": ({"beta": 0.0}, lambda: [normal(4, 3), normal(4, 3)]),
    "huber_loss": ({"delta": 0.7}, lambda: [normal(4, 3), normal(4, 3)]),
    "binary_cross_entropy": ({}, lambda: [between(0.01, 0.99, 4, 3), between(0, 1, 4, 3)]),
    "binary_cross_entropy_with_logits": ({}, lambda: [normal(4, 3) * 5, between(0, 1, 4, 3)]),
    "kl_div": ({}, lambda: [normal(4, 3), between(0.1, 1, 4, 3)]),
    "kl_div_log": ({"log_target": True}, lambda: [normal(4, 3), normal(4, 3)]),
    "poisson_nll_loss": ({"full": True}, lambda: [normal(4, 3), between(0.1, 5, 4, 3)]),
    "poisson_nll_loss_1": (
        {"log_input": False},
        lambda: [between(1, 2, 4, 3), between(1, 5, 4, 3)],
    ),
    "gaussian_nll_loss": (
        {"full": True},
        lambda: [normal(4, 3), normal(4, 3), between(0.1, 2, 4, 3)],
    ),
    "gaussian_nll_loss_1": ({}, lambda: [normal(4, 3), normal(4, 3), between(0.1, 2, 4)]),
    "hinge_embedding_loss": ({}, lambda: [normal(4, 3), _signs(4, 3)]),
    "margin_ranking_loss": ({"margin": 0.3}, lambda: [normal(5), normal(5), _signs(5)]),
    "cosine_embedding_loss": ({"margin": 0.1}, lambda: [normal(5, 3), normal(5, 3), _signs(5)]),
    "soft_margin_loss": ({}, lambda: [normal(4, 3), _signs(4, 3)]),
    "multilabel_soft_margin_loss": ({}, lambda: [normal(4, 3), classes(2, 4, 3)]),
    "multilabel_soft_margin_loss_1": ({}, lambda: [normal(4, 1), classes(2, 4, 3)]),
    "multi_margin_loss": ({"margin": 0.8}, lambda: [normal(4, 3), classes(3, 4)]),
    "multi_margin_loss_2": ({"p": 2}, lambda: [normal(4, 3), classes(3, 4)]),
    "triplet_margin_loss": ({"p": 1.5}, lambda: [normal(4, 3), normal(4, 3), normal(4, 3)]),
    "triplet_margin_loss_1": ({"swap": True}, lambda: [normal(4, 3), normal(4, 3), normal(4, 3)]),
    "triplet_margin_with_distance_loss": (
        {},
        lambda: [normal(4, 3), normal(4, 3), normal(4, 3)],
    ),
}
# PyTorch gives these targets no gradient, or has no second derivative.
CONSTANT_TARGETS = {
    "hinge_embedding_loss", "margin_ranking_loss", "cosine_embedding_loss", "soft_margin_loss",
    "huber_loss", "multilabel_soft_margin_loss",
}  # fmt: skip
LOSSES_WITHOUT_SECOND = {"multi_margin_loss", "multi_margin_loss_2"}


def _signs(*shape: int) -> np.ndarray:
    return np.where(RNG.random(shape) < 0.5, -1, 1)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ELEMENTWISE_LOSSES)
def test_elementwise_loss(name: str, reduction: str) -> None:
    options, sample = ELEMENTWISE_LOSSES[name]
    function = name.rstrip("_0123456789").removesuffix("_log") if name[-1].isdigit() else name
    function = function.removesuffix("_log")

    def call(F: Any, *tensors: Any) -> Any:
        return getattr(F, function)(*tensors, reduction=reduction, **options)

    arrays = sample()
    compare(call, arrays, second=name not in LOSSES_WITHOUT_SECOND)
    single = [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]
    compare(call, single, second=False, tolerance=1e-5)


def test_kl_div_batchmean_and_zero_target() -> None:
    target = between(0.1, 1, 4, 3)
    target[0, 0] = 0
    compare(lambda F, x, y: F.kl_div(x, y.detach(), reduction="batchmean"), [normal(4, 3), target])


def test_weighted_losses() -> None:
    x, y, w = normal(4, 3), normal(4, 3), between(0.5, 2, 4, 3)
    for name in ("mse_loss", "l1_loss", "huber_loss"):
        compare(lambda F, x, y, w, n=name: getattr(F, n)(x, y, weight=w), [x, y, w])
    p, t = between(0.1, 0.9, 4, 3), between(0, 1, 4, 3)
    compare(lambda F, p, t, w: F.binary_cross_entropy(p, t, w.detach()), [p, t, between(0.5, 2, 3)])
    compare(
        lambda F, x, t, w: F.binary_cross_entropy_with_logits(x, t, pos_weight=w.detach()),
        [x, t, between(0.5, 2, 3)],
    )
    compare(
        lambda F, x, t, w: F.multilabel_soft_margin_loss(x, t, w.detach()),
        [x, t, between(0.5, 2, 3)],
    )
    compare(
        lambda F, x, t, w: F.multi_margin_loss(x, t, weight=w.detach()),
        [x, classes(3, 4), between(0.5, 2, 3)],
        second=False,
    )


def test_multilabel_margin_loss() -> None:
    target = np.array([[3, 0, -1, 1], [-1, 0, 1, 2], [2, 1, 0, 3]])
    for reduction in ("mean", "sum", "none"):
        compare(
            lambda F, x, y, r=reduction: F.multilabel_margin_loss(x, y, reduction=r),
            [normal(3, 4), target],
            second=False,
        )
    compare(lambda F, x, y: F.multilabel_margin_loss(x, y), [normal(4), target[0]], second=False)


def test_losses_with_broadcasting_warn() -> None:
    x, y = to_flamec(normal(3, 1)), to_flamec(normal(3))
    with pytest.warns(UserWarning, match="broadcasting"):
        result = flamec_functional.mse_loss(x, y)
    assert result.shape == ()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction: str, smoothing: float) -> None:
    options = {"reduction": reduction, "label_smoothing": smoothing}
    call = lambda F, x, y, *w: F.cross_entropy(x, y, *w, **options)  # noqa: E731
    fixed = lambda F, x, y, w: F.cross_entropy(x, y, w.detach(), **options)  # noqa: E731
    target = classes(5, 6)
    compare(call, [normal(6, 5) * 3, target])
    compare(fixed, [normal(6, 5), target, between(0.5, 2, 5)])
    ignored = target.copy()
    ignored[[1, 4]] = -100
    compare(call, [normal(6, 5), ignored])
    compare(fixed, [normal(6, 5), ignored, between(0.5, 2, 5)])
    compare(call, [normal(5), np.array(3)])
    compare(call, [normal(2, 5, 3, 4), classes(5, 2, 3, 4)])
    compare(fixed, [normal(2, 5, 3), classes(5, 2, 3), between(0.5, 2, 5)])
    probabilities = RNG.dirichlet(np.ones(5), 6)
    compare(call, [normal(6, 5), probabilities])
    compare(fixed, [normal(6, 5), probabilities, between(0.5, 2, 5)])
    spread = np.moveaxis(RNG.dirichlet(np.ones(5), (2, 3)), -1, 1).copy()
    compare(call, [normal(2, 5, 3), spread])
    compare(fixed, [normal(2, 5, 3), spread, between(0.5, 2, 5)])
    compare(call, [(normal(6, 5) * 20).astype(np.float32), target], second=False, tolerance=1e-5)


def test_cross_entropy_ignore_index_and_empty() -> None:
    compare(lambda F, x, y: F.cross_entropy(x, y, ignore_index=2), [normal(6, 4), classes(4, 6)])
    everything = np.full(3, -100)
    compare(lambda F, x, y: F.cross_entropy(x, y), [normal(3, 4), everything], gradients=False)
    compare(lambda F, x, y: F.cross_entropy(x, y), [normal(0, 4), classes(4, 0)], gradients=False)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_nll_loss(reduction: str) -> None:
    call = lambda F, x, y: F.nll_loss(x, y, reduction=reduction)  # noqa: E731
    compare(call, [normal(6, 5), classes(5, 6)])
    compare(call, [normal(2, 5, 3), classes(5, 2, 3)])
    compare(call, [normal(5), np.array(2)])
    fixed = lambda F, x, y, w: F.nll_loss(x, y, w.detach(), reduction=reduction)  # noqa: E731
    compare(fixed, [normal(6, 5), classes(5, 6), between(0.5, 2, 5)])
