"""The whole training step of ResNet-18 on a CPU (3x64x64 images, batch 8, SGD with momentum)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import torch_like
from benchmarks.harness import Step, Workload
from benchmarks.models.resnet import resnet18, set_weights

BATCH, SIZE, CLASSES = 8, 64, 100


def build(framework: Any, compile: Callable[[Any], Any]) -> Step:
    """The training step as a user of flamec or torch writes it."""
    model = resnet18(framework, CLASSES)
    set_weights(framework, model)
    random = np.random.default_rng(1)
    x = framework.from_numpy(random.standard_normal((BATCH, 3, SIZE, SIZE), np.float32))
    y = framework.from_numpy(random.integers(0, CLASSES, BATCH))
    criterion = framework.nn.CrossEntropyLoss()
    optimizer = framework.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)

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
        "resnet18_step",
        "ResNet-18 on 3x64x64, batch 8, SGD with momentum, whole step",
        torch_like(build),
        tolerance=1e-3,
    ),
)
