"""Models and objects whose state compiled functions read and write, for several files of tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flamec
from flamec import nn

T = flamec.Tensor


class Pair(NamedTuple):
    a: T
    b: T


@dataclass(slots=True)
class Slots:
    a: Any = None


class State(nn.Module):
    """What functions change; two equal ones are compared after equal calls."""

    default: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.a: Any = None
        self.b: Any = None
        self.flag = False
        self.total: Any = 0.0
        self.list = [flamec.zeros(3), flamec.zeros(3)]
        self.table: dict[str, Any] = {"a": None, "b": flamec.ones(3)}
        self.slots = Slots()
        self.weight = nn.Parameter(flamec.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("mean", flamec.zeros(3))

    def seen(self) -> list[Any]:
        return [
            self.a, self.b, self.flag, self.total, self.list, self.table, self.slots.a,
            self.default, self.mean, dict(self.named_buffers()), self.weight.grad,
        ]  # fmt: skip


def average(s: State, x: T) -> Any:
    s.mean = 0.9 * s.mean + 0.1 * x
    return x - s.mean


class Counter:
    def __init__(self) -> None:
        self.count = 0
        self.rate = 0.5
        self.pair = (1.0, 2)
        self.table = {"a": 1.5, "n": 3}
        self.list = [0.25, 4]


def training(make: Callable[[Any], Any]) -> tuple[Any, Any, Callable[[T], T]]:
    flamec.manual_seed(0)
    model = nn.Linear(3, 2, dtype=flamec.float64)
    optimizer = make(model.parameters())

    def step(x: T) -> T:
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, step
