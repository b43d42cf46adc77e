"""Datasets, samplers and collation."""

from __future__ import annotations

from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
from number_datasets import Counting, Numbers

import flamec
from flamec.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
    random_split,
)

Pair = namedtuple("Pair", "x y")


def test_datasets() -> None:
    x, y = flamec.arange(6).reshape(3, 2), flamec.tensor([5, 6, 7])
    pairs = TensorDataset(x, y)
    assert len(pairs) == 3 and [t.tolist() for t in pairs[1]] == [[2, 3], 6]
    with pytest.raises(AssertionError, match="Size mismatch"):
        TensorDataset(x, flamec.ones(2))
    both = pairs + TensorDataset(flamec.zeros(2, 2), flamec.tensor([8, 9]))
    assert isinstance(both, ConcatDataset) and len(both) == 5
    assert [both[i][1].item() for i in range(-5, 5)] == [5, 6, 7, 8, 9] * 2
    for index, error in ((5, IndexError), (-6, ValueError)):
        with pytest.raises(error):
            both[index]
    part = Subset(both, [4, 0])
    assert [s[1].item() for s in part.__getitems__([0, 1])] == [9, 5] and len(part) == 2
    stacked = StackDataset(a=pairs, b=Subset(pairs, [2, 1, 0]))
    assert stacked[0]["b"][1].item() == 7 and len(stacked) == 3
    chained = Counting(2) + Counting(3)
    assert isinstance(chained, ChainDataset) and list(chained) == [0, 1, 0, 1, 2]


def test_random_split() -> None:
    whole = Numbers(10)
    parts = random_split(whole, [0.55, 0.45], flamec.Generator().manual_seed(1))
    assert [len(p) for p in parts] == [6, 4]
    again = random_split(whole, [6, 4], flamec.Generator().manual_seed(1))
    assert [p.indices for p in parts] == [p.indices for p in again]
    assert sorted(i for p in parts for i in p.indices) == list(range(10))
    with pytest.raises(ValueError, match="Sum of input lengths"):
        random_split(whole, [6, 5])
    with pytest.raises(ValueError, match="between 0 and 1"):
        random_split(whole, [1.5, -0.5])


def test_samplers() -> None:
    source = Numbers(5)
    generator = flamec.Generator().manual_seed(3)
    assert list(SequentialSampler(source)) == [0, 1, 2, 3, 4]
    shuffled = list(RandomSampler(source, generator=generator))
    assert sorted(shuffled) == [0, 1, 2, 3, 4]
    assert len(list(RandomSampler(source, num_samples=12))) == 12
    drawn = list(RandomSampler(source, replacement=True, num_samples=50, generator=generator))
    assert set(drawn) == set(range(5)) and len(drawn) == 50
    assert sorted(SubsetRandomSampler([7, 3])) == [3, 7]
    weighted = WeightedRandomSampler([0.0, 1.0, 0.0, 3.0], 200, generator=generator)
    counts = np.bincount(list(weighted), minlength=4)
    assert counts[[0, 2]].sum() == 0 and 20 < counts[1] < 90 and len(weighted) == 200
    assert sorted(WeightedRandomSampler([1.0, 2.0], 2, replacement=False)) == [0, 1]
    batches = BatchSampler(SequentialSampler(source), 2, False)
    assert list(batches) == [[0, 1], [2, 3], [4]] and len(batches) == 3
    batches = BatchSampler(SequentialSampler(source), 2, True)
    assert list(batches) == [[0, 1], [2, 3]] and len(batches) == 2
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="batch_size should be"):
            BatchSampler(range(3), bad, False)  # type: ignore[arg-type]
    for number in (-1, 0):
        with pytest.raises(ValueError, match=f"should be a positive .*num_samples={number}"):
            RandomSampler(source, num_samples=number)
    with pytest.raises(ValueError, match="but got num_samples=0"):
        DataLoader([], shuffle=True)  # type: ignore[arg-type]  # a list is a dataset
    assert list(DataLoader([])) == []  # type: ignore[arg-type]


class Fixed(UserDict[str, Any]):
    """A mapping whose copies refuse other entries."""

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("fixed")


def test_collation() -> None:
    batch = [
        {"a": flamec.ones(2), "b": (1, 2.5), "c": Pair("x", np.float32(1)), "d": np.ones(3)},
        {"a": flamec.zeros(2), "b": (3, 4.5), "c": Pair("y", np.float32(2)), "d": np.zeros(3)},
    ]
    found = default_collate(batch)
    assert found["a"].tolist() == [[1, 1], [0, 0]]
    assert found["b"][0].dtype is flamec.int64 and found["b"][1].dtype is flamec.float64
    assert found["c"].x == ("x", "y") and found["c"].y.dtype is flamec.float32
    assert found["d"].shape == (2, 3)
    with pytest.raises(TypeError, match="found <class 'object'>"):
        default_collate([object()])
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([(1, 2), (1,)])
    with pytest.raises(RuntimeError, match="different shapes"):
        default_collate([np.ones(2), np.ones(3)])
    fixed = Fixed()
    fixed.data["a"] = 1
    for kind, sample in ((UserDict, UserDict(a=1)), (dict, fixed)):
        kept = default_collate([sample, sample])
        assert type(kept) is kind and kept["a"].tolist() == [1, 1]
    converted = default_convert({"a": np.ones(2), "b": [np.int64(3), "x"]})
    assert isinstance(converted["a"], flamec.Tensor) and converted["b"][1] == "x"
