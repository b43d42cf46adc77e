"""Symbols for the sizes of arrays at hand, so that one program serves many sizes.

In: concrete sizes and strides. Out: dimensions over symbols, the symbols' values, and how an
array lies in memory as views of a dense one. Two lists of sizes get the same dimensions if the
same of them are equal, below ``least``, or multiples of 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.shape import Dim, SymbolicDim, evaluate_shape
from flamec.ir.types import TensorType

_DIVISOR = 16  # sizes that are multiples let kernels use wide accesses
_BUCKET_BITS = 2  # sizes within a factor of 4 share a schedule

Shape = tuple[int, ...]


class Sizes:
    """Symbols for sizes, one for each value from ``least`` on (None: no symbols).

    ``bindings``: the symbols' values; ``hints``: example values, in coarse steps.
    """

    def __init__(self, least: int | None) -> None:
        self.least = least
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
            name = f"s{len(self.bindings)}"
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
    """How an operand lies in memory: a dense array, permuted, then broadcast.

    ``dense``: its sizes in the order of memory; ``order``: where each of them goes; ``shape``:
    the operand's. A size that is broadcast has no place in ``dense``.
    """

    dense: Shape
    order: tuple[int, ...]
    shape: Shape

    @property
    def is_row_major(self) -> bool:
        """Whether the operand is the dense array itself."""
        return self.order == tuple(range(len(self.shape)))


def operand(shape: Shape, strides: Shape) -> Operand:
    """How an array with these strides, in elements, lies in memory; ValueError if with gaps."""
    if 0 in shape:
        return Operand(shape, tuple(range(len(shape))), shape)
    kept = [a for a, (n, s) in enumerate(zip(shape, strides, strict=True)) if n != 1 and s != 0]
    kept.sort(key=lambda axis: -strides[axis])
    step = 1
    for axis in reversed(kept):
        if strides[axis] != step:
            raise ValueError(f"strides {strides} of shape {shape} leave gaps")
        step *= shape[axis]
    if step == _count(shape) and kept == sorted(kept):
        return Operand(shape, tuple(range(len(shape))), shape)
    return Operand(tuple(shape[a] for a in kept), tuple(kept), shape)


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def input_lying(b: GraphBuilder, place: Operand, type: TensorType, name: str | None = None) -> Any:
    """A graph input for the dense array, and the value of ``type`` that it holds."""
    order, shape = place.order, type.shape
    value = b.input(type.with_shape(tuple([shape[a] for a in order])), name)
    if order != tuple(sorted(order)):
        value = b.permute(value, axes=tuple(order.index(a) for a in sorted(order)))
    if len(order) != len(shape):
        axes = set(order)
        sizes = tuple([d if a in axes else 1 for a, d in enumerate(shape)])
        value = b.expand_to(b.reshape(value, shape=sizes), shape)
    return value


def with_inputs_lying(graph: Graph, places: Sequence[Operand]) -> Graph:
    """The graph over dense arrays that hold its inputs as ``places`` say."""
    if all(place.is_row_major for place in places):
        return graph
    b = GraphBuilder()
    mapped: dict[Value, Value] = {}
    for value, place in zip(graph.inputs, places, strict=True):
        mapped[value] = input_lying(b, place, value.type, value.name)
    for node in graph.nodes:
        b.location, b.scope = node.location, node.scope
        copy = b.add_node(node.op, [mapped[v] for v in node.inputs], node.attributes)
        mapped.update(zip(node.outputs, copy.outputs, strict=True))
    updates = {position: mapped[v] for position, v in graph.updates.items()}
    return b.build([mapped[v] for v in graph.outputs], updates, graph.name)
