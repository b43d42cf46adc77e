"""embedding_bag against PyTorch: results, gradients and errors, eager and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn
from flamec.nn import functional as F

RNG = np.random.default_rng(5)
ROWS, WIDTH = 7, 3
EQUAL = RNG.integers(0, ROWS, (4, 5))
FLAT = RNG.integers(0, ROWS, 11)
FLAT[3:5] = 2  # a bag of padding only, where padding_idx is 2
BAGS = {
    "equal": (EQUAL, None),
    "one column": (EQUAL[:, :1], None),
    "no bags": (np.zeros((0, 3), np.int64), None),
    "offsets": (FLAT, np.array([0, 3, 5, 6])),
    "empty bags": (FLAT, np.array([0, 0, 3, 5, 5, 11, 11])),
    "no entries": (np.zeros(0, np.int64), np.array([0, 0])),
    "one bag": (FLAT, np.array([0])),
    "int32": (FLAT.astype(np.int32), np.array([0, 4], np.int32)),
}


def _compare(
    bags: tuple[np.ndarray, np.ndarray | None],
    how: str = "eager",
    factors: np.ndarray | None = None,
    table: np.ndarray | None = None,
    **options: Any,
) -> None:
    weight = RNG.standard_normal((ROWS, WIDTH)) if table is None else table
    found = []
    for package, functional in ((torch, torch.nn.functional), (flamec, F)):
        entries, offsets = (
            None if a is None else package.from_numpy(np.ascontiguousarray(a)) for a in bags
        )
        w = package.from_numpy(weight.copy()).requires_grad_()
        f = None if factors is None else package.from_numpy(factors.copy()).requires_grad_()

        def run(entries: Any, w: Any, offsets: Any, f: Any, function: Any = functional) -> Any:
            result = function.embedding_bag(entries, w, offsets, per_sample_weights=f, **options)
            return result, (result * result * result).sum()

        compiled = how == "compiled" and package is flamec
        result, loss = (flamec.compile(run) if compiled else run)(entries, w, offsets, f)
        loss.backward()
        found.append([result, w.grad, None if f is None else f.grad])
    for theirs, ours in zip(*found, strict=True):
        assert (theirs is None) == (ours is None)
        if theirs is not None:
            assert tuple(ours.shape) == tuple(theirs.shape)
            np.testing.assert_allclose(
                ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("padding", [None, 2, -ROWS])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("bags", BAGS)
def test_bags(bags: str, mode: str, padding: int | None) -> None:
    _compare(BAGS[bags], mode=mode, padding_idx=padding)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("bags", ["equal", "no entries", "empty bags", "int32"])
def test_compiled(bags: str, mode: str) -> None:
    _compare(BAGS[bags], "compiled", mode=mode, padding_idx=2)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_include_last_offset(mode: str) -> None:
    for offsets in ([0, 3, 3, 11], [0, 11], [0, 0, 11, 11]):
        _compare((FLAT, np.array(offsets)), mode=mode, include_last_offset=True)
    _compare(BAGS["equal"], mode=mode, include_last_offset=True)
    how = "compiled"
    _compare((FLAT, np.array([0, 3, 3, 11])), how, mode=mode, include_last_offset=True)


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("bags", ["equal", "empty bags"])
def test_per_sample_weights(bags: str, how: str) -> None:
    for padding in (None, 2) if how == "eager" else (2,):
        factors = RNG.standard_normal(BAGS[bags][0].shape)
        _compare(BAGS[bags], how, factors, mode="sum", padding_idx=padding)


def test_equal_maxima_and_infinities() -> None:
    table = RNG.integers(-1, 2, (ROWS, WIDTH)).astype(float)
    for bags in ("equal", "empty bags"):
        _compare(BAGS[bags], table=table, mode="max")
        _compare(BAGS[bags], table=table, mode="max", padding_idx=2)
    table[1], table[4] = -np.inf, -np.inf
    for bags in ((np.array([[2, 1, 4], [1, 1, 2]]), None), (np.array([2, 1, 4]), np.array([0]))):
        _compare(bags, table=table, mode="max", padding_idx=2)


def test_entries_after_the_last_end_are_in_no_bag() -> None:
    # PyTorch documents this and does it for the sum of float32 only.
    entries, offsets = np.array([0, 1, 2, 3]), np.array([0, 2, 3])
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    arguments = entries, table, offsets
    theirs = torch.nn.functional.embedding_bag(
        *map(torch.from_numpy, arguments), mode="sum", include_last_offset=True
    )
    for mode, factor in (("sum", [1, 1]), ("mean", [2, 1])):
        ours = F.embedding_bag(
            *map(flamec.from_numpy, arguments), mode=mode, include_last_offset=True
        )
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy() / np.array(factor)[:, None])


@pytest.mark.parametrize("bags", ["equal", "empty bags"])
def test_max_norm_shortens_the_rows_used(bags: str) -> None:
    options = {"max_norm": 0.8, "norm_type": 1.0, "mode": "mean"}
    table = RNG.standard_normal((ROWS, WIDTH))
    theirs = torch.nn.EmbeddingBag(ROWS, WIDTH, _weight=torch.from_numpy(table.copy()), **options)
    ours = nn.EmbeddingBag(ROWS, WIDTH, _weight=flamec.from_numpy(table.copy()), **options)
    entries, offsets = BAGS[bags]
    wanted = theirs(*(torch.from_numpy(a) for a in (entries, offsets) if a is not None))
    found = ours(*(flamec.from_numpy(a) for a in (entries, offsets) if a is not None))
    np.testing.assert_allclose(found.detach().numpy(), wanted.detach().numpy(), rtol=1e-12)
    assert not np.array_equal(ours.weight.detach().numpy(), table)
    np.testing.assert_allclose(
        ours.weight.detach().numpy(), theirs.weight.detach().numpy(), rtol=1e-12
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half(dtype: str) -> None:
    table = RNG.standard_normal((ROWS, WIDTH)).astype(np.float32)
    for bags in ("equal", "empty bags"):
        for mode in ("sum", "mean", "max"):
            found = []
            for package, functional in ((torch, torch.nn.functional), (flamec, F)):
                entries, offsets = (
                    None if a is None else package.from_numpy(a) for a in BAGS[bags]
                )
                w = package.from_numpy(table).to(getattr(package, dtype))
                result = functional.embedding_bag(entries, w, offsets, mode=mode)
                assert result.dtype is getattr(package, dtype)
                found.append(result.to(package.float32).numpy())
            spacing = 2**-7 if dtype == "bfloat16" else 2**-10
            np.testing.assert_allclose(found[1], found[0], rtol=2 * spacing, atol=2 * spacing)


ERRORS: list[tuple[Any, dict[str, Any]]] = [
    (([0, 1], [0, 3]), {}),
    (([0, 1], [1]), {}),
    (([0, 1], None), {}),
    (([0, 1], [[0]]), {}),
    (([[0, 1]], [0]), {}),
    (([[[0]]], None), {}),
    (([0, 1], []), {"include_last_offset": True}),
    (([[0, 1]], None), {"mode": "median"}),
    (([[0, 1]], None), {"padding_idx": ROWS}),
    (([[0, ROWS]], None), {}),
    (([[0, -1]], None), {}),
    (([[0.0, 1.0]], None), {}),
    (([[0, 1]], None), {"mode": "max", "sparse": True}),
    (([[0, 1]], None), {"mode": "max", "scale_grad_by_freq": True}),
    (([[0, 1]], None), {"mode": "mean", "factors": np.ones((1, 2))}),
    (([[0, 1]], None), {"mode": "sum", "factors": np.ones(2)}),
    (([[0, 1]], None), {"mode": "sum", "factors": np.ones((1, 2), np.float32)}),
]


@pytest.mark.parametrize(("bags", "options"), ERRORS)
def test_errors(bags: Any, options: dict[str, Any]) -> None:
    options = dict(options)
    factors = options.pop("factors", None)
    kinds = []
    for package, functional in ((torch, torch.nn.functional), (flamec, F)):
        entries, offsets = (
            None
            if a is None
            else package.tensor(a, dtype=None if np.array(a).size else package.int64)
            for a in bags
        )
        w = package.from_numpy(np.ones((ROWS, WIDTH)))
        f = None if factors is None else package.from_numpy(factors)
        with pytest.raises((RuntimeError, ValueError, NotImplementedError)) as error:
            functional.embedding_bag(entries, w, offsets, per_sample_weights=f, **options)
        kinds.append(error.type)
    assert issubclass(kinds[1], kinds[0])
