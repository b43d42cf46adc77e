"""EmbeddingBag by hand: bags against loops over NumPy rows, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import flamec
from flamec import nn

ENTRIES = np.array([4, 1, 0, 0, 3, 1, 2])
OFFSETS = np.array([0, 3, 3, 5])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_by_hand(mode: str, compiled: bool) -> None:
    module = nn.EmbeddingBag(5, 3, mode=mode, padding_idx=1, dtype=flamec.float64)
    table = module.weight.detach().numpy()
    assert not table[1].any()
    bags = [[4, 0], [], [0, 3], [2]]  # without the padding
    wanted = [getattr(table[b], mode)(axis=0) if b else np.zeros(3) for b in bags]
    call = flamec.compile(module) if compiled else module
    result = call(flamec.from_numpy(ENTRIES), flamec.from_numpy(OFFSETS))
    np.testing.assert_allclose(result.detach().numpy(), np.stack(wanted), rtol=1e-15)
    result.sum().backward()
    gradient = module.weight.grad.numpy()
    assert not gradient[1].any()
    total = {"sum": 15, "mean": 9, "max": 9}[mode]  # a sum has 5 entries, others 3 bags, of width 3
    assert gradient.sum() == pytest.approx(total)


def test_nan_is_the_largest() -> None:
    table = flamec.tensor([[1.0], [float("nan")], [3.0]])
    for entries in ([[0, 1, 2]], [[1, 0, 2]]):
        result = nn.functional.embedding_bag(flamec.tensor(entries), table, mode="max")
        assert np.isnan(result.numpy()).all()


def test_a_frozen_table_and_what_is_refused() -> None:
    table = nn.EmbeddingBag.from_pretrained(flamec.ones(3, 2), mode="sum")
    assert not table.weight.requires_grad
    np.testing.assert_array_equal(table(flamec.tensor([[0, 2, 1]])).numpy(), [[3, 3]])
    with pytest.raises(RuntimeError, match=r"offsets\[0\] has to be 0.*test_embedding_bag.py"):
        table(flamec.tensor([0, 1]), flamec.tensor([1]))
    with pytest.raises(IndexError):
        table(flamec.tensor([[-1]]))
    with pytest.raises(NotImplementedError, match="sparse"):
        nn.EmbeddingBag(3, 2, sparse=True)(flamec.tensor([[0]]))
    with pytest.raises(AssertionError, match="padding_idx"):
        nn.EmbeddingBag(3, 2, padding_idx=3)
