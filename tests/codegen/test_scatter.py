"""Scatters beside folds of the same rows: each kernel visits the rows in the way it needs."""

from __future__ import annotations

import numpy as np

import flamec


def both_sums(rows: flamec.Tensor, places: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
    """Sums over all rows, over each row, and of the rows with the same place."""
    centred = rows - rows.mean(1, keepdim=True)
    table = flamec.zeros(50, rows.shape[1]).index_add(0, places, centred)
    return rows.sum(0), centred.sum(1), table


def test_rows_are_folded_and_scattered() -> None:
    random = np.random.default_rng(0)
    for count, columns in ((400, 600), (64, 7), (3, 256)):
        rows = flamec.from_numpy(random.standard_normal((count, columns)).astype(np.float32))
        places = flamec.from_numpy(random.integers(0, 50, count))
        found = flamec.compile(both_sums)(rows, places)
        for array, wanted in zip(found, both_sums(rows, places), strict=True):
            np.testing.assert_allclose(array.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-4)
