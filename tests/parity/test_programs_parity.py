"""Whole programs as PyTorch's users write them: with other imports they give the same results.

Compared are losses, gradients and weights after some steps, eager and compiled in one piece.
The programs are in ``pytorch_programs.txt``; weights and inputs come from one sequence of numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

TEXT = (Path(__file__).parent / "pytorch_programs.txt").read_text()
NAMES = [n for n in re.findall(r"^def (\w+)\(\):", TEXT, re.MULTILINE) if n != "gradients"]


class Numbers:
    """The same numbers for either package."""

    def __init__(self, package: Any) -> None:
        self._package, self._random = package, np.random.default_rng(0)

    def normal(self, *shape: int) -> Any:
        values = self._random.standard_normal(shape)
        return self._package.from_numpy(np.asarray(values, np.float32))

    def uniform(self, *shape: int) -> Any:
        return self._package.from_numpy(np.asarray(self._random.random(shape), np.float32))

    def whole(self, high: int, *shape: int) -> Any:
        return self._package.from_numpy(np.asarray(self._random.integers(0, high, shape)))

    def fill(self, module: Any) -> Any:
        with self._package.no_grad():
            for parameter in module.parameters():
                parameter.copy_(self.normal(*parameter.shape) * 0.2)
        return module


def results(package: Any, name: str, compiled: Callable[[Any], Any]) -> dict[str, Any]:
    """What a program gives, by place."""
    numbers = Numbers(package)
    scope: dict[str, Any] = {
        "__name__": f"programs_of_{package.__name__}",
        "T": numbers.normal,
        "U": numbers.uniform,
        "I": numbers.whole,
        "fill": numbers.fill,
        "compiled": compiled,
    }
    exec(compile(re.sub(r"\btorch\b", package.__name__, TEXT), name, "exec"), scope)
    return dict(_leaves(scope[name](), name))


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from _leaves(part, f"{place}.{key}")
    elif hasattr(value, "detach"):
        yield place, value.detach().numpy()
    else:
        yield place, value


@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("name", NAMES)
def test_program(name: str, way: str) -> None:
    made = []

    def whole(function: Any) -> Any:
        made.append(flamec.compile(function, fullgraph=True))
        return made[-1]

    expected = results(torch, name, lambda f: f)
    found = results(flamec, name, whole if way == "compiled" else lambda f: f)
    assert list(found) == list(expected) and len(expected) > 2
    for place, value in expected.items():
        mine = found[place]
        if not isinstance(value, np.ndarray):
            assert mine == pytest.approx(value) if isinstance(value, float) else mine == value
            continue
        assert (mine.shape, mine.dtype) == (value.shape, value.dtype), place
        np.testing.assert_allclose(mine, value, rtol=5e-4, atol=5e-5, err_msg=place)
    assert all(f.stats.traces <= 2 for f in made)  # with gradients to add to, and without
