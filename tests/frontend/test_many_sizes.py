"""A function that is called with many sizes is compiled twice: for the first size, and for all."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

import flamec
from flamec.nn import functional as F

WIDTH, HEADS = 16, 2


def block(x: flamec.Tensor, first: flamec.Tensor, second: flamec.Tensor) -> flamec.Tensor:
    """A layer of a transformer, with causal attention."""
    batch, length, _ = x.shape
    parts = F.layer_norm(x, (WIDTH,)) @ first
    q, k, v = parts.reshape(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return x + y.transpose(1, 2).reshape(batch, length, WIDTH) @ second


def test_fifty_batch_sizes_and_lengths_in_two_compilations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [
        flamec.from_numpy(rng.standard_normal(s, np.float32) / 4)
        for s in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH))
    ]
    batches, lengths = list(range(50)), list(range(50))
    for seed, sizes in enumerate((batches, lengths)):
        random.Random(seed).shuffle(sizes)
    sizes_in_turn = [*zip(batches, lengths, strict=True), (0, 0), (1, 1), (0, 1), (1, 0)]
    compiled = flamec.compile(block, backend="c", cache_folder=tmp_path)
    for batch, length in sizes_in_turn:
        x = flamec.from_numpy(rng.standard_normal((batch, length, WIDTH), np.float32))
        found, expected = compiled(x, *weights), block(x, *weights)
        assert found.shape == (batch, length, WIDTH)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-5, atol=2e-6)
    assert compiled.stats.traces <= 2, compiled.stats.guard_failures
    assert len(compiled.programs) <= 2
