"""The GAN, the VAE and the diffusion model follow PyTorch: the same source, weights and noise.

All in float64, so that the curves agree to rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_programs import assert_same_weights, doubles, follow, program, same_weights
from torch_comparison import torch

import flamec

pytest.importorskip("sklearn")


def pair(name: str, networks: tuple[str, ...], folder: Path, *sizes: Any) -> tuple[Any, Any]:
    """The example's training in flamec and in PyTorch, with the same initial weights."""
    ours, theirs = (program(name, framework, folder) for framework in ("flamec", "torch"))
    torch.manual_seed(0)
    training, twin = ours.Training(*sizes), theirs.Training(*sizes)
    for network in networks:
        getattr(training, network).double()
        same_weights(getattr(training, network), getattr(twin, network).double())
    training.images = ours.digits()[0][0]
    return training, twin


def test_gan(tmp_path: Path) -> None:
    training, twin = pair("gan", ("generator", "discriminator"), tmp_path, 4)
    random = np.random.default_rng(0)
    batches = [
        (training.images[16 * n : 16 * n + 16], random.standard_normal((16, 32))) for n in range(30)
    ]
    losses = follow(flamec.compile(training.step), twin.step, batches)
    assert losses[-1, 0] < losses[0, 0]
    assert_same_weights(training.discriminator, twin.discriminator, atol=1e-7)
    assert_same_weights(training.generator, twin.generator, atol=1e-7)
    noise = random.standard_normal((5, 32))
    found, expected = training.draw(*doubles(flamec, [noise])), twin.draw(*doubles(torch, [noise]))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)


def test_vae(tmp_path: Path) -> None:
    training, twin = pair("vae", ("model",), tmp_path, 4, 32)
    random = np.random.default_rng(0)
    batches = [
        (training.images[32 * n : 32 * n + 32], random.standard_normal((32, 4))) for n in range(40)
    ]
    losses = follow(flamec.compile(training.step), twin.step, batches)
    assert losses[-1] < losses[0] * 0.8
    assert_same_weights(training.model, twin.model)


def test_diffusion(tmp_path: Path) -> None:
    training, twin = pair("diffusion", ("denoiser",), tmp_path, 8, 20)
    random = np.random.default_rng(0)
    batches = [
        (
            2 * training.images[16 * n : 16 * n + 16] - 1,
            random.integers(0, 20, 16),
            random.standard_normal((16, 1, 8, 8)),
        )
        for n in range(25)
    ]
    losses = follow(flamec.compile(training.step), twin.step, batches)
    assert losses[-5:].mean() < losses[:5].mean() * 0.8
    assert_same_weights(training.denoiser, twin.denoiser)
    x = random.standard_normal((3, 1, 8, 8))
    for time in (19, 7, 0):
        arrays = [x, np.full(3, time), random.standard_normal(x.shape)]
        found = flamec.compile(training.earlier)(*doubles(flamec, arrays))
        expected = twin.earlier(*doubles(torch, arrays))
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6, atol=1e-9)
