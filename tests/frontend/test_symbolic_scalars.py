"""Programs in which symbolic sizes stand beside scalars that a kernel computes once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F

TABLE = flamec.from_numpy(np.arange(12.0).reshape(4, 3))

CASES: dict[str, Callable[[flamec.Tensor], flamec.Tensor]] = {
    "size_as_a_value": lambda n: flamec.where(n % 2 < 1, n.shape[1], n),
    "sizes_in_sums": lambda n: (n / n.shape[1]).exp().sum() * n.shape[0],
    "embedding": lambda n: F.embedding(n % 4, TABLE, padding_idx=2),
    "embedding_bag": lambda n: F.embedding_bag(n % 4, TABLE, mode="sum"),
}


@pytest.mark.parametrize("name", CASES)
def test_scalars_beside_sizes(name: str) -> None:
    function = CASES[name]
    compiled = flamec.compile(function, dynamic=True)
    for rows, columns in [(3, 5), (4, 7), (6, 9)]:
        n = flamec.arange(rows * columns).reshape(rows, columns)
        wanted, got = function(n).numpy(), compiled(n).numpy()
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_a_size_of_0_that_leaves_another_open_is_the_error_of_eager_mode() -> None:
    compiled = flamec.compile(lambda x, k: x.reshape(k, -1), backend="evaluate")
    for k in (2, 3, 6):
        assert compiled(flamec.zeros(2, 3), k).shape == (k, 6 // k)
    with pytest.raises(RuntimeError, match="the size for -1 can be any value"):
        compiled(flamec.zeros(2, 3), 0)
    assert compiled(flamec.zeros(2, 3), 1).shape == (1, 6)
    assert compiled.stats.traces == 3  # the second is for all numbers, the third was for the error


def test_a_size_that_is_left_open_by_a_symbolic_one_of_0_is_the_error_of_eager_mode() -> None:
    compiled = flamec.compile(lambda x: x.reshape(x.shape[0], -1) * 2, backend="evaluate")
    for rows in (2, 3, 6):
        assert compiled(flamec.zeros(rows, 2, 2)).shape == (rows, 4)
    with pytest.raises(RuntimeError, match="the size for -1 can be any value"):
        compiled(flamec.zeros(0, 2, 2))
    assert compiled(flamec.zeros(1, 2, 2)).shape == (1, 4)
