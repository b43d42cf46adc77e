"""Chains of views and writes through them against NumPy, which shares memory the same way."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec

Change = Callable[[Any], Any]


def same(view: Change) -> tuple[Change, Change]:
    return view, view


def draw_view(rng: np.random.Generator, x: np.ndarray) -> tuple[Change, Change]:
    """The same view in NumPy and in flamec."""
    rank = x.ndim
    a, b = (int(rng.integers(rank)) if rank else 0 for _ in range(2))
    index = tuple(
        (slice(int(rng.integers(0, n + 1)), None, int(rng.integers(1, 3))), -1, slice(None), None)[
            int(rng.integers(4 if n else 3)) if n else 2
        ]
        for n in x.shape
    )
    options: list[tuple[Change, Change]] = [
        same(lambda x: x[(*index, Ellipsis)]),
        same(lambda x: x.reshape((1, *x.shape))),
        same(lambda x: x.reshape(-1)),
        (lambda x: x.squeeze(), lambda x: x.squeeze()),
        (lambda x: x.T, lambda x: x.T),
    ]
    if rank >= 1:
        options.append((lambda x: np.moveaxis(x, a, b), lambda x: x.movedim(a, b)))
        options.append((lambda x: np.swapaxes(x, a, b), lambda x: x.transpose(a, b)))
    if rank >= 2 and a != b:
        diagonal = (lambda x: x.diagonal(1, a, b), lambda x: x.diagonal(1, a, b))
        options.append(diagonal)
    return options[int(rng.integers(len(options)))]


def draw_change(rng: np.random.Generator, x: np.ndarray) -> tuple[Change, Change]:
    """The same write in NumPy and in flamec."""
    number = float(rng.integers(-9, 9))
    values = rng.integers(-9, 9, x.shape).astype(np.float64)
    mask = rng.random(x.shape) < 0.4

    def numpy_fill(x: np.ndarray) -> None:
        x[...] = number

    def numpy_copy(x: np.ndarray) -> None:
        x[...] = values

    def numpy_scale(x: np.ndarray) -> None:
        x[...] = x * 2 + values

    def numpy_mask(x: np.ndarray) -> None:
        x[mask] = number

    def flamec_mask(x: flamec.Tensor) -> None:
        x[flamec.tensor(mask)] = number

    options: list[tuple[Change, Change]] = [
        (numpy_fill, lambda x: x.fill_(number)),
        (numpy_copy, lambda x: x.copy_(flamec.tensor(values))),
        (numpy_scale, lambda x: x.mul_(2.0).add_(flamec.tensor(values))),
        (numpy_mask, flamec_mask),
    ]
    return options[int(rng.integers(len(options)))]


def writable(array: np.ndarray) -> np.ndarray:
    """NumPy's diagonals are read-only views of writable memory."""
    if not array.flags.writeable:
        array.flags.writeable = True
    return array


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("first", [0, 1000])
def test_chains_of_views_and_writes(first: int, compiled: bool) -> None:
    for seed in range(first, first + (5 if compiled else 100)):
        rng = np.random.default_rng(seed)
        base = rng.standard_normal(tuple(rng.integers(1, 5, int(rng.integers(1, 4)))))
        arrays = [base.copy()]
        steps: list[tuple[bool, int, Change]] = []
        for _ in range(10):
            i = int(rng.integers(len(arrays)))
            if rng.random() < 0.6:
                numpy_view, flamec_view = draw_view(rng, arrays[i])
                arrays.append(writable(numpy_view(arrays[i])))
                steps.append((True, i, flamec_view))
            else:
                numpy_change, flamec_change = draw_change(rng, arrays[i])
                numpy_change(arrays[i])
                steps.append((False, i, flamec_change))

        def program(x: flamec.Tensor, steps: Any = tuple(steps)) -> list[flamec.Tensor]:
            tensors = [x]
            for is_view, i, change in steps:
                result = change(tensors[i])
                if is_view:
                    tensors.append(result)
            return [t.clone() for t in tensors[1:]]

        x = flamec.tensor(base)
        results = (flamec.compile(program) if compiled else program)(x)
        for tensor, array in zip([x, *results], arrays, strict=True):
            np.testing.assert_array_equal(tensor.numpy(), array, err_msg=f"seed {seed}")


def test_strides_follow_numpy() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        array = np.zeros((3, 4, 2))
        tensor = flamec.from_numpy(array)
        for _ in range(3):
            if not array.size:
                break
            numpy_view, flamec_view = draw_view(rng, array)
            array, tensor = numpy_view(array), flamec_view(tensor)
        assert tensor.shape == array.shape
        assert tensor.is_contiguous() == array.flags.c_contiguous
        shares = np.shares_memory(tensor.numpy(), tensor._storage.base)
        assert shares or not array.size
        for size, ours, theirs in zip(array.shape, tensor.stride(), array.strides, strict=True):
            assert size <= 1 or not array.size or ours == theirs // 8


def test_results_share_memory_with_gradients_and_with_what_is_stored() -> None:
    """A write through one is seen in the other, as in eager mode."""

    def with_a_gradient(w: flamec.Tensor, kept: list[flamec.Tensor]) -> flamec.Tensor:
        (w * w).sum().backward()
        assert w.grad is not None
        kept[0] = w.grad[1:]
        return w.grad.detach()

    def with_an_effect(w: flamec.Tensor, kept: list[flamec.Tensor]) -> flamec.Tensor:
        h = w.detach() * 2
        kept[0] = h[1:]
        time.time()
        return h.view(3, 1)

    for function in (with_a_gradient, with_an_effect):
        w, kept = flamec.ones(3).requires_grad_(), [flamec.zeros(2)]
        step = flamec.compile(lambda f=function, w=w, kept=kept: f(w, kept), backend="evaluate")
        for _ in range(3):
            w.grad = None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                result = step()
            result.mul_(10.0)
            assert kept[0].tolist() == [20.0, 20.0]
            assert w.grad is None or w.grad.tolist() == [20.0] * 3
