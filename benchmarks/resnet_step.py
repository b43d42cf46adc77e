"""Whole training steps of ResNet-18 and -50 on a CPU (3x64x64 images, SGD with momentum)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.frameworks import torch_like
from benchmarks.harness import Step, Workload
from benchmarks.models.resnet import resnet18, resnet50, set_weights

SIZE, CLASSES = 64, 100


def build(
    framework: Any,
    compile: Callable[[Any], Any],
    make: Callable[..., Any] = resnet18,
    batch: int = 8,
    size: int = SIZE,
) -> Step:
    """The training step as a user of flamec or torch writes it; images of ``size`` squared."""
    model = make(framework, CLASSES)
    set_weights(framework, model)
    with framework.no_grad():
        model.fc.bias.zero_()
    random = np.random.default_rng(1)
    x = framework.from_numpy(random.standard_normal((batch, 3, size, size), np.float32))
    y = framework.from_numpy(random.integers(0, CLASSES, batch))
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
    Workload(
        "resnet50_step",
        "ResNet-50 on 3x64x64, batch 4, SGD with momentum, whole step",
        torch_like(partial(build, make=resnet50, batch=4)),
        tolerance=1e-3,
    ),
)
