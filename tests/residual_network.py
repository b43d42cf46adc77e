"""A deep network whose activations are most of its memory."""

from __future__ import annotations

from typing import Any

from flamec import nn
from flamec.nn import functional as F


class Block(nn.Module):
    """x + dropout(down(gelu(up(norm(x))))), four times as wide inside."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


def residual_network(width: int, layers: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(Block(width, dropout) for _ in range(layers)), nn.Linear(width, outputs))
