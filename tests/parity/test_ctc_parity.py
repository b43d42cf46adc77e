"""ctc_loss against PyTorch: losses and gradients behind log_softmax, eager and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn
from flamec.nn import functional as F

RNG = np.random.default_rng(11)
STEPS, BATCH, CLASSES = 8, 5, 4
TARGETS = np.array([[1, 2, 2], [3, 1, 1], [1, 1, 1], [2, 3, 1], [1, 2, 3]])
LENGTHS = ([8, 7, 5, 8, 3], [3, 2, 3, 0, 1])


def _loss(package: Any, functional: Any, x: Any, targets: Any, lengths: Any, options: Any) -> Any:
    log_probs = functional.log_softmax(x, -1)
    return functional.ctc_loss(log_probs, targets, *lengths, **options)


def _compare(
    x: np.ndarray, targets: np.ndarray, lengths: Any, mode: str = "eager", **options: Any
) -> Any:
    theirs = torch.tensor(x, requires_grad=True)
    wanted = _loss(torch, torch.nn.functional, theirs, torch.tensor(targets), lengths, options)
    wanted.sum().backward()
    ours = flamec.tensor(x).requires_grad_()

    def run(x: Any, targets: Any) -> Any:
        loss = _loss(flamec, F, x, targets, lengths, options)
        return loss, loss.sum()

    function = flamec.compile(run) if mode == "compiled" else run
    found, total = function(ours, flamec.tensor(targets))
    total.backward()
    assert tuple(found.shape) == tuple(wanted.shape)
    np.testing.assert_allclose(found.detach().numpy(), wanted.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-8, atol=1e-10)
    return found


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_padded_targets(reduction: str, mode: str) -> None:
    x = RNG.standard_normal((STEPS, BATCH, CLASSES)) * 2
    _compare(x, TARGETS, LENGTHS, mode, reduction=reduction)


def test_targets_one_after_the_other_and_another_blank() -> None:
    x = RNG.standard_normal((STEPS, BATCH, CLASSES))
    joined = np.concatenate([row[:n] for row, n in zip(TARGETS, LENGTHS[1], strict=True)])
    _compare(x, joined, LENGTHS)
    _compare(x, np.where(TARGETS == 3, 0, TARGETS), LENGTHS, blank=3)


def test_one_sequence_and_many_steps() -> None:
    x = RNG.standard_normal((60, CLASSES))
    _compare(x, np.array([1, 2, 1, 1, 3]), ([60], [5]))
    assert _compare(x, np.array([1]), ([60], [1]), reduction="none").shape == ()


def test_targets_that_do_not_fit() -> None:
    x = RNG.standard_normal((3, 2, CLASSES))
    targets = np.array([[1, 1, 1], [1, 2, 3]])
    lengths = ([3, 3], [3, 3])
    loss = F.ctc_loss(
        F.log_softmax(flamec.tensor(x), -1), flamec.tensor(targets), *lengths, reduction="none"
    )
    assert loss[0].item() == float("inf") and np.isfinite(loss[1].item())
    _compare(x, targets, lengths, zero_infinity=True)


def test_second_derivative() -> None:
    x = flamec.tensor(RNG.standard_normal((4, 1, 3))).requires_grad_()

    def loss(x: Any) -> Any:
        return F.ctc_loss(F.log_softmax(x, -1), flamec.tensor([[1, 2]]), [4], [2])

    (first,) = flamec.autograd.grad(loss(x), [x], create_graph=True)
    direction = flamec.tensor(RNG.standard_normal((4, 1, 3)))
    (found,) = flamec.autograd.grad((first * direction).sum(), [x])
    step = 1e-5
    ends = []
    for sign in (1, -1):
        y = (x.detach() + sign * step * direction).requires_grad_()
        ends.append(flamec.autograd.grad(loss(y), [y])[0])
    np.testing.assert_allclose(
        found.numpy(), ((ends[0] - ends[1]) / (2 * step)).numpy(), rtol=1e-6, atol=1e-8
    )


def test_module_and_bad_arguments() -> None:
    log_probs = F.log_softmax(flamec.ones(3, 2, 4), -1)
    targets = flamec.tensor([[1, 2], [2, 3]])
    module = nn.CTCLoss(blank=0, reduction="sum", zero_infinity=True)
    expected = F.ctc_loss(log_probs, targets, [3, 3], [2, 2], reduction="sum")
    assert module(log_probs, targets, [3, 3], [2, 2]).item() == expected.item()
    for arguments, message in (
        (([4, 3], [2, 2]), "input_lengths to have value at most 3"),
        (([3], [2, 2]), "one entry for each"),
        (([3, 3], [3, 2]), "targets has 2 columns"),
        (([3, 3], [-1, 2]), "must not be negative"),
    ):
        with pytest.raises(RuntimeError, match=message):
            F.ctc_loss(log_probs, targets, *arguments)
    with pytest.raises(RuntimeError, match="blank must be in label range"):
        F.ctc_loss(log_probs, targets, [3, 3], [2, 2], blank=4)
