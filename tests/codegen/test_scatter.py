"""Scatters beside folds of the same rows: each kernel visits the rows in the way it needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import flamec


def both_sums(rows: flamec.Tensor, places: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
    """Sums over all rows, over each row, and of the rows with the same place."""
    centred = rows - rows.mean(1, keepdim=True)
    table = flamec.zeros(50, rows.shape[1]).index_add(0, places, centred)
    return rows.sum(0), centred.sum(1), table


def compiled(
    function: Callable[..., tuple[flamec.Tensor, ...]],
    shape: tuple[int, int],
    count: int,
    tolerance: float,
) -> tuple[flamec.Tensor, flamec.Tensor, tuple[flamec.Tensor, ...]]:
    """Rows, their places (``count`` there are), and what the function gives, as in eager mode."""
    random = np.random.default_rng(0)
    rows = flamec.from_numpy(random.standard_normal(shape).astype(np.float32))
    places = flamec.from_numpy(random.integers(0, count, shape[0]))
    found = flamec.compile(function)(rows, places)
    for array, wanted in zip(found, function(rows, places), strict=True):
        np.testing.assert_allclose(array.numpy(), wanted.numpy(), rtol=tolerance, atol=tolerance)
    return rows, places, found


def test_rows_are_folded_and_scattered() -> None:
    for shape in ((400, 600), (64, 7), (3, 256)):
        compiled(both_sums, shape, 50, 1e-4)


def test_whole_rows_and_single_elements_are_put_by_the_same_indices() -> None:
    """A row goes to one place, an element to a place of its own: these are other loops."""

    def sums_and_maxima(rows: flamec.Tensor, places: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        sums = flamec.zeros(5, rows.shape[1]).index_add(0, places, rows)
        wide = places[:, None].expand_as(rows)
        maxima = flamec.full_like(sums, -flamec.inf).scatter_reduce(0, wide, rows, "amax")
        turned = flamec.zeros(rows.shape[1], 5).scatter_add(1, wide.mT, rows.mT)
        return sums, maxima, sums + maxima, turned

    for count, columns in ((5, 2), (64, 7), (30, 16)):
        rows, places, found = compiled(sums_and_maxima, (count, columns), 5, 1e-5)
        oracle = np.full((5, columns), -np.inf, np.float32)
        np.maximum.at(oracle, places.numpy(), rows.numpy())
        np.testing.assert_array_equal(found[1].numpy(), oracle)


def test_an_element_is_put_beside_a_row_that_is_read() -> None:
    """The scatter has no loops, the row has: all of it is written where both are one kernel."""

    def moved(rows: flamec.Tensor, place: flamec.Tensor, weight: flamec.Tensor) -> object:
        row = rows[place]
        used = flamec.zeros(rows.shape[0], 1).index_add(0, place, rows.sum((0, 1)).view(1, 1))
        return row, row.mT @ weight, used

    random = np.random.default_rng(0)
    rows = flamec.from_numpy(random.standard_normal((5, 4)).astype(np.float32))
    weight = flamec.from_numpy(random.standard_normal((1, 3)).astype(np.float32))
    place = flamec.tensor([3])
    row, product, used = flamec.compile(moved)(rows, place, weight)
    np.testing.assert_array_equal(row.numpy(), rows.numpy()[3:4])
    np.testing.assert_allclose(product.numpy(), rows.numpy()[3:4].T @ weight.numpy(), rtol=1e-6)
    np.testing.assert_allclose(used.numpy()[3, 0], rows.numpy().sum(), rtol=1e-5)
