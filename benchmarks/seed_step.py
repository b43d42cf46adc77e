"""The whole training step of a tiny network (10-50-2, batch 16, Adam): nothing but overhead."""

from __future__ import annotations

from benchmarks.harness import Workload
from benchmarks.mlp import Mlp

WIDTHS, BATCH = (10, 50, 2), 16

WORKLOADS = (
    Workload(
        "seed_step",
        "MLP 10-50-2, batch 16, cross-entropy, Adam, whole step",
        Mlp(WIDTHS, BATCH).contenders(),
        goal=15e-6,
    ),
)
