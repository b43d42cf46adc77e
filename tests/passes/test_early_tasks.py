"""What a mean over all rows needs is computed before the rows, if rows are large."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec.ir.passes.early_tasks import LARGE
from flamec.nn import functional as F

CLASSES = 4096


def loss_and_gradient(logits: Any, targets: Any) -> Any:
    loss = F.cross_entropy(logits, targets)
    return loss, *flamec.autograd.grad(loss, [logits])


def arguments(rows: int) -> tuple[flamec.Tensor, flamec.Tensor]:
    rng = np.random.default_rng(rows)
    logits = flamec.tensor(rng.standard_normal((rows, CLASSES)).astype(np.float32))
    targets = rng.integers(0, CLASSES, rows)
    targets[::7] = -100
    return logits.requires_grad_(), flamec.tensor(targets)


@pytest.mark.parametrize("rows", [3, 2 * LARGE // (4 * CLASSES)])
def test_cross_entropy_and_its_gradient_in_one_kernel(rows: int) -> None:
    logits, targets = arguments(rows)
    step = flamec.compile(loss_and_gradient)
    loss, gradient = step(logits, targets)
    x = logits.detach().numpy().astype(np.float64)
    t = targets.numpy()
    there = t != -100
    shifted = x - x.max(1, keepdims=True)
    weights = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    picked = np.take_along_axis(weights, np.where(there, t, 0)[:, None], 1)[:, 0]
    np.testing.assert_allclose(loss.detach().numpy(), -np.log(picked[there]).mean(), rtol=1e-5)
    weights[np.arange(rows), np.where(there, t, 0)] -= 1
    wanted = np.where(there[:, None], weights / there.sum(), 0)
    np.testing.assert_allclose(gradient.detach().numpy(), wanted, rtol=1e-4, atol=1e-8)
    plan = step.programs[0].prepared.plan
    assert plan is not None
    reading = [s for s in plan.steps if s.bytes_read >= rows * CLASSES * 4]
    assert len(reading) == (1 if rows * CLASSES * 4 >= LARGE else 2)
