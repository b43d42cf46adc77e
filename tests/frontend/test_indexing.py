"""Reading and assigning by index expressions against NumPy, eager and compiled; errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_expressions import Index, assign, indices, is_basic, read, shapes

import flamec
from flamec.errors import DataDependentError
from flamec.ir.op import lookup


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(1, int(np.prod(shape)) + 1, dtype=np.float64).reshape(shape)


def as_user_writes(index: Index, kind: int) -> Any:
    """Index arrays as tensors, arrays or lists; a single entry without its tuple."""

    def item(entry: Any) -> Any:
        if not isinstance(entry, np.ndarray):
            return entry
        if kind == 0 or not entry.ndim:
            return flamec.tensor(entry)
        return entry if kind == 1 or not entry.size else entry.tolist()

    items = tuple(map(item, index))
    return items[0] if len(items) == 1 and kind else items


@given(st.data(), shapes(), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_reading_equals_numpy(data: st.DataObject, shape: tuple[int, ...], kind: int) -> None:
    index = data.draw(indices(shape))
    array = numbers(shape)
    expected = read(array, index)
    x = flamec.tensor(array)
    result = x[as_user_writes(index, kind)]
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result.numpy(), expected)
    assert (result._storage is x._storage) == is_basic(index)


@given(st.data(), shapes(), st.integers(0, 2))
@settings(max_examples=300, deadline=None)
def test_assigning_equals_numpy(data: st.DataObject, shape: tuple[int, ...], kind: int) -> None:
    index = data.draw(indices(shape))
    array = numbers(shape)
    selected = read(array, index).shape
    value = data.draw(values_for(selected))
    x = flamec.tensor(array)
    expected = array.copy()
    x[as_user_writes(index, kind)] = flamec.tensor(value) if value.ndim else value.item()
    if _has_duplicates(index):
        value = np.broadcast_to(
            value.reshape(-1)[:1].reshape(()) if value.size else value, selected
        )
        x = flamec.tensor(array)
        x[as_user_writes(index, kind)] = flamec.tensor(value)
    assign(expected, index, value)
    np.testing.assert_array_equal(x.numpy(), expected)


def _has_duplicates(index: Index) -> bool:
    """Whether one element may be assigned twice, so that the order would matter."""
    return any(isinstance(i, np.ndarray) and i.dtype != bool for i in index)


@st.composite
def values_for(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    """Values that broadcast to ``shape``."""
    kept = draw(st.integers(0, len(shape)))
    own = tuple(draw(st.sampled_from([d, 1])) for d in shape[len(shape) - kept :])
    if draw(st.booleans()):
        own = shape
    return np.arange(-0.5, -np.prod(own) - 0.5, -1.0).reshape(own)


@given(st.data(), shapes())
@settings(max_examples=60, deadline=None)
def test_gradients_of_reading_and_assigning(data: st.DataObject, shape: tuple[int, ...]) -> None:
    """The gradient of x[i] counts the reads; assignment moves the gradient to the value."""
    index = data.draw(indices(shape))
    array = numbers(shape)
    selected = read(array, index)
    seed = numbers(selected.shape)
    x = flamec.tensor(array, requires_grad=True)
    x[as_user_writes(index, 0)].backward(flamec.tensor(seed))
    expected = np.zeros(shape)
    places = read(np.arange(array.size).reshape(shape), index)
    np.add.at(expected.reshape(-1), places.reshape(-1), seed.reshape(-1))
    np.testing.assert_array_equal(x.grad.numpy(), expected)

    if _has_duplicates(index):
        return
    base = flamec.tensor(array, requires_grad=True)
    value = flamec.tensor(np.ones(selected.shape), requires_grad=True)
    y = base * 1.0
    y[as_user_writes(index, 0)] = value
    weights = numbers(shape)
    (y * flamec.tensor(weights)).sum().backward()
    np.testing.assert_array_equal(value.grad.numpy(), read(weights, index))
    assign(weights, index, 0.0)
    untouched = np.zeros(shape) if base.grad is None else base.grad.numpy()
    np.testing.assert_array_equal(untouched, weights)


BASIC: list[tuple[tuple[int, ...], Index]] = [
    ((), ()),
    ((5,), (slice(1, None, 2),)),
    ((5,), (slice(4, 1),)),
    ((2, 3), (-1,)),
    ((2, 3), (slice(None), 1)),
    ((2, 3), (None, Ellipsis, None)),
    ((2, 3, 4), (Ellipsis, slice(1, 3))),
    ((2, 3, 4), (1, None, slice(None, None, 3), -2)),
    ((0, 3), (slice(None), slice(1))),
]


@pytest.mark.parametrize(("shape", "index"), BASIC)
def test_compiled_basic_indexing(shape: tuple[int, ...], index: Index) -> None:
    array = numbers(shape)

    @flamec.compile
    def change(x: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
        y = x * 2.0
        part = y[index]
        y[index] = part + 1.0
        return part, y

    part, whole = change(flamec.tensor(array))
    expected = np.asarray(array * 2)
    assign(expected, index, read(expected, index) + 1.0)
    np.testing.assert_array_equal(part.numpy(), read(expected, index))
    np.testing.assert_array_equal(whole.numpy(), expected)


def test_compiled_index_tensors() -> None:
    x, i = flamec.tensor(numbers((3, 4))), flamec.tensor([2, 0, 2])

    @flamec.compile
    def pick(x: flamec.Tensor, i: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        y = x.clone()
        y[:, i] = 0.0
        return x[i], x[:, i], x[i[0], i], y

    for got, want in zip(pick(x, i), (x[i], x[:, i], x[2, i]), strict=False):
        np.testing.assert_array_equal(got.numpy(), want.numpy())
    np.testing.assert_array_equal(pick(x, i)[3].numpy()[:, [0, 2]], 0.0)


def test_compiled_mask_assignment_is_a_choice() -> None:
    x = flamec.tensor(numbers((3, 4)))

    @flamec.compile
    def clip(x: flamec.Tensor) -> flamec.Tensor:
        y = x.clone()
        y[y > 6] = 6.0
        y[y.sum(1) < 12] = flamec.tensor([1.0, 2.0, 3.0, 4.0], dtype=flamec.float64)
        return y

    expected = np.minimum(numbers((3, 4)), 6)
    expected[expected.sum(1) < 12] = [1, 2, 3, 4]
    np.testing.assert_array_equal(clip(x).numpy(), expected)


def test_reading_by_mask_splits_a_compiled_function() -> None:
    def positive(x: flamec.Tensor) -> flamec.Tensor:
        return x[x > 0] * 2

    with pytest.raises(DataDependentError, match=r"test_indexing\.py"):
        flamec.compile(positive, fullgraph=True)(flamec.tensor([1.0, -1.0]))
    compiled = flamec.compile(positive)
    for data in ([1.0, -1.0], [-1.0, 3.0], [-1.0, -2.0], [2.0, 4.0], [5.0, -1.0]):
        x = flamec.tensor(data)
        assert compiled(x).tolist() == positive(x).tolist()
    assert compiled.stats.traces == 2, "one program for the first count, one for all"


def test_one_symbolic_program_serves_all_sizes() -> None:
    @flamec.compile
    def halves(x: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
        n = x.shape[0] // 2
        return x[:n] + 1.0, x[n:, None] * 2.0

    for size in (4, 6, 7, 10, 1, 0, 33):
        array = numbers((size, 3))
        first, second = halves(flamec.tensor(array))
        np.testing.assert_array_equal(first.numpy(), array[: size // 2] + 1)
        np.testing.assert_array_equal(second.numpy(), array[size // 2 :, None] * 2)
    assert halves.stats.traces == 2


def test_assignment_converts_and_broadcasts() -> None:
    x = flamec.zeros(2, 3, dtype=flamec.int32)
    x[0] = 1.9
    x[1, 1:] = flamec.tensor([[2.7, -3.2]])
    assert x.tolist() == [[1, 1, 1], [0, 2, -3]]
    x[:, 0] = [7, 8]
    x[..., -1] = np.array([5, 6])
    assert x.tolist() == [[7, 1, 5], [8, 2, 6]]
    x[True] = 0
    x[False] = 1
    assert x.sum().item() == 0


def test_assignment_reaches_every_view_and_the_base() -> None:
    x = flamec.arange(12.0).reshape(3, 4)
    row, column = x[1], x[:, 1]
    x[1, 1] = -1.0
    assert row[1].item() == column[1].item() == -1.0
    row[[0, 3]] = flamec.tensor([7.0, 8.0])
    assert x[1].tolist() == [7.0, -1.0, 6.0, 8.0]
    column[column > 0] = 0.0
    assert x[:, 1].tolist() == [0.0, -1.0, 0.0]
    x[1:] = x[:-1]
    assert x[2].tolist() == [7.0, -1.0, 6.0, 8.0]


def test_zero_dimensional_index_tensors_select_views() -> None:
    x = flamec.arange(6.0).reshape(2, 3)
    row = x[flamec.tensor(1)]
    row.zero_()
    assert x[1].tolist() == [0.0, 0.0, 0.0]
    assert x[flamec.tensor(True)].shape == (1, 2, 3)
    assert x[flamec.tensor(False)].shape == (0, 2, 3)


def test_uint8_index_is_a_mask() -> None:
    mask = flamec.tensor([1, 0, 1], dtype=flamec.uint8)
    assert flamec.tensor([5, 6, 7])[mask].tolist() == [5, 7]


X = flamec.zeros(2, 3)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (2, IndexError, "index 2 is out of bounds for dimension 0 with size 2"),
        ((0, -4), IndexError, "index -4 is out of bounds for dimension 1 with size 3"),
        ((0, 0, 0), IndexError, "too many indices for tensor of dimension 2"),
        (1.0, IndexError, "only integers, slices"),
        (flamec.tensor([1.0]), IndexError, "must be long, int, byte or bool"),
        ([0, 5], IndexError, "out of bounds"),
        (flamec.tensor([True]), IndexError, "shape of the mask"),
        (([0, 1], [0, 1, 2]), IndexError, "shape mismatch"),
        (slice(None, None, -1), ValueError, "step must be positive"),
        (slice(0.5), TypeError, "slice indices"),
    ],
)
def test_reading_errors(index: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        X[index]
    assert "test_indexing.py" in str(caught.value)


def test_assignment_errors() -> None:
    x = flamec.zeros(2, 3)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        x[0] = flamec.zeros(4)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        x[[0, 1]] = flamec.zeros(3, 3)
    with pytest.raises(TypeError, match="can't assign"):
        x[0] = "a"
    with pytest.raises(IndexError):
        x[[0, 2]] = 1.0
    with pytest.raises(RuntimeError, match="overflow"):
        flamec.zeros(2, dtype=flamec.uint8)[0] = 300
    with pytest.raises(RuntimeError, match="share one place"):
        flamec.zeros(1).expand(3)[:] = 1.0
    with pytest.raises(IndexError, match="0-dim"):
        flamec.tensor(3)[0]
    leaf = flamec.zeros(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        leaf[0] = 1.0


def test_searches_compiled_for_tables_of_any_size() -> None:
    """The first place that is looked at follows from the size alone, in the loop over values."""
    search = flamec.compile(flamec.searchsorted, dynamic=True, backend="c")
    values = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    values[:2] = np.nan, np.inf
    for size in (1000, 33, 2, 1, 0):
        table = np.sort(values[2 : 2 + size])
        found = search(flamec.from_numpy(table), flamec.from_numpy(values)).numpy()
        np.testing.assert_array_equal(found, np.searchsorted(table, values))


def test_columns_are_taken_where_rows_lie() -> None:
    """Of a transposed array no dense copy is made before its elements are taken."""
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    places = np.array([2, 0, -1, 2])
    for order in itertools.permutations(range(3)):
        turned = x.transpose(order)
        taken = lookup("index").evaluate({}, turned, places % turned.shape[0])
        np.testing.assert_array_equal(taken, turned[places])
        assert taken.transpose(np.argsort(order)).flags.c_contiguous
    with pytest.raises(IndexError, match="out of bounds"):
        flamec.from_numpy(x).permute(2, 0, 1)[flamec.tensor([5])]


@pytest.mark.parametrize(
    "read",
    [
        lambda x, i: x[flamec.zeros(x.shape[0], dtype=flamec.int64) + i].sum(),
        lambda x, i: x[i.expand(x.shape[0])],
        lambda x, i: x[i.expand(2, x.shape[0])].sum(1),
        lambda x, i: x.clone().index_add_(0, i.expand(x.shape[0]), x),
    ],
)
def test_one_index_for_no_elements(read: Any) -> None:
    """It is checked where elements ask for it, by a program for all sizes."""
    compiled = flamec.compile(read, dynamic=True)
    for size in (3, 0, 2):
        x, first = flamec.ones(size), flamec.tensor([0])
        wanted = read(x, first)
        np.testing.assert_array_equal(compiled(x, first).numpy(), wanted.numpy(), strict=True)
    with pytest.raises(IndexError, match="index 2 is out of bounds"):
        compiled(x, flamec.tensor([2]))
