"""The whole training step of a digit classifier (784-512-512-10, batch 128, Adam)."""

from __future__ import annotations

from benchmarks.harness import Workload
from benchmarks.mlp import Mlp

WORKLOADS = (
    Workload(
        "mlp_step",
        "MLP 784-512-512-10, batch 128, cross-entropy, Adam, whole step",
        Mlp((784, 512, 512, 10), 128).contenders(),
        goal=4.5e-3,
    ),
)
