"""The whole training step of a two-layer LSTM over 64 steps (width 128, batch 32, Adam)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.frameworks import torch_like
from benchmarks.harness import Step, Workload


@dataclass(frozen=True)
class LstmSize:
    """Widths and counts; ``length`` is the number of steps."""

    length: int = 64
    batch: int = 32
    inputs: int = 64
    hidden: int = 128
    layers: int = 2
    classes: int = 10


def build(
    framework: Any,
    compile: Callable[[Any], Any],
    device: str = "cpu",
    size: LstmSize | None = None,
) -> Step:
    """The training step as a user of flamec or torch writes it."""
    nn, size = framework.nn, size or LstmSize()
    lstm = nn.LSTM(size.inputs, size.hidden, num_layers=size.layers).to(device)
    head = nn.Linear(size.hidden, size.classes).to(device)
    random = np.random.default_rng(0)
    parameters = [*lstm.parameters(), *head.parameters()]
    with framework.no_grad():
        for parameter in parameters:
            values = random.uniform(-0.09, 0.09, tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(framework.from_numpy(values))
    shape = (size.length, size.batch, size.inputs)
    x = framework.from_numpy(random.standard_normal(shape, np.float32)).to(device)
    y = framework.from_numpy(random.integers(0, size.classes, size.batch)).to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = framework.optim.Adam(parameters, lr=0.001)

    @compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        output, _ = lstm(x)
        loss = criterion(head(output[-1]), y)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(x, y)


WORKLOADS = (
    Workload(
        "lstm_step",
        "LSTM of 2 layers of 128 over 64 steps, batch 32, Adam, whole step",
        torch_like(build),
        tolerance=1e-3,
    ),
)
