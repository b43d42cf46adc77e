"""Memory budgets on a real GPU: what is allocated is what was predicted; the step is the same."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from residual_network import residual_network

import flamec
from flamec import optim
from flamec.ir.passes.plan_memory import memory_use
from flamec.nn import functional as F

pytestmark = [pytest.mark.gpu, pytest.mark.alone]

WIDTH, LAYERS, ROWS = 512, 6, 8192
BUDGETS = (1.0, 0.5, 0.0)


def run(budget: float) -> tuple[list[float], int, int]:
    """Losses of some steps, the predicted bytes and the most that were allocated."""
    flamec.manual_seed(0)
    model = residual_network(WIDTH, LAYERS, outputs=16, dropout=0.1).to("cuda")
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    x = flamec.randn(ROWS, WIDTH, device="cuda")
    y = flamec.randint(0, 16, (ROWS,), device="cuda")

    @flamec.compile(memory_budget=budget)
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        with flamec.autocast("cuda", dtype=flamec.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(x, y).item() for _ in range(3)]
    flamec.cuda.reset_peak_memory_stats()
    losses += [step(x, y).item() for _ in range(2)]
    predicted = memory_use(step.programs[0].prepared.plan, {}).total
    return losses, predicted, flamec.cuda.max_memory_allocated()


def test_predicted_and_measured_peaks() -> None:
    predicted, measured, losses = [], [], []
    gc.collect()
    flamec.cuda.empty_cache()
    rest = flamec.cuda.memory_allocated()  # what other tests hold
    for budget in BUDGETS:
        gc.collect()
        flamec.cuda.empty_cache()
        curve, expected, found = run(budget)
        assert abs(found - rest - expected) <= 0.05 * expected
        predicted.append(expected)
        measured.append(found - rest)
        losses.append(curve)
    assert predicted == sorted(predicted, reverse=True)
    assert measured == sorted(measured, reverse=True)
    assert measured[-1] < 0.75 * measured[0]
    for curve in losses[1:]:
        np.testing.assert_allclose(curve, losses[0], rtol=2e-2)
