"""A function that is called with many sizes is compiled twice: for the first size, and for all."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F

WIDTH, HEADS = 16, 2


def block(x: flamec.Tensor, first: flamec.Tensor, second: flamec.Tensor) -> flamec.Tensor:
    """A layer of a transformer, with causal attention."""
    batch, length, _ = x.shape
    parts = F.layer_norm(x, (WIDTH,)) @ first
    q, k, v = parts.reshape(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return x + y.transpose(1, 2).reshape(batch, length, WIDTH) @ second


def test_fifty_batch_sizes_and_lengths_in_two_compilations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [
        flamec.from_numpy(rng.standard_normal(s, np.float32) / 4)
        for s in ((WIDTH, 3 * WIDTH), (WIDTH, WIDTH))
    ]
    batches, lengths = list(range(50)), list(range(50))
    for seed, sizes in enumerate((batches, lengths)):
        random.Random(seed).shuffle(sizes)
    sizes_in_turn = [*zip(batches, lengths, strict=True), (0, 0), (1, 1), (0, 1), (1, 0)]
    compiled = flamec.compile(block, backend="c", cache_folder=tmp_path)
    for batch, length in sizes_in_turn:
        x = flamec.from_numpy(rng.standard_normal((batch, length, WIDTH), np.float32))
        found, expected = compiled(x, *weights), block(x, *weights)
        assert found.shape == (batch, length, WIDTH)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-5, atol=2e-6)
    assert compiled.stats.traces <= 2, compiled.stats.guard_failures
    assert len(compiled.programs) <= 2


def _joined(a, b, c, d):  # type: ignore[no-untyped-def]
    x, y = flamec.cat([a, b]), flamec.cat([c, d])
    return flamec.einsum("ij,ij->", x + y, y), (x + y)[:, None].expand(-1, 3, -1).flatten(
        0, 1
    ) @ x.T


def _joined_to_ten(a):  # type: ignore[no-untyped-def]
    x = flamec.cat([a, a.new_ones(4, 2)])
    return x.T @ flamec.ones(10, 3), x.reshape(5, 4) @ flamec.ones(4, 2)


def _flat(a, b):  # type: ignore[no-untyped-def]
    x, y = a.reshape(-1), b.reshape(-1)
    return flamec.outer(x + y, x), (x * y).reshape(-1, 2) @ flamec.ones(2, 3), x @ y


def _every_other(a, b):  # type: ignore[no-untyped-def]
    x, y = a[:, ::2], b[:, ::2]
    return x @ y.T, (x * y) @ flamec.ones(x.shape[1], 2)


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (_joined, [[(n, 4), (m, 4), (k, 4), (n + m - k, 4)] for n, m, k in ((3, 5, 2), (4, 6, 5))]),
        (_joined_to_ten, [[(6, 2)]]),
        (_flat, [[(2 * k, 6), (3 * k, 4)] for k in (1, 2, 3)]),
        (_flat, [[(4, 10), (8, 5)], [(5, 8), (20, 2)], [(2, 12), (24, 1)]]),
        (_every_other, [[(2, 5), (2, 6)], [(2, 7), (2, 8)], [(2, 8), (2, 7)]]),
    ],
    ids=["sums", "a sum and a number", "multiples", "products", "quotients"],
)
def test_sizes_that_are_equal_by_way_of_others(
    function: Any, calls: list[list[tuple[int, int]]]
) -> None:
    """A guard says so, and later passes ask: the program could not be compiled."""
    rng = np.random.default_rng(1)
    compiled = flamec.compile(function, backend="c", dynamic=True if len(calls) == 1 else None)
    for shapes in calls:
        arrays = [flamec.from_numpy(rng.standard_normal(s, np.float32)) for s in shapes]
        for found, expected in zip(compiled(*arrays), function(*arrays), strict=True):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-5, atol=2e-5)
    assert compiled.stats.traces <= 2


def _rows_of_forty(x, y):  # type: ignore[no-untyped-def]
    return (x * x).reshape(40).flip(0) * 2, flamec.cat([y, y]) * x[:, 0]


def _classified(x, weight):  # type: ignore[no-untyped-def]
    places = F.max_pool2d(F.conv2d(x, x.new_ones(4, 1, 3, 3)), 2)
    return places.flatten(1) @ weight, places.reshape(-1, 36) @ weight


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        (_rows_of_forty, [[(8, 5), (4,)], [(4, 10), (2,)]]),
        (_classified, [[(2, 1, 8, 8), (36, 3)], [(3, 1, 8, 8), (36, 3)]]),
    ],
)
def test_gradients_where_products_of_sizes_are_numbers(
    function: Any, calls: list[list[tuple[int, ...]]]
) -> None:
    """Neither a convolution nor the way back asks again what guards have settled."""
    compiled = flamec.compile(function, backend="c", dynamic=True)
    rng = np.random.default_rng(1)
    for shapes in calls:
        arrays = [rng.standard_normal(s, np.float32) for s in shapes]
        gradients = []
        for run in (compiled, function):
            leaves = [flamec.from_numpy(a).requires_grad_() for a in arrays]
            sum(result.square().sum() for result in run(*leaves)).backward()
            gradients.append([leaf.grad.numpy() for leaf in leaves])
        for found, expected in zip(*gradients, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert compiled.stats.traces == 1
