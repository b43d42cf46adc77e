"""Run one function in flamec and in PyTorch on the same arrays and compare everything.

In: a function of (functional module, tensors). Compared: results, gradients under a
fixed random cotangent, and gradients of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F

torch = pytest.importorskip("torch")

Call = Callable[..., Any]


def to_flamec(array: np.ndarray, requires_grad: bool = False) -> Any:
    tensor = flamec.from_numpy(array.copy())
    tensor.requires_grad = requires_grad
    return tensor


def to_torch(array: np.ndarray, requires_grad: bool = False) -> Any:
    return torch.from_numpy(array.copy()).requires_grad_(requires_grad)


def _gradients(package: Any, result: Any, inputs: list[Any], seed: Any, second: bool) -> list[Any]:
    """The gradients, and those of a weighted sum of their squares."""
    grad = package.autograd.grad
    first = grad(result, inputs, seed, create_graph=second, allow_unused=True)
    found = list(first)
    if second:
        total = sum((g * g).sum() for g in first if g is not None and g.requires_grad)
        if not isinstance(total, int):
            found += grad(total, inputs, allow_unused=True)
    return found


def _array(value: Any) -> np.ndarray | None:
    return None if value is None else value.detach().numpy(force=True)


def derivatives(package: Any, x: Any, function: Call) -> list[np.ndarray]:
    """A function's value, its gradient by ``backward`` and by ``grad``, and the gradient of the sum
    of that gradient's squares; ``x`` is a leaf."""
    value = function(x)
    value.backward()
    (g,) = package.autograd.grad(function(x), x, create_graph=True)
    (h,) = package.autograd.grad((g * g).sum(), x)
    return [np.asarray(t.detach().numpy()) for t in (value, x.grad, g, h)]


def compare(
    call: Call,
    arrays: Sequence[np.ndarray],
    *,
    second: bool = True,
    gradients: bool = True,
    tolerance: float | None = None,
) -> None:
    """Assert that flamec and PyTorch agree; floating-point arrays get gradients."""
    floats = [a.dtype.kind == "f" for a in arrays]
    ours = [to_flamec(a, f and gradients) for a, f in zip(arrays, floats, strict=True)]
    theirs = [to_torch(a, f and gradients) for a, f in zip(arrays, floats, strict=True)]
    result = call(F, *ours)
    expected = call(torch.nn.functional, *theirs)
    assert tuple(result.shape) == tuple(expected.shape)
    assert result.dtype.name == str(expected.dtype).removeprefix("torch.")
    single = any(a.dtype == np.float32 for a in arrays)
    limit = tolerance or (3e-6 if single else 1e-11)
    check(result, expected, limit)
    if not gradients or not expected.requires_grad:
        return
    assert result.requires_grad
    seed = (
        np.random.default_rng(7)
        .standard_normal(tuple(expected.shape))
        .astype(_array(expected).dtype)
    )
    ours = [t for t in ours if t.requires_grad]
    theirs = [t for t in theirs if t.requires_grad]
    found = _gradients(flamec, result, ours, to_flamec(np.asarray(seed)), second)
    wanted = _gradients(torch, expected, theirs, to_torch(np.asarray(seed)), second)
    for position, value in enumerate(wanted):
        mine = found[position] if position < len(found) else None
        if value is None:
            assert mine is None or not np.any(_array(mine))
        elif mine is None:
            assert not np.any(_array(value)), f"gradient {position} is missing"
        else:
            check(mine, value, limit * 20)


def check(result: Any, expected: Any, limit: float) -> None:
    np.testing.assert_allclose(_array(result), _array(expected), rtol=limit, atol=limit)


def parsed(line: str) -> tuple[str, list[tuple[int, ...]]]:
    """An expression and the shapes of its operands, from ``expression | 2,3 4,5``."""
    text, shapes = line.split(" | ")
    return text, [tuple(map(int, s.split(","))) for s in shapes.split()]


def function_of(text: str) -> Call:
    """An expression over F (the functional module), x, w and b as a function of them."""
    code = compile(text, text, "eval")

    def call(functional: Any, x: Any, w: Any = None, b: Any = None) -> Any:
        return eval(code, {"F": functional, "x": x, "w": w, "b": b})

    return call
