"""Whole programs as PyTorch's users write them, and how either package runs them.

The programs are ``tests/parity/programs_*.txt``, read as text with ``torch`` changed to the
package's name. In them ``T``, ``U`` and ``I`` give the same numbers to either (normal, uniform,
whole), ``fill`` the same weights; ``compiled`` is ``compile``, or nothing; ``compiled_forward``,
for a model whose call alone is compiled, too; ``device`` is where they compute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import flamec

FOLDER = Path(__file__).parent / "parity"


@dataclass(frozen=True)
class Source:
    """The text of a program: a function without arguments in a file."""

    file: Path
    name: str

    def __str__(self) -> str:
        return self.name


def sources(*files: str) -> list[Source]:
    """The programs of these files, without folder and ending."""
    paths = [FOLDER / f"{file}.txt" for file in files]
    return [
        Source(path, name)
        for path in paths
        for name in re.findall(r"^def (\w+)\(\):", path.read_text(), re.MULTILINE)
    ]


class _Numbers:
    """The same numbers for either package."""

    def __init__(self, package: Any, device: str) -> None:
        self._package, self._device = package, device
        self._random = np.random.default_rng(0)

    def _tensor(self, values: Any, dtype: Any = None) -> Any:
        return self._package.from_numpy(np.asarray(values, dtype)).to(self._device)

    def normal(self, *shape: int) -> Any:
        return self._tensor(self._random.standard_normal(shape), np.float32)

    def uniform(self, *shape: int) -> Any:
        return self._tensor(self._random.random(shape), np.float32)

    def whole(self, high: int, *shape: int) -> Any:
        return self._tensor(self._random.integers(0, high, shape))

    def fill(self, module: Any) -> Any:
        with self._package.no_grad():
            for parameter in module.parameters():
                parameter.copy_(self.normal(*parameter.shape) * 0.2)
        return module


def plain(function: Any = None, fullgraph: bool = True) -> Any:
    """In the place of ``compile``: the function as it is."""
    return (lambda f: f) if function is None else function


class Compiled:
    """``compile``, with a list of what it made."""

    def __init__(self) -> None:
        self.functions: list[Any] = []

    def __call__(self, function: Any = None, fullgraph: bool = True) -> Any:
        if function is None:
            return lambda f: self(f, fullgraph)
        self.functions.append(flamec.compile(function, fullgraph=fullgraph))
        return self.functions[-1]


def results(
    package: Any,
    source: Source,
    compiled: Callable[..., Any],
    device: str = "cpu",
    compiled_forward: Callable[[Any], Any] = lambda model: model,
) -> dict[str, Any]:
    """What a program gives, by place; tensors as arrays."""
    numbers = _Numbers(package, device)
    scope: dict[str, Any] = {
        "__name__": f"programs_of_{package.__name__}",
        "T": numbers.normal,
        "U": numbers.uniform,
        "I": numbers.whole,
        "fill": numbers.fill,
        "compiled": compiled,
        "compiled_forward": compiled_forward,
        "device": device,
    }
    text = re.sub(r"\btorch\b", package.__name__, source.file.read_text())
    exec(compile(text, str(source.file), "exec", dont_inherit=True), scope)
    return dict(_leaves(scope[source.name](), source.name))


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            yield from _leaves(part, f"{place}.{key}")
    elif hasattr(value, "detach"):
        yield place, value.detach().cpu().numpy()
    else:
        yield place, value


def compare(
    found: dict[str, Any], expected: dict[str, Any], rtol: float = 5e-4, atol: float = 5e-5
) -> None:
    """AssertionError for other places, shapes, dtypes or values."""
    assert list(found) == list(expected) and len(expected) > 2
    for place, value in expected.items():
        mine = found[place]
        if isinstance(value, np.ndarray):
            assert (mine.shape, mine.dtype) == (value.shape, value.dtype), place
            np.testing.assert_allclose(mine, value, rtol=rtol, atol=atol, err_msg=place)
        elif isinstance(value, float):
            np.testing.assert_allclose(mine, value, rtol=rtol, atol=atol, err_msg=place)
        else:
            assert str(mine) == str(value), place
