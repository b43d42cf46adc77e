"""Audio classification follows PyTorch: the same source, weights and data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from example_programs import assert_same_weights, follow, program, same_weights
from torch_comparison import torch

import flamec


def test_audio(tmp_path: Path) -> None:
    ours, theirs = program("audio", "flamec", tmp_path), program("audio", "torch", tmp_path)
    torch.manual_seed(0)
    training, twin = ours.Training(2, steps=30), theirs.Training(2, steps=30)
    same_weights(training.model.double(), twin.model.double())
    batches = []
    loaders = (p.DataLoader(p.Tones(240, 0), 8) for p in (ours, theirs))
    for found, expected in zip(*loaders, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        batches.append([tensor.numpy() for tensor in found])
    step = flamec.compile(training.step)
    losses = []
    for batch in batches:
        losses.append(follow(step, twin.step, [batch])[0, 0])
        training.schedule.step()
        twin.schedule.step()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert_same_weights(training.model, twin.model)
