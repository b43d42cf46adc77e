"""Training with autocast and GradScaler against PyTorch: scales exactly, losses to rounding."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

STEPS = 60
OVERFLOWS = (0, 1, 9, 20, 21, 22, 41, 58)


def curve(package: Any, lower: str | None, optimizer: str, compiled: bool) -> list[tuple[Any, ...]]:
    """Loss, scale and good steps in a row after each step, from the same initial weights."""
    nn = package.nn
    model = nn.Sequential(
        nn.Linear(8, 24),
        nn.LayerNorm(24),
        nn.GELU(),
        nn.Linear(24, 24),
        nn.ReLU(),
        nn.Linear(24, 3),
    )
    generator = np.random.default_rng(11)
    with package.no_grad():
        for p in model.parameters():
            values = generator.standard_normal(tuple(p.shape)) * 0.2 + (p.ndim == 1)
            p.copy_(package.from_numpy(values.astype(np.float32)))
    options = {"lr": 0.003, "weight_decay": 0.1}
    if optimizer == "SGD":
        options = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}
    stepper = getattr(package.optim, optimizer)(model.parameters(), **options)
    scaler = package.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=4)

    def step(x: Any, y: Any, factor: Any) -> Any:
        stepper.zero_grad()
        with package.autocast(
            "cpu", dtype=getattr(package, lower or "bfloat16"), enabled=bool(lower)
        ):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss * factor).backward()
        scaler.step(stepper)
        scaler.update()
        return loss.detach()

    call = flamec.compile(step) if compiled else step
    found = []
    for number in range(STEPS):
        x = generator.standard_normal((16, 8)).astype(np.float32)
        y = np.abs(x[:, :3]).argmax(1)
        factor = np.float32(np.inf if number in OVERFLOWS else 1.0)
        loss = call(package.from_numpy(x), package.from_numpy(y), package.tensor(factor))
        found.append((float(loss), scaler.get_scale(), scaler.state_dict()["_growth_tracker"]))
    if compiled:
        assert call.stats.traces == 1
    return found


@functools.cache
def reference(lower: str | None, optimizer: str) -> list[tuple[Any, ...]]:
    return curve(torch, lower, optimizer, compiled=False)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("lower", "optimizer"),
    [(None, "SGD"), ("bfloat16", "SGD"), ("bfloat16", "AdamW"), ("float16", "AdamW")],
)
def test_curves(lower: str | None, optimizer: str, compiled: bool) -> None:
    theirs = reference(lower, optimizer)
    mine = curve(flamec, lower, optimizer, compiled)
    assert [m[1:] for m in mine] == [t[1:] for t in theirs]
    tolerance = {None: 1e-4, "float16": 5e-3, "bfloat16": 3e-2}[lower]
    losses = np.array([m[0] for m in mine]), np.array([t[0] for t in theirs])
    np.testing.assert_allclose(*losses, rtol=tolerance, atol=tolerance)
    assert losses[1][-10:].mean() < 0.8 * losses[1][:5].mean()
    assert len({t[1] for t in theirs}) > 4
