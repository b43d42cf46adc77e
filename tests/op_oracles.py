"""Definitions of the structural primitives, element by element, in plain Python.

Each oracle says for one index of the result which elements of the operands
make it. Nothing here is vectorised or shared with the ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from op_row import Attributes, Sample

Index = tuple[int, ...]


def tabulate(shape: Index, dtype: Any, element: Callable[[Index], Any]) -> np.ndarray:
    """The array of ``shape`` whose element at an index is ``element(index)``."""
    result = np.empty(shape, dtype)
    for index in np.ndindex(*shape):
        result[index] = element(index)
    return result


def _flat(array: np.ndarray, position: int) -> Any:
    return array[np.unravel_index(position, array.shape)] if array.ndim else array[()]


# views ---------------------------------------------------------------------
def reshape(sample: Sample, x: np.ndarray) -> np.ndarray:
    shape = sample.attributes["shape"]

    def element(index: Index) -> Any:
        position = 0
        for i, size in zip(index, shape, strict=True):
            position = position * size + i
        return _flat(x, position)

    return tabulate(shape, x.dtype, element)


def permute(sample: Sample, x: np.ndarray) -> np.ndarray:
    axes = sample.attributes["axes"]

    def element(index: Index) -> Any:
        place = dict(zip(axes, index, strict=True))
        return x[tuple(place[i] for i in range(x.ndim))]

    return tabulate(tuple(x.shape[a] for a in axes), x.dtype, element)


def expand(sample: Sample, x: np.ndarray) -> np.ndarray:
    shape = sample.attributes["shape"]

    def element(index: Index) -> Any:
        inner = index[len(shape) - x.ndim :]
        return x[tuple(0 if n == 1 else i for i, n in zip(inner, x.shape, strict=True))]

    return tabulate(shape, x.dtype, element)


def slice_(sample: Sample, x: np.ndarray) -> np.ndarray:
    starts, sizes, steps = (sample.attributes[k] for k in ("starts", "sizes", "steps"))
    return tabulate(
        sizes,
        x.dtype,
        lambda index: x[tuple(s + i * d for s, i, d in zip(starts, index, steps, strict=True))],
    )


def diagonal(sample: Sample, x: np.ndarray) -> np.ndarray:
    offset, first, second = (sample.attributes[k] for k in ("offset", "axis1", "axis2"))
    rest = [i for i in range(x.ndim) if i not in (first, second)]
    pairs = [(i, i + offset) for i in range(x.shape[first]) if 0 <= i + offset < x.shape[second]]

    def element(index: Index) -> Any:
        place = dict(zip(rest, index, strict=False))
        place[first], place[second] = pairs[index[-1]]
        return x[tuple(place[i] for i in range(x.ndim))]

    return tabulate((*(x.shape[i] for i in rest), len(pairs)), x.dtype, element)


# assembly ------------------------------------------------------------------
def concatenate(sample: Sample, *xs: np.ndarray) -> np.ndarray:
    axis = sample.attributes["axis"]
    places = [(k, i) for k, x in enumerate(xs) for i in range(x.shape[axis])]
    shape = (*xs[0].shape[:axis], len(places), *xs[0].shape[axis + 1 :])

    def element(index: Index) -> Any:
        which, i = places[index[axis]]
        return xs[which][(*index[:axis], i, *index[axis + 1 :])]

    return tabulate(shape, xs[0].dtype, element)


def pad(sample: Sample, x: np.ndarray, value: np.ndarray) -> np.ndarray:
    low, high = sample.attributes["low"], sample.attributes["high"]
    shape = tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True))

    def element(index: Index) -> Any:
        inner = tuple(i - a for i, a in zip(index, low, strict=True))
        inside = all(0 <= i < n for i, n in zip(inner, x.shape, strict=True))
        return x[inner] if inside else value[()]

    return tabulate(shape, x.dtype, element)


def interleave(sample: Sample, *xs: np.ndarray) -> np.ndarray:
    axes, steps = sample.attributes["axes"], sample.attributes["steps"]
    shape = list(xs[0].shape)
    for axis, step in zip(axes, steps, strict=True):
        apart = int(np.prod(steps[axes.index(axis) + 1 :]))
        shape[axis] = sum(xs[turn * apart].shape[axis] for turn in range(step))

    def element(index: Index) -> Any:
        which, inner = 0, list(index)
        for axis, step in zip(axes, steps, strict=True):
            which = which * step + index[axis] % step
            inner[axis] = index[axis] // step
        return xs[which][tuple(inner)]

    return tabulate(tuple(shape), xs[0].dtype, element)


def slice_update(sample: Sample, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    starts, steps = sample.attributes["starts"], sample.attributes["steps"]
    written = {
        tuple(s + i * d for s, i, d in zip(starts, index, steps, strict=True)): index
        for index in np.ndindex(*y.shape)
    }
    return tabulate(x.shape, x.dtype, lambda i: y[written[i]] if i in written else x[i])


# creation ------------------------------------------------------------------
def full(sample: Sample) -> np.ndarray:
    return tabulate(sample.attributes["shape"], object, lambda _: sample.attributes["value"])


def iota(sample: Sample) -> np.ndarray:
    axis = sample.attributes["axis"]
    return tabulate(sample.attributes["shape"], object, lambda index: index[axis])


def random_bits(sample: Sample, state: np.ndarray) -> np.ndarray:
    seed, offset = (int(v) % (1 << 64) for v in state)
    count = math.prod(sample.attributes["shape"])
    words = [
        philox_block((offset + block) % (1 << 64), seed)[word]
        for block in range(-(-count // 4))
        for word in range(4)
    ]
    return np.array(words[:count], object).reshape(sample.attributes["shape"])


def philox_block(counter: int, key: int, high_counter: int = 0) -> list[int]:
    """Philox4x32-10 on Python integers; counter words 0 and 1, 2 and 3, key words 0 and 1."""
    mask = (1 << 32) - 1
    words = [counter & mask, counter >> 32, high_counter & mask, high_counter >> 32]
    keys = [key & mask, key >> 32]
    for _ in range(10):
        left, right = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            (right >> 32) ^ words[1] ^ keys[0],
            right & mask,
            (left >> 32) ^ words[3] ^ keys[1],
            left & mask,
        ]
        keys = [(keys[0] + 0x9E3779B9) & mask, (keys[1] + 0xBB67AE85) & mask]
    return words


# folds ---------------------------------------------------------------------
def _line(x: np.ndarray, axes: Index, outer: Index) -> Iterator[Any]:
    """The elements that are folded into the result at ``outer``, in row-major order."""
    rest = [i for i in range(x.ndim) if i not in axes]
    place = dict(zip(rest, outer, strict=True))
    for inner in np.ndindex(*(x.shape[a] for a in axes)):
        place.update(zip(axes, inner, strict=True))
        yield x[tuple(place[i] for i in range(x.ndim))]


def fold(combine: Callable[[list[Any]], Any], dtype: Any = None) -> Callable[..., np.ndarray]:
    """An oracle of a reduction from what makes one result of a list of elements."""

    def oracle(sample: Sample, x: np.ndarray) -> np.ndarray:
        axes = sample.attributes["axes"]
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        return tabulate(shape, dtype or x.dtype, lambda outer: combine(list(_line(x, axes, outer))))

    return oracle


def beats(sign: int) -> Callable[[Any, Any], bool]:
    """Whether a is more extreme than b: greater (sign 1) or less (sign -1); NaN beats numbers."""

    def better(a: Any, b: Any) -> bool:
        if a != a or b != b:
            return a != a and b == b
        return bool(a > b) if sign > 0 else bool(a < b)

    return better


def first_extreme(sign: int) -> Callable[[list[Any]], int]:
    better = beats(sign)

    def position(elements: list[Any]) -> int:
        best = 0
        for i, element in enumerate(elements):
            if better(element, elements[best]):
                best = i
        return best

    return position


def running(step: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    """An oracle of a scan from what combines the running value and an element."""

    def oracle(sample: Sample, x: np.ndarray) -> np.ndarray:
        axis = sample.attributes["axis"]
        result = x.copy()
        for index in np.ndindex(*x.shape):
            if index[axis]:
                before = (*index[:axis], index[axis] - 1, *index[axis + 1 :])
                result[index] = step(result[before], x[index])
        return result

    return oracle


def linear_recurrence(sample: Sample, x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Each element plus its factor times the result one place before."""
    axis = sample.attributes["axis"]
    result = x.copy()
    for index in np.ndindex(*x.shape):
        if index[axis]:
            before = (*index[:axis], index[axis] - 1, *index[axis + 1 :])
            result[index] = x[index] + factors[index] * result[before]
    return result


def running_extreme(sign: int) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Running extreme and its position; of equal elements, and of NaNs, the latest counts."""
    better = beats(sign)

    def oracle(sample: Sample, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        axis = sample.attributes["axis"]
        values, places = x.copy(), np.zeros(x.shape, object)
        for index in np.ndindex(*x.shape):
            if index[axis]:
                before = (*index[:axis], index[axis] - 1, *index[axis + 1 :])
                if better(values[before], x[index]):
                    values[index], places[index] = values[before], places[before]
                else:
                    places[index] = index[axis]
        return values, places

    return oracle


def sort(sample: Sample, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Python's own sort, which is stable; NaN counts as greater than every number."""
    axis, descending = sample.attributes["axis"], sample.attributes["descending"]
    values, places = np.moveaxis(x, axis, -1).copy(), np.zeros(x.shape, object)
    rows = np.moveaxis(places, axis, -1)
    for row in np.ndindex(*values.shape[:-1]):
        line = values[row].tolist()
        order = sorted(
            range(len(line)),
            key=lambda i, line=line: (line[i] != line[i], 0 if line[i] != line[i] else line[i]),
            reverse=descending,
        )
        values[row] = [line[i] for i in order]
        rows[row] = order
    return np.moveaxis(values, -1, axis), places


def topk(sample: Sample, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axis, count = sample.attributes["axis"], sample.attributes["count"]
    order = Sample(sample.arrays, {"axis": axis, "descending": sample.attributes["largest"]})
    values, places = sort(order, x)
    return values.take(range(count), axis), places.take(range(count), axis)


# contraction, indexing -----------------------------------------------------
def dot_general(sample: Sample, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    (cx, cy), (bx, by) = sample.attributes["contract"], sample.attributes["batch"]
    fx = [i for i in range(x.ndim) if i not in cx + bx]
    fy = [i for i in range(y.ndim) if i not in cy + by]
    shape = tuple([x.shape[i] for i in (*bx, *fx)] + [y.shape[i] for i in fy])

    def element(index: Index) -> Any:
        left = dict(zip((*bx, *fx), index, strict=False))
        right = dict(zip((*by, *fy), (*index[: len(bx)], *index[len(bx) + len(fx) :]), strict=True))
        total = 0
        for inner in np.ndindex(*(x.shape[i] for i in cx)):
            left.update(zip(cx, inner, strict=True))
            right.update(zip(cy, inner, strict=True))
            a = x[tuple(left[i] for i in range(x.ndim))]
            total = total + a * y[tuple(right[i] for i in range(y.ndim))]
        return total

    return tabulate(shape, x.dtype, element)


def convolution(sample: Sample, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    a = sample.attributes
    strides, padding, groups = a["strides"], a["padding"], a["groups"]
    spread, apart = a["lhs_dilation"], a["rhs_dilation"]
    positions = [
        ((n - 1) * e + 1 + low + high - (k - 1) * d - 1) // s + 1
        for n, k, e, d, s, (low, high) in zip(
            x.shape[2:], w.shape[2:], spread, apart, strides, padding, strict=True
        )
    ]
    channels, outputs = w.shape[1], w.shape[0] // groups

    def element(index: Index) -> Any:
        n, o, *place = index
        total = 0
        for c, *k in np.ndindex(*w.shape[1:]):
            at = [
                p * s + j * d - low
                for p, s, j, d, (low, _) in zip(place, strides, k, apart, padding, strict=True)
            ]
            if all(
                q % e == 0 and 0 <= q < (m - 1) * e + 1
                for q, e, m in zip(at, spread, x.shape[2:], strict=True)
            ):
                source = tuple(q // e for q, e in zip(at, spread, strict=True))
                total = total + x[(n, o // outputs * channels + c, *source)] * w[(o, c, *k)]
        return total

    return tabulate((x.shape[0], w.shape[0], *positions), x.dtype, element)


def windows(sample: Sample, x: np.ndarray) -> np.ndarray:
    a = sample.attributes
    axes, last = a["axes"], a["axes"][-1] + 1
    shape = list(x.shape)
    for axis, count in zip(axes, a["counts"], strict=True):
        shape[axis] = count

    def element(index: Index) -> Any:
        place = [*index[:last], *index[last + len(axes) :]]
        for n, axis in enumerate(axes):
            place[axis] = place[axis] * a["steps"][n] + index[last + n] * a["dilations"][n]
        return x[tuple(place)]

    return tabulate((*shape[:last], *a["sizes"], *shape[last:]), x.dtype, element)


def _rows(sample: Sample, skip: int) -> tuple[Index, list[tuple[Index, Index]]]:
    """The shape of the index tensors, and for each of their elements the row of x it means."""
    x, indices = sample.arrays[0], sample.arrays[skip:]
    shape = indices[0].shape
    rows = []
    for place in np.ndindex(*shape):
        chosen = [int(index[place]) for index in indices]
        rows.append(
            (place, tuple(i + n if i < 0 else i for i, n in zip(chosen, x.shape, strict=False)))
        )
    return shape, rows


def index(sample: Sample, x: np.ndarray, *indices: np.ndarray) -> np.ndarray:
    shape, rows = _rows(sample, 1)
    result = np.empty((*shape, *x.shape[len(indices) :]), x.dtype)
    for place, row in rows:
        result[place] = x[row]
    return result


def index_put(sample: Sample, x: np.ndarray, values: np.ndarray, *_: np.ndarray) -> np.ndarray:
    combine = {
        "set": lambda old, new: new,
        "any": lambda old, new: new,
        "over": lambda old, new: new,
        "add": lambda old, new: old + new,
        "prod": lambda old, new: old * new,
        "amax": lambda old, new: old if beats(1)(old, new) else new,
        "amin": lambda old, new: old if beats(-1)(old, new) else new,
    }[sample.attributes["mode"]]
    result = x.copy()
    left_out = sample.attributes["mode"] == "over"
    for place, row in _rows(sample, 2)[1]:
        if left_out and min(index[place] for index in sample.arrays[2:]) < 0:
            continue
        for rest in np.ndindex(*result.shape[len(row) :]):
            result[row + rest] = combine(result[row + rest], values[place + rest])
    return result


def attribute(name: str) -> Callable[..., Any]:
    """An oracle whose result stands in the attributes."""

    def oracle(sample: Sample) -> Any:
        attributes: Attributes = sample.attributes
        return attributes[name]

    return oracle
