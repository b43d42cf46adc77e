"""Random index expressions, and what they mean in NumPy under PyTorch's rules of placement.

PyTorch applies ints, slices, None and Ellipsis first and index arrays to what is
left; NumPy counts ints among the index arrays. ``selection`` does the former with
NumPy's means.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

Index = tuple[Any, ...]


@st.composite
def shapes(draw: st.DrawFn, most: int = 4) -> tuple[int, ...]:
    """Shapes of up to ``most`` dimensions; a size is rarely 0."""
    return tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 3, 2, 0]), max_size=most)))


def slices(size: int) -> st.SearchStrategy[slice]:
    bound = st.none() | st.integers(-size - 2, size + 2)
    return st.builds(slice, bound, bound, st.none() | st.integers(1, 3))


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Index:
    """An index expression for ``shape``: ints, slices, None, Ellipsis, index arrays, a mask."""
    common = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    counted = None
    items: list[Any] = []
    axis = 0
    while axis < len(shape) and len(items) < 7:
        kinds = ["slice", "slice", "int", "none", "stop", "array", "array", "mask"]
        kinds.append("ellipsis")
        kind = draw(st.sampled_from(kinds))
        size = shape[axis]
        if kind == "stop":
            break
        if kind == "none":
            items.append(None)
        elif kind == "ellipsis":
            items.append(Ellipsis)
            axis = draw(st.integers(axis, len(shape)))
            remaining = len(shape) - axis
            tail = _tail(draw, shape[axis:], common)
            assert _consumed(tail) == remaining
            return (*items, *tail)
        elif kind == "int" and size:
            items.append(draw(st.integers(-size, size - 1)))
            axis += 1
        elif kind == "array" and size:
            items.append(_index_array(draw, size, common))
            axis += 1
        elif (
            kind == "mask" and counted is None and not any(isinstance(i, np.ndarray) for i in items)
        ):
            covered = draw(st.integers(1, min(2, len(shape) - axis)))
            mask = _mask(draw, shape[axis : axis + covered])
            counted = int(mask.sum())
            common = (counted,) if draw(st.booleans()) else (1,)
            items.append(mask)
            axis += covered
        else:
            items.append(draw(slices(size)))
            axis += 1
    return tuple(items)


def _tail(draw: st.DrawFn, shape: tuple[int, ...], common: tuple[int, ...]) -> Index:
    items: list[Any] = []
    for size in shape:
        if size and draw(st.booleans()):
            items.append(_index_array(draw, size, common))
        elif size and draw(st.booleans()):
            items.append(draw(st.integers(-size, size - 1)))
        else:
            items.append(draw(slices(size)))
    return tuple(items)


def _consumed(items: Index) -> int:
    return sum(i is not None for i in items)


def _index_array(draw: st.DrawFn, size: int, common: tuple[int, ...]) -> np.ndarray:
    shape = tuple(draw(st.sampled_from([d, 1])) for d in common)
    shape = shape[draw(st.integers(0, len(shape))) :]
    count = int(np.prod(shape))
    values = draw(st.lists(st.integers(-size, size - 1), min_size=count, max_size=count))
    return np.array(values, np.int64).reshape(shape)


def _mask(draw: st.DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod(shape))
    values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return np.array(values, bool).reshape(shape)


def split_index(array: np.ndarray, index: Index) -> tuple[np.ndarray, Index]:
    """The view that the basic part selects, and the index of arrays and whole slices into it."""
    basic: list[Any] = []
    rest: list[Any] = []
    consumed = sum(
        i.ndim if isinstance(i, np.ndarray) and i.dtype == bool else i is not None
        for i in index
        if i is not Ellipsis
    )
    for item in index:
        if isinstance(item, np.ndarray) and item.ndim == 0 and item.dtype != bool:
            item = int(item)
        if isinstance(item, np.ndarray):
            covered = item.ndim if item.dtype == bool else 1
            basic += [slice(None)] * covered
            rest.append(item)
        elif item is Ellipsis:
            missing = array.ndim - consumed
            basic += [slice(None)] * missing
            rest += [slice(None)] * missing
        else:
            basic.append(item)
            if not isinstance(item, int):
                rest.append(slice(None))
    return array[(*basic, Ellipsis)], tuple(rest)


def is_basic(index: Index) -> bool:
    return not any(isinstance(i, np.ndarray) and i.ndim for i in index)


def read(array: np.ndarray, index: Index) -> np.ndarray:
    """``array[index]`` by PyTorch's rules."""
    view, rest = split_index(array, index)
    return view if is_basic(index) else view[rest]


def assign(array: np.ndarray, index: Index, value: Any) -> None:
    """``array[index] = value`` by PyTorch's rules."""
    view, rest = split_index(array, index)
    if is_basic(index):
        view[...] = value
    else:
        view[rest] = value
