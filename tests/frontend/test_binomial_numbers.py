"""Binomial random numbers: their distribution by SciPy, eager and compiled, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import flamec


@pytest.mark.parametrize("n, p", [(3, 0.4), (40, 0.02), (40, 0.5), (1000, 0.97), (200000, 0.3)])
def test_binomial_numbers_have_their_distribution(n: int, p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    flamec.manual_seed(5)
    count = 4000
    counts = flamec.full((count,), float(n), dtype=flamec.float64)
    x = flamec.binomial(counts, flamec.full((count,), p, dtype=flamec.float64)).numpy()
    law = stats.binom(n, p)
    assert x.min() >= 0 and x.max() <= n and (x == np.floor(x)).all()
    # Kolmogorov-Smirnov, passed by 999 of 1000 of continuous laws
    places, occurring = np.unique(x, return_counts=True)
    empirical = np.cumsum(occurring) / count
    assert np.abs(empirical - law.cdf(places)).max() * np.sqrt(count) < 1.95


def test_binomial_numbers_are_the_same_compiled_and_checked() -> None:
    n, p = flamec.tensor([0.0, 5.0, 100.0, 7.0]), flamec.tensor([0.5, 1.0, 0.7, 0.0])
    found = []
    for function in (flamec.binomial, flamec.compile(flamec.binomial, fullgraph=True)):
        flamec.manual_seed(9)
        found.append(function(n, p).tolist())
    assert found[0] == found[1]
    assert found[0][:2] == [0.0, 5.0] and found[0][3] == 0.0
    for count, prob in (([-1.0], [0.5]), ([1.0], [1.5]), ([1], [0.5])):
        with pytest.raises(RuntimeError, match="binomial"):
            flamec.binomial(flamec.tensor(count), flamec.tensor(prob))
    assert flamec.binomial(flamec.ones(3, 1), flamec.ones(2)).shape == (3, 2)
