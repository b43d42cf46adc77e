"""GPT-2 follows PyTorch: the same source with its imports changed, the same weights and data.

At small size in float32 on the CPU the losses of 50 steps agree to rounding. On a GPU,
``benchmarks/gpu/training_steps.py`` compares the model of 124 million parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gpt2_example import example, set_weights
from torch_comparison import torch

import flamec


def _losses(training: Any, step: Any, data: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        losses.append(step(*next(data)).item())
        training.schedule.step()
    return losses


@pytest.mark.parametrize("compiled", [True, False])
def test_fifty_steps_in_float32(compiled: bool) -> None:
    ours, theirs = example(), example("torch")
    mine, wanted = ours.Training(ours.SMALL, rate=3e-3), theirs.Training(theirs.SMALL, rate=3e-3)
    set_weights(mine.model)
    set_weights(wanted.model)
    stream = ours.chain(64, 20_000)
    step = flamec.compile(mine.step) if compiled else mine.step
    found = _losses(mine, step, ours.batches(stream, 8, ours.SMALL.context), 50)
    expected = _losses(wanted, wanted.step, theirs.batches(stream, 8, ours.SMALL.context), 50)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert found[-1] < found[0] - 1.0
    for name, parameter in wanted.model.named_parameters():
        np.testing.assert_allclose(
            dict(mine.model.named_parameters())[name].detach().numpy(),
            parameter.detach().numpy(),
            rtol=0,
            atol=3e-4,
            err_msg=name,
        )


def test_logits_of_one_forward_pass() -> None:
    ours, theirs = example(), example("torch")
    mine, wanted = ours.GPT2(ours.SMALL), theirs.GPT2(theirs.SMALL)
    set_weights(mine)
    set_weights(wanted)
    tokens = np.random.default_rng(0).integers(0, ours.SMALL.vocabulary, (3, 7))
    found = mine(flamec.from_numpy(tokens)).detach().numpy()
    np.testing.assert_allclose(
        found, wanted(torch.from_numpy(tokens)).detach().numpy(), rtol=1e-4, atol=2e-6
    )
