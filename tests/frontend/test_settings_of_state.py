"""Settings that a function keeps from call to call: numbers and shapes where there was None, flags
that a class gives first. They are part of the program, as PyTorch's compiler has them."""

from __future__ import annotations

from typing import Any

import pytest

import flamec
from flamec import nn

T = flamec.Tensor


class Rotary(nn.Module):
    """Cosines for the last length, kept beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.length: int | None = None
        self.cosines: T | None = None

    def forward(self, x: T) -> T:
        if self.length != x.shape[1]:
            self.length = x.shape[1]
            self.cosines = flamec.arange(x.shape[1]).float().cos()
        assert self.cosines is not None
        return x * self.cosines


class Masked(nn.Module):
    """A mask for the last shape."""

    shape: Any = None

    def forward(self, x: T) -> T:
        if self.shape != x.shape:
            self.shape = x.shape
            self.mask = flamec.ones(x.shape).cumsum(1)
        return x * self.mask


class Begun(nn.Module):
    """A flag of the class that the first call sets."""

    begun = False

    def __init__(self) -> None:
        super().__init__()
        self.calls: int | None = None

    def forward(self, x: T) -> T:
        self.calls = (self.calls or 0) + 1
        if not self.begun:
            self.begun = True
            return x * self.calls
        return x * (2 if self.begun else 3) * self.calls


@pytest.mark.parametrize("kind", [Rotary, Masked, Begun])
def test_settings_are_kept(kind: type[nn.Module]) -> None:
    eager, module = kind(), kind()
    compiled = flamec.compile(module, fullgraph=True)
    for length in (4, 4, 6, 6, 5, 4, 7, 7):
        x = flamec.ones(2, length)
        assert compiled(x).tolist() == eager(x).tolist()
        for name in ("length", "shape", "begun", "calls"):
            assert getattr(module, name, 0) == getattr(eager, name, 0)
            assert (name in vars(module)) == (name in vars(eager))
    assert compiled.stats.traces <= 6
    traces = compiled.stats.traces
    for length in (9, 9, 8):  # another length compiles nothing
        compiled(flamec.ones(2, length))
    assert compiled.stats.traces == traces and compiled.stats.python_runs == 0
