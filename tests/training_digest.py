"""A training step with everything that adds in some order; prints a hash of its results' bytes.

``python training_digest.py DEVICE``: gathers and scatters with repeated indices, reductions along
rows, columns and everything, products, running sums, convolutions, dropout and an optimizer.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import flamec
from flamec import nn, optim

STEPS = 3


class Net(nn.Module):
    """An embedding, a convolution over time, two layers with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 24)
        self.convolution = nn.Conv1d(24, 40, 3, padding=1, stride=2)
        self.norm = nn.LayerNorm(40)
        self.hidden = nn.Linear(40, 330)
        self.batch_norm = nn.BatchNorm1d(330)
        self.output = nn.Linear(330, 7)

    def forward(self, tokens: flamec.Tensor) -> flamec.Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        x = self.norm(self.convolution(x).transpose(1, 2)).cumsum(1).flatten(0, 1)
        x = nn.functional.dropout(self.batch_norm(self.hidden(x)).relu(), 0.3)
        return self.output(x)


def results(device: str, wrap: Callable[[Any], Any]) -> list[flamec.Tensor]:
    """Losses, gradients and parameters after a few steps."""
    flamec.manual_seed(3)
    net = Net().to(device)
    adam = optim.AdamW(net.parameters(), lr=0.01)

    def step(tokens: flamec.Tensor, targets: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        adam.zero_grad()
        logits = net(tokens)
        loss = nn.functional.cross_entropy(logits, targets)
        counts = flamec.zeros(7, device=device).index_add(0, targets, logits.detach()[:, 0])
        spread = logits.detach().double().abs().clamp(0.5, 2.0).prod(0)
        (loss + 0.01 * logits.square().sum()).backward()
        adam.step()
        return loss.detach(), counts, spread, logits.detach().sum(0), logits.detach().mean()

    step = wrap(step)
    found: list[flamec.Tensor] = []
    for _ in range(STEPS):
        tokens = flamec.randint(0, 11, (37, 15)).to(device)
        targets = flamec.randint(0, 7, (37 * 8,)).to(device)
        found += step(tokens, targets)
    large = flamec.randn(130, 700, dtype=flamec.float64, device=device)
    found += wrap(lambda a: (a @ a.T, (a.T @ a).exp().sum(1), a.sum(), a.sum(0)))(large)
    return [*found, *(p.grad for p in net.parameters()), *net.parameters(), *net.buffers()]


def main() -> None:
    digest = hashlib.sha256()
    for tensor in results(sys.argv[1], flamec.compile(deterministic=True)):
        array = tensor.detach().cpu().numpy()
        assert np.isfinite(array).all(), "of NaNs and infinities every order gives the same"
        digest.update(array.tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main()
