"""What ``flamec demo`` trains: a small network on scikit-learn's handwritten digits.

Written like a user's program. ``flamec dump`` and its like take this file too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

import flamec
from flamec import nn, optim
from flamec.nn import functional as F

BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 numbers from 0 to 1, with labels; a fifth is kept for testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray

    def batches(
        self, seed: int, device: str = "cpu"
    ) -> Iterator[tuple[flamec.Tensor, flamec.Tensor]]:
        """One epoch of full batches, in an order that depends on the seed alone."""
        order = np.random.default_rng(seed).permutation(len(self.train_images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield (
                flamec.from_numpy(self.train_images[chosen]).to(device),
                flamec.from_numpy(self.train_labels[chosen]).to(device),
            )

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return len(self.train_images) // BATCH


def load() -> Digits:
    """The data; ModuleNotFoundError without scikit-learn, which brings it along."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order] / 16).astype(np.float32)
    labels = labels[order].astype(np.int64)
    split = len(images) * 4 // 5
    return Digits(images[:split], labels[:split], images[split:], labels[split:])


def default_device() -> str:
    """The GPU, if there is one."""
    return "cuda" if flamec.cuda.is_available() else "cpu"


class Training:
    """A model, its optimizer and one step of training; equal from run to run."""

    def __init__(self, device: str | None = None) -> None:
        flamec.manual_seed(0)
        self.device = device or default_device()
        model = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
        )
        self.model = model.to(self.device)
        self.optimizer = optim.Adam(self.model.parameters(), lr=0.001)

    def step(self, images: flamec.Tensor, labels: flamec.Tensor) -> flamec.Tensor:
        """Learn from one batch; the loss."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of images whose digit is recognised."""
        with flamec.no_grad():
            guesses = self.model(flamec.from_numpy(images).to(self.device)).argmax(dim=1)
        return float((guesses.cpu().numpy() == labels).mean())


def flamec_inputs() -> tuple[flamec.Tensor, flamec.Tensor]:
    """A batch for ``flamec dump``, ``bench`` and ``explain``."""
    return next(load().batches(0, default_device()))
