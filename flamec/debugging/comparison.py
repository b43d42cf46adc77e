"""Evaluate graphs with NumPy and compare what they give.

In: graphs and inputs. Out: results by name, and the first that differs. Invariant: a graph is
compared twice, with its own dtypes and with every float widened to float64, in which two graphs
that mean the same agree to the rounding of what is written in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flamec.dtype_limits import finfo
from flamec.ir.bodies import all_nodes, retyped
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph
from flamec.ir.types import DType, TensorType, float64

# what the evaluator raises for a graph that cannot be evaluated with the inputs at hand
REFUSALS = (TypeError, ValueError, IndexError, ArithmeticError, RuntimeError)
_WIDE_UNITS = 32  # of the least precise float of a graph, relative to the largest element
_OWN_UNITS = 1024


@dataclass(frozen=True, eq=False)
class Results:
    """Everything that a graph gives: outputs, then updates, each with a name."""

    names: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Deviation:
    """A result that differs: which one, where, the two values, the distance, and what is allowed
    (both relative to the result's largest element)."""

    name: str
    place: tuple[int, ...]
    expected: float
    found: float
    distance: float
    allowed: float

    def __str__(self) -> str:
        where = f" at {list(self.place)}" if self.place else ""
        return (
            f"{self.name}{where} is {self.found:.9g} instead of {self.expected:.9g} "
            f"(off by {self.distance:.2g} of its largest element; {self.allowed:.2g} is allowed)"
        )


def evaluate(
    graph: Graph, inputs: Sequence[np.ndarray], bindings: Mapping[str, int], wide: bool = False
) -> Results:
    """What the graph gives; ``wide``: with every float as float64."""
    if wide:
        graph = widened(graph)
        inputs = [
            np.asarray(a, v.type.dtype.numpy) for a, v in zip(inputs, graph.inputs, strict=True)
        ]
    outputs, updates = evaluate_graph(graph, list(inputs), bindings)
    return Results(result_names(graph), (*outputs, *(updates[i] for i in sorted(updates))))


def result_names(graph: Graph) -> tuple[str, ...]:
    """``output 0``, …, then ``update of input 3 (weight)``, …"""
    names = [f"output {i}" for i in range(len(graph.outputs))]
    for position in sorted(graph.updates):
        name = graph.inputs[position].name
        names.append(f"update of input {position}" + (f" ({name})" if name else ""))
    return tuple(names)


def widened(graph: Graph) -> Graph:
    """The graph with float64 in place of every other float."""

    def wide(dtype: DType) -> DType:
        return float64 if dtype.is_floating_point else dtype

    def changed(type: TensorType) -> TensorType:
        return type.with_dtype(wide(type.dtype))

    return retyped(
        graph,
        changed,
        lambda node: {
            k: wide(v) if isinstance(v, DType) else v for k, v in node.attributes.items()
        },
    )


def precision(graph: Graph) -> float:
    """The unit of the least precise float among the graph's values."""
    values = [*graph.inputs, *(v for node in all_nodes(graph) for v in node.outputs)]
    floats = {v.type.dtype for v in values if v.type.dtype.is_floating_point}
    return max((finfo(dtype).eps for dtype in floats), default=0.0)


def tolerance(graph: Graph, wide: bool) -> float:
    """How far results may be off, relative to their largest element."""
    return max(1e-10, (_WIDE_UNITS if wide else _OWN_UNITS) * precision(graph))


def deviation(expected: Results, found: Results, allowed: float) -> Deviation | None:
    """The first result that differs by more than ``allowed``; NaN equals NaN."""
    for name, right, other in zip(expected.names, expected.arrays, found.arrays, strict=True):
        if right.shape != other.shape:
            return Deviation(f"{name}: the shape {other.shape}", (), 0.0, 0.0, np.inf, allowed)
        distance = _distances(right, other)
        limit = allowed if right.dtype.kind not in "iub" else 0.0
        if distance.size and float(distance.max()) > limit:
            place = np.unravel_index(int(distance.argmax()), right.shape)
            at = tuple(int(i) for i in place)
            return Deviation(
                name, at, float(right[at]), float(other[at]), float(distance[at]), limit
            )
    return None


def _distances(right: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The distance of each element, relative to the largest finite one."""
    a, b = right.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(all="ignore"):
        gap = np.where(finite, np.abs(a - b), np.inf)
    scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0))
    return np.where(same, 0.0, gap / (scale or 1.0))
