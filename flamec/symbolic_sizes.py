"""Symbols for the sizes of arrays at hand, so that one program serves many sizes.

In: concrete sizes and strides. Out: dimensions over symbols, the symbols' values, and how an
array lies in memory as a view of a dense one. Two lists of sizes get the same dimensions if the
same of them are equal, below ``least``, or multiples of 16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape
from flamec.ir.types import TensorType

_DIVISOR = 16  # sizes that are multiples let kernels use wide accesses
_BUCKET_BITS = 2  # sizes within a factor of 4 share a schedule

Shape = tuple[int, ...]


class Sizes:
    """Symbols for sizes, one for each value from ``least`` on (None: no symbols).

    ``bindings``: the symbols' values; ``hints``: example values, in coarse steps; ``letter``: with
    which the names of symbols begin.
    """

    def __init__(self, least: int | None, letter: str = "s") -> None:
        self.least = least
        self.letter = letter
        self.bindings: dict[str, int] = {}
        self.hints: dict[str, int] = {}
        self._dims: dict[int, Dim] = {}

    def keep_numbers(self, sizes: Sequence[int]) -> None:
        """Those of the sizes that are below 16 are numbers, wherever they occur."""
        self._dims.update({size: size for size in sizes if size < _DIVISOR})

    def dim(self, size: int) -> Dim:
        """The dimension that stands for a size."""
        if self.least is None or size < self.least:
            return size
        known = self._dims.get(size)
        if known is None:
            name = f"{self.letter}{len(self.bindings)}"
            symbol = SymbolicDim.symbol(name)
            whole = size % _DIVISOR == 0
            value = size // _DIVISOR if whole else size
            self.bindings[name] = value
            self.hints[name] = _rounded(value)
            known = self._dims[size] = _DIVISOR * symbol if whole else symbol
        return known

    def shape(self, shape: Sequence[int]) -> tuple[Dim, ...]:
        """The dimensions that stand for sizes."""
        return tuple([self.dim(n) for n in shape])

    def type(self, type: TensorType) -> TensorType:
        """A type with symbols in place of its sizes."""
        return type.with_shape(self.shape(evaluate_shape(type.shape, {})))


def rounded_hints(bindings: Mapping[str, int]) -> dict[str, int]:
    """Example values of symbols, in coarse steps."""
    return {name: _rounded(value) for name, value in bindings.items()}


def _rounded(value: int) -> int:
    """The least power of four that is not below the value: sizes that are such powers are known
    exactly."""
    bits = -(-(value - 1).bit_length() // _BUCKET_BITS) * _BUCKET_BITS
    return 1 << bits


# how arrays lie in memory ----------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Operand:
    """How an operand lies in memory: part of a dense array, permuted, then broadcast.

    ``order``: the operand's dimensions that are in memory, in the order of memory; ``shape``: the
    operand's sizes. ``rows``: the dense array's sizes, None where it is nothing but the operand; an
    operand has the first of the last dimension, or every ``step``-th, or, where that dimension is
    one that only the dense array has, its first element.
    """

    order: tuple[int, ...]
    shape: Shape
    rows: Shape | None = None
    step: int = 1

    @property
    def is_row_major(self) -> bool:
        """Whether the operand is the dense array itself."""
        return self.rows is None and self.order == tuple(range(len(self.shape)))


def operand(shape: Shape, strides: Shape) -> Operand:
    """How an array with these strides, in elements, lies in memory; ValueError if in no such way:
    with elements that overlap, backwards, or at distances that are not multiples of each other.
    """
    everything = Operand(tuple(range(len(shape))), shape)
    if 0 in shape:
        return everything
    kept = [a for a, (n, s) in enumerate(zip(shape, strides, strict=True)) if n != 1 and s != 0]
    kept.sort(key=lambda axis: -strides[axis])
    dense = 1
    for axis in reversed(kept):
        if strides[axis] != dense:
            return _part(shape, strides, kept)
        dense *= shape[axis]
    if dense == math.prod(shape) and kept == sorted(kept):
        return everything
    return Operand(tuple(kept), shape)


def _part(shape: Shape, strides: Shape, kept: Sequence[int]) -> Operand:
    """An array with gaps between its elements, whose dimensions are ``kept`` in order of memory."""
    distances = [strides[axis] for axis in kept]
    last = distances[-1]
    if last <= 0:
        raise ValueError(f"strides {strides} of shape {shape} go backwards")
    rows = [shape[kept[0]]]
    step = 1
    if len(kept) > 1 and distances[-2] % last:
        distances[-1], step = 1, last
    for axis, (outer, inner) in zip(kept[1:], pairwise(distances), strict=True):
        taken = shape[axis] if axis != kept[-1] else (shape[axis] - 1) * step + 1
        if outer % inner or outer // inner < taken:
            raise ValueError(f"strides {strides} of shape {shape} are those of no part of an array")
        rows.append(outer // inner)
    if distances[-1] > 1:
        rows.append(distances[-1])
    return Operand(tuple(kept), shape, tuple(rows), step)


class Lying:
    """A graph input for the dense array that an operand lies in; ``value``: the operand, of a type.

    ``sizes`` gives symbols for the sizes of dense arrays with gaps.
    """

    def __init__(
        self,
        b: GraphBuilder,
        place: Operand,
        type: TensorType,
        sizes: Sizes,
        name: str | None = None,
    ) -> None:
        self._builder, self._place, self._shape = b, place, type.shape
        order, shape = place.order, type.shape
        self._order = tuple(order.index(a) for a in sorted(order))
        self._sizes = tuple([shape[a] for a in order])
        dense = self._sizes
        if place.rows is not None:
            dense = (dense[0], *sizes.shape(place.rows[1:]))
        self.base = value = b.input(type.with_shape(dense), name)
        if place.rows is not None:
            starts, taken, steps = self._window(len(dense))
            value = b.slice(value, starts=starts, sizes=taken, steps=steps)
            if taken is not self._sizes:
                value = b.reshape(value, shape=self._sizes)
        if order != tuple(sorted(order)):
            value = b.permute(value, axes=self._order)
        if len(order) != len(shape):
            axes = set(order)
            ones = tuple([d if a in axes else 1 for a, d in enumerate(shape)])
            value = b.expand_to(b.reshape(value, shape=ones), shape)
        self.value = value

    def _window(self, rank: int) -> tuple[Shape, tuple[Dim, ...], Shape]:
        """Starts, sizes and steps of the operand in the dense array, of ``rank`` dimensions."""
        within = len(self._sizes) < rank
        taken = (*self._sizes, 1) if within else self._sizes
        return (0,) * rank, taken, (*(1,) * (rank - 1), self._place.step)

    def with_contents(self, value: Any) -> Any:
        """The dense array when ``value`` was stored in the operand, which is not broadcast."""
        b, order = self._builder, self._place.order
        if len(order) != len(self._shape):
            value = b.reshape(value, shape=tuple([self._shape[a] for a in sorted(order)]))
        if order != tuple(sorted(order)):
            value = b.permute(value, axes=tuple(self._order.index(i) for i in range(len(order))))
        if self._place.rows is None:
            return value
        starts, taken, steps = self._window(len(self.base.type.shape))
        if taken is not self._sizes:
            value = b.reshape(value, shape=taken)
        return b.slice_update(self.base, value, starts=starts, steps=steps)


def with_inputs_lying(graph: Graph, places: Sequence[Operand], sizes: Sizes) -> Graph:
    """The graph over dense arrays in which its inputs lie as ``places`` say, also those that it
    writes; ``sizes`` gets symbols for the sizes of arrays with gaps."""
    if all(place.is_row_major for place in places):
        return graph
    b = GraphBuilder()
    lying = [
        Lying(b, place, value.type, sizes, value.name)
        for value, place in zip(graph.inputs, places, strict=True)
    ]
    mapped = {value: place.value for value, place in zip(graph.inputs, lying, strict=True)}
    for node in graph.nodes:
        copy = b.add_copy(node, [mapped[v] for v in node.inputs])
        mapped.update(zip(node.outputs, copy.outputs, strict=True))
    updates = {i: lying[i].with_contents(mapped[v]) for i, v in graph.updates.items()}
    return b.build([mapped[v] for v in graph.outputs], updates, graph.name)
