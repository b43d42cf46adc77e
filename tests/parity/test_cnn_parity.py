"""The convolutional example follows PyTorch: the same source with its imports changed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_programs import program
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
    state = {key: np.asarray(value.numpy()) for key, value in reference.state_dict().items()}
    model.load_state_dict({key: to_flamec(value) for key, value in state.items()})
    training, twin = ours.Training(model), theirs.Training(reference)
    step = flamec.compile(training.step)
    train, (images, labels) = ours.digits()

    def losses(package: Any, one: Any) -> list[float]:
        data = islice(package.batches(*train, seed=0), 22)
        return [one(x.double(), y).item() for x, y in data]

    found, expected = losses(ours, step), losses(theirs, twin.step)
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert found[-1] < found[0] / 2
    assert step.stats.traces == 1
    for key, value in reference.state_dict().items():
        np.testing.assert_allclose(
            model.state_dict()[key].numpy(), value.numpy(), rtol=1e-6, atol=1e-8, err_msg=key
        )
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
