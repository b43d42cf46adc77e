"""The convolutional example follows PyTorch: the same source with its imports changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_programs import assert_same_weights, program, same_weights
from torch_comparison import to_flamec, torch

import flamec

pytest.importorskip("sklearn")


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_losses_of_an_epoch(name: str, tmp_path: Path) -> None:
    """22 steps in float64, the running statistics, and what the network says in the end."""
    ours, theirs = program("cnn", "flamec", tmp_path), program("cnn", "torch", tmp_path)
    torch.manual_seed(0)
    reference = theirs.MODELS[name](4).double()
    model = ours.MODELS[name](4).double()
    same_weights(model, reference)
    training, twin = ours.Training(model), theirs.Training(reference)
    step = flamec.compile(training.step)
    train, (images, labels) = ours.digits()

    def losses(package: Any, one: Any) -> list[float]:
        data = package.epochs(*train, batch=64, count=1)
        return [one(x.double(), y).item() for x, y in data]

    found, expected = losses(ours, step), losses(theirs, twin.step)
    assert len(found) == 22
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert found[-1] < found[0] / 2
    assert step.stats.traces == 1
    assert_same_weights(model, reference)
    model.eval()
    reference.eval()
    x = images.astype(np.float64)
    np.testing.assert_allclose(
        model(to_flamec(x)).detach().numpy(),
        reference(torch.from_numpy(x)).detach().numpy(),
        rtol=1e-6,
        atol=1e-7,
    )
    mine = training.accuracy(to_flamec(x), to_flamec(labels)).item()
    assert mine == twin.accuracy(torch.from_numpy(x), torch.from_numpy(labels)).item()
