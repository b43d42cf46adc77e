"""The whole training step of a small GPT (4 layers, width 256, context 128, batch 8, AdamW)."""

from __future__ import annotations

from benchmarks.frameworks import torch_like
from benchmarks.gpt import GptSize, training, training_in_jax
from benchmarks.harness import Contender, Workload

SIZE = GptSize()

WORKLOADS = (
    Workload(
        "gpt_step",
        "GPT 4 layers, width 256, context 128, batch 8, vocabulary 4096, AdamW, whole step",
        [
            *torch_like(lambda framework, compile: training(framework, compile, SIZE)),
            Contender("jax", lambda: training_in_jax(SIZE)),
        ],
        goal=0.8,
        tolerance=1e-3,
    ),
)
