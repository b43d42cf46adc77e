"""The whole training step of a small convolutional network (3x32x32 images, batch 64, Adam)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import torch_like
from benchmarks.harness import Step, Workload

BATCH, CLASSES = 64, 10


def _parameters() -> list[np.ndarray]:
    """Weights and biases of the convolutions and of the last layer."""
    random = np.random.default_rng(0)
    shapes = ((32, 3, 3, 3), (64, 32, 3, 3), (CLASSES, 64 * 8 * 8))
    found = []
    for shape in shapes:
        bound = float(np.prod(shape[1:])) ** -0.5
        found.append(random.uniform(-bound, bound, shape).astype(np.float32))
        found.append(random.uniform(-bound, bound, shape[0]).astype(np.float32))
    return found


def build(framework: Any, compile: Callable[[Any], Any]) -> Step:
    """The training step as a user of flamec or torch writes it."""
    nn = framework.nn
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 8 * 8, CLASSES),
    )
    with framework.no_grad():
        for parameter, values in zip(model.parameters(), _parameters(), strict=True):
            parameter.copy_(framework.from_numpy(values))
    random = np.random.default_rng(1)
    x = framework.from_numpy(random.standard_normal((BATCH, 3, 32, 32), np.float32))
    y = framework.from_numpy(random.integers(0, CLASSES, BATCH))
    criterion = nn.CrossEntropyLoss()
    optimizer = framework.optim.Adam(model.parameters(), lr=0.001)

    @compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(x, y)


WORKLOADS = (
    Workload(
        "convnet_step",
        "Convolutions of 32 and 64 channels on 3x32x32, batch 64, Adam, whole step",
        torch_like(build),
        goal=80e-3,
        tolerance=1e-3,
    ),
)
