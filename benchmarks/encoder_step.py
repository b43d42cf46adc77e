"""The whole training step of a transformer encoder (4 layers, width 256, length 128, batch 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.frameworks import torch_like
from benchmarks.harness import Step, Workload

LAYERS, WIDTH, HEADS, LENGTH, BATCH, CLASSES = 4, 256, 4, 128, 8, 16


def build(framework: Any, compile: Callable[[Any], Any]) -> Step:
    """The training step as a user of flamec or torch writes it; without dropout, so that all
    contenders have one result."""
    nn = framework.nn
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    model = nn.Sequential(encoder, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES))
    with framework.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim < 2:
                continue
            random = np.random.default_rng((0, number))
            drawn = random.standard_normal(tuple(parameter.shape), np.float32) * 0.02
            parameter.copy_(framework.from_numpy(drawn.astype(np.float32)))
    random = np.random.default_rng(1)
    x = framework.from_numpy(random.standard_normal((BATCH, LENGTH, WIDTH), np.float32))
    y = framework.from_numpy(random.integers(0, CLASSES, BATCH * LENGTH))
    criterion = nn.CrossEntropyLoss()
    optimizer = framework.optim.AdamW(model.parameters(), lr=0.001)

    @compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(model(x).reshape(BATCH * LENGTH, CLASSES), y)
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
