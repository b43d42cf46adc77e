"""Schedulers stepped inside a compiled training step: PyTorch's rates and losses, few traces."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

STEPS = 12
SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda e: 0.95**e * math.cos(e / 9)),
    "MultiplicativeLR": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.95),
    "StepLR": lambda s, o: s.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 5, 5, 7], 0.5),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.25, 1.0, 6),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda s, o: s.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 3, mode="triangular2"),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.1, STEPS + 1),
    "ChainedScheduler": lambda s, o: s.ChainedScheduler(
        [s.ConstantLR(o, 0.5, 4), s.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda s, o: s.SequentialLR(
        o, [s.ConstantLR(o, 0.5, 4), s.ExponentialLR(o, 0.9)], [5]
    ),
    "ReduceLROnPlateau": lambda s, o: s.ReduceLROnPlateau(o, patience=1, factor=0.5, threshold=0.2),
}
OPTIMIZERS: dict[str, Callable[[Any, Any], Any]] = {
    "SGD": lambda lib, p: lib.optim.SGD(p, lr=0.05, momentum=0.9),
    "Adam": lambda lib, p: lib.optim.Adam(p, lr=0.05),
}


def train(lib: Any, schedule: str, optimizer: str, first: bool, compiles: bool) -> Any:
    """Losses, rates and momenta of some steps, and the function's counters."""
    weights = np.random.default_rng(0).normal(size=(2, 3)).tolist()
    w = lib.tensor(weights, dtype=lib.float64).requires_grad_()
    updates = OPTIMIZERS[optimizer](lib, [w])
    rates = SCHEDULES[schedule](lib.optim.lr_scheduler, updates)

    def step(x: Any) -> Any:
        updates.zero_grad()
        loss = ((x @ w.T) ** 2).mean()
        loss.backward()
        if first:
            rates.step()
        updates.step()
        if not first:
            rates.step(loss) if schedule == "ReduceLROnPlateau" else rates.step()
        return loss.detach()

    call = flamec.compile(step) if compiles else step
    x = lib.tensor(np.random.default_rng(1).normal(size=(4, 3)).tolist(), dtype=lib.float64)
    found = []
    for _ in range(STEPS):
        loss = call(x).item()
        group = updates.param_groups[0]
        momentum = group["betas"][0] if "betas" in group else group["momentum"]
        found.append((loss, group["lr"], rates.get_last_lr()[0], momentum))
    return found, getattr(call, "stats", None)


@pytest.mark.parametrize("first", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_in_a_compiled_step(schedule: str, optimizer: str, first: bool) -> None:
    if first and schedule == "ReduceLROnPlateau":
        pytest.skip("its rates follow from the loss of the same call")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about the order
        wanted, _ = train(torch, schedule, optimizer, first, False)
        found, stats = train(flamec, schedule, optimizer, first, True)
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-15)
    decides = first and optimizer == "SGD" and schedule in ("CyclicLR", "OneCycleLR")
    if not decides:  # whether there is momentum at all is asked after the schedule has set it
        assert stats.traces == 1 and stats.python_runs == 0
