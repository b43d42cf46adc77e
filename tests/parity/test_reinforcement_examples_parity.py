"""Both ways to balance a pole follow PyTorch: each plays with its own network, in float64.

Actions depend on the networks, so one that differed would change all that follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from example_programs import assert_same_weights, doubles, program, same_weights
from torch_comparison import torch

import flamec


def test_policy_gradient(tmp_path: Path) -> None:
    ours = program("policy_gradient", "flamec", tmp_path)
    theirs = program("policy_gradient", "torch", tmp_path)
    torch.manual_seed(0)
    training, twin = ours.Training(16), theirs.Training(16)
    for name in ("policy", "baseline"):
        reference = getattr(twin, name).double()
        same_weights(getattr(training, name).double(), reference)
    step, chances = flamec.compile(training.step), flamec.compile(training.chances)
    mine = ours.episodes(chances, 4, 12, seed=0, dtype=flamec.float64)
    wanted = theirs.episodes(twin.chances, 4, 12, seed=0, dtype=torch.float64)
    lengths = []
    for found, expected in zip(mine, wanted, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        results, references = step(*found), twin.step(*expected)
        for one, other in zip(results, references, strict=True):
            np.testing.assert_allclose(one.item(), other.item(), rtol=1e-9)
        lengths.append(results[0].item())
    assert step.stats.traces == chances.stats.traces == 1
    assert np.mean(lengths[-4:]) > np.mean(lengths[:4])
    assert_same_weights(training.policy, twin.policy)


def test_dqn(tmp_path: Path) -> None:
    ours, theirs = program("dqn", "flamec", tmp_path), program("dqn", "torch", tmp_path)
    torch.manual_seed(0)
    training, twin = ours.Training(16), theirs.Training(16)
    for name in ("network", "target"):
        same_weights(getattr(training, name).double(), getattr(twin, name).double())
    step, better = flamec.compile(training.step), flamec.compile(training.better)

    def act(package: Any, decide: Any) -> Any:
        return lambda states: decide(*doubles(package, [states.astype(np.float32)])).numpy() == 1

    mine = ours.experience(act(flamec, better), 150, 32, seed=0)
    wanted = theirs.experience(act(torch, twin.better), 150, 32, seed=0)
    losses = []
    for found, expected in zip(mine, wanted, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        loss = step(*doubles(flamec, found)).item()
        np.testing.assert_allclose(loss, twin.step(*doubles(torch, expected)).item(), rtol=1e-9)
        losses.append(loss)
    assert step.stats.traces == better.stats.traces == 1
    assert losses[-1] < losses[0]
    assert_same_weights(training.network, twin.network)
    assert_same_weights(training.target, twin.target)
