"""The whole training step of a transformer encoder (4 layers, width 256, length 128, batch 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.frameworks import torch_like
from benchmarks.harness import Step, Workload


@dataclass(frozen=True)
class EncoderSize:
    """Widths and counts; ``heads`` divides ``width``."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    length: int = 128
    batch: int = 8
    classes: int = 16


def build(
    framework: Any,
    compile: Callable[[Any], Any],
    device: str = "cpu",
    size: EncoderSize | None = None,
) -> Step:
    """The training step as a user of flamec or torch writes it; without dropout, so that all
    contenders have one result."""
    nn, size = framework.nn, size or EncoderSize()
    width, rows = size.width, size.batch * size.length
    layer = nn.TransformerEncoderLayer(
        width,
        size.heads,
        4 * width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    encoder = nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False)
    head = nn.Linear(width, size.classes)
    model = nn.Sequential(encoder, nn.LayerNorm(width), head).to(device)
    with framework.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim < 2:
                continue
            random = np.random.default_rng((0, number))
            drawn = random.standard_normal(tuple(parameter.shape), np.float32) * 0.02
            parameter.copy_(framework.from_numpy(drawn.astype(np.float32)))
    random = np.random.default_rng(1)
    x = framework.from_numpy(random.standard_normal((size.batch, size.length, width), np.float32))
    y = framework.from_numpy(random.integers(0, size.classes, rows))
    x, y = x.to(device), y.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = framework.optim.AdamW(model.parameters(), lr=0.001)

    @compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(x).reshape(rows, size.classes), y)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: step(x, y)


WORKLOADS = (
    Workload(
        "encoder_step",
        "Transformer encoder, 4 layers, width 256, length 128, batch 8, AdamW, whole step",
        torch_like(build),
        tolerance=1e-3,
    ),
)
