"""Ints that change from call to call as sizes, indices and bounds: one program for all values."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F

LENGTH = 12
BOTH_SIGNS = range(-15, 16)
PLACES = range(LENGTH)


def _slice_is_set(x: Any, n: Any) -> Any:
    x[:, :n] = 5.0
    return x


def _element_is_set(x: Any, n: Any) -> Any:
    x[:, n] = 1.0
    x[:, n : n + 1] *= 2.0
    x[n % 3, flamec.tensor([1, 2])] = 7.0
    return x


def _views_are_written(x: Any, n: Any) -> Any:
    x[:, n].add_(1)
    row = x[n % 3]
    row -= 3
    return x


def _view_of_what_changes_later(x: Any, n: Any) -> Any:
    row = x[:, n]
    x.mul_(2)
    return row + 1


def _gradient(x: Any, n: Any) -> Any:
    x = x.detach().requires_grad_()
    (x[:, :n].square().sum() + x[:, n - 1].sum() + x[:, n // 2 : n // 2 + 2].sum()).backward()
    return x.grad


# name -> function, values, and how many programs there may be
CASES: dict[str, tuple[Callable[..., Any], Sequence[Any], int]] = {
    "element": (lambda x, n: x[:, n] * 2, range(-LENGTH, LENGTH), 2),
    "element in the last dimension": (lambda x, n: x[..., n] * 2, range(-4, 4), 2),
    "elements beside tensors": (
        lambda x, n: (x[n, flamec.tensor([1, 2])], x[flamec.tensor([1, 2]), n]),
        range(-3, 3),
        2,
    ),
    "computed element": (lambda x, n: x[:, n % 5] + x[:, n // 2], range(23), 2),
    "out of range": (lambda x, n: x[:, n] * 2, BOTH_SIGNS, 2),
    "from the start": (lambda x, n: x[:, :n] * 2, BOTH_SIGNS, 2),
    "from the end": (lambda x, n: x[:, -n:] * 2, BOTH_SIGNS, 2),
    "every third": (lambda x, n: x[:, n::3] * 2, BOTH_SIGNS, 2),
    "window": (lambda x, n: x[:, n : n + 2] * 2, range(LENGTH - 1), 2),
    "window that is clamped": (lambda x, n: x[:, n : n + 2] * 2, BOTH_SIGNS, 3),
    "middle": (lambda x, n: x[:, n:-n] * 2, range(LENGTH), 2),
    "without the last": (lambda x, n: x[:, : x.shape[1] - n] * 2, PLACES, 2),
    "huge": (lambda x, n: x[:, :n] * 2, [10**12, -(10**15), 10**30, 3, 5], 2),
    "narrow": (lambda x, n: x.narrow(1, n - 1, 2) * 2, BOTH_SIGNS, 2),
    "length of narrow": (lambda x, n: x.narrow(1, 3, n) * 2, BOTH_SIGNS, 2),
    "select": (lambda x, n: x.select(1, n) * 2, BOTH_SIGNS, 2),
    "select_scatter": (lambda x, n: x.select_scatter(x[:, 0] * 0, 1, n), PLACES, 2),
    "slice_scatter": (lambda x, n: x.slice_scatter(x[:, :2], 1, n, n + 2), range(11), 2),
    "put together again": (lambda x, n: flamec.cat([x[:, n:], x[:, :n]], 1), PLACES, 2),
    "split": (lambda x, n: x.split([n, LENGTH - n], 1), range(LENGTH + 1), 2),
    "roll": (lambda x, n: x.roll(n, 1), BOTH_SIGNS, 3),
    "pad": (lambda x, n: F.pad(x, (n, 1)), range(5), 2),
    "slice is set": (_slice_is_set, BOTH_SIGNS, 2),
    "element is set": (_element_is_set, PLACES, 2),
    "views are written": (_views_are_written, PLACES, 2),
    "view of what changes": (_view_of_what_changes_later, PLACES, 2),
    "returned views": (lambda x, n: (x[:, n], x[:, :n]), PLACES, 2),
    "sizes": (
        lambda x, n: (flamec.zeros(n, 3) + 1, flamec.arange(n) * 2, x[0, 0].expand(n, 4) * 2),
        range(20),
        2,
    ),
    "more sizes": (
        lambda x, n: (x[0].repeat(n, 1), flamec.eye(n), flamec.linspace(0, 1, n), x.new_ones(n)),
        range(6),
        2,
    ),
    "product of sizes": (lambda x, n: flamec.ones(n, n + 1).reshape(n * (n + 1)), range(9), 2),
    "size that is inferred": (lambda x, n: x.reshape(n, -1) * 2, [1, 2, 3, 4, 6, 12, 144], 2),
    "classes": (lambda x, n: F.one_hot(x[0, :2, 0].long() % 3, n), range(3, 9), 2),
    "repeated": (lambda x, n: x.repeat_interleave(n, 1), range(5), 2),
    "range with bounds": (lambda x, n: flamec.arange(n, 2 * n) + flamec.arange(-n, 0), PLACES, 2),
    "no range": (lambda x, n: flamec.arange(n), BOTH_SIGNS, 2),
    "steps": (lambda x, n: flamec.fori_loop(0, n, lambda i, v: v * 1.5 + i, x), range(8), 2),
    "mask": (lambda x, n: x * (flamec.arange(LENGTH) <= n)[:, None], PLACES, 2),
    "triangle": (lambda x, n: flamec.tril(x, n), range(-5, 6), 2),
    "numbers and sizes": (
        lambda x, n: (x[:, :n].mean(1) / n, n * 0.5, n + 1, x[:, :n].shape, x[:, n:].numel()),
        range(1, LENGTH),
        2,
    ),
    "as tensors": (lambda x, n: (flamec.as_tensor(n) * 2, flamec.tensor([n, 1])), PLACES, 2),
    "batch": (lambda x, n: flamec.vmap(lambda v: v[:n].sum(0) + v[n])(x), PLACES, 2),
    "gradient": (_gradient, range(1, LENGTH), 2),
    "value is read": (lambda x, n: x[:, :n] * x[0, 0, 1].item(), PLACES, 2),
    # where Python decides, the program differs: one for each side, and the first
    "decided": (lambda x, n: x * 2 if n > 5 else x * 3, PLACES, 3),
    "decided by a remainder": (lambda x, n: x * 2 if n % 4 == 0 else x, PLACES, 3),
    "warm-up": (lambda x, n: x * min(1.0, n / 10), range(20), 3),
    "clamped by Python": (lambda x, n: x[:, max(0, n - 4) : n], PLACES, 3),
    "dimension": (lambda x, n: x.sum(n), [0, 1, 2, 0, 1, -1], 4),
    "turns": (lambda x, n: sum([x * i for i in range(n)], x), [0, 1, 2, 3, 1, 2, 0], 4),
    "text": (lambda x, n: (x * 2, f"{n}"), [0, 1, 2, 1, 0], 3),
}

IN_C = (
    "element",
    "from the end",
    "window",
    "slice is set",
    "views are written",
    "sizes",
    "gradient",
)


def _input() -> flamec.Tensor:
    return flamec.arange(3 * LENGTH * 4).reshape(3, LENGTH, 4) / 7


def _result(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (IndexError, RuntimeError) as error:
        return type(error), str(error).replace(" (at", "(").split("(")[0]


def _assert_same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    if isinstance(wanted, flamec.Tensor):
        assert found.shape == wanted.shape and found.dtype is wanted.dtype
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)
    elif isinstance(wanted, tuple) and not isinstance(wanted, flamec.Size):
        for a, b in zip(found, wanted, strict=True):
            _assert_same(a, b)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", CASES)
def test_ints(name: str) -> None:
    function, values, most = CASES[name]
    backend = "auto" if name in IN_C else "evaluate"
    compiled = flamec.compile(function, backend=backend)
    order = list(values) if most > 2 else random.Random(name).sample(list(values), len(values))
    for n in order:
        eager, own = _input(), _input()
        wanted, found = _result(function, eager, n), _result(compiled, own, n)
        _assert_same(found, wanted)
        _assert_same(own, eager)
    assert len(compiled.programs) <= most and not compiled.stats.evictions
    assert not compiled.stats.python_runs


def test_without_dynamic_sizes_each_value_has_a_program() -> None:
    compiled = flamec.compile(lambda x, n: x[:, :n] + x[:, n : n + 1], dynamic=False)
    for n in (1, 2, 3, 2, 1):
        _assert_same(compiled(_input(), n), _input()[:, :n] + _input()[:, n : n + 1])
    assert compiled.stats.traces == 3


PLACES_ALONE = ("element", "element in the last dimension", "window", "narrow", "computed element")
PLACES_ALONE += ("element is set", "views are written", "view of what changes", "select")
WITH_SIZES = ("from the end", "every third", "gradient", "sizes")


@pytest.mark.parametrize("name", (*PLACES_ALONE, *WITH_SIZES))
def test_on_a_gpu_places_are_no_sizes(name: str, gpu: Any) -> None:
    """A program for a GPU is captured for its sizes, but not for its numbers."""
    function, values, _ = CASES[name]
    compiled = flamec.compile(function)
    for n in random.Random(name).sample(list(values), len(values)):
        eager, own = _input(), _input().to(gpu)
        wanted, found = _result(function, eager, n), _result(compiled, own, n)
        _assert_same(_on_cpu(found), wanted)
        _assert_same(own.cpu(), eager)
    assert len(compiled.programs) <= 2
    symbols = compiled.programs[0].captured.symbols
    assert not symbols if name in PLACES_ALONE else symbols


def _on_cpu(value: Any) -> Any:
    if isinstance(value, tuple) and not isinstance(value, flamec.Size):
        return tuple(map(_on_cpu, value))
    return value.cpu() if isinstance(value, flamec.Tensor) else value


def test_what_is_set_for_other_values_stays_apart() -> None:
    """The program does not know the size of the view, which its caller binds, too."""
    compiled = flamec.compile(lambda x, n: (x * n, x[n:]))
    arrays = [flamec.arange(8.0) + k for k in range(8)]
    for n in (0, 1, 2, 3, 5, 1, 7, 2, 1, 0, 5):
        product, rest = compiled(arrays[n], n)
        assert flamec.equal(product, arrays[n] * n)
        assert flamec.equal(rest, arrays[n][n:])
    assert compiled.stats.traces == 2
