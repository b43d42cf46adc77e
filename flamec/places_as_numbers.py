"""Places that numbers of Python decide on, as operands of a program for a GPU instead of symbols.

In: a graph in which symbols say where windows of a fixed length begin (``x[:, n]``,
``x[n : n + 2]``, ``cache[:, n] = k``), and nothing else. Out: the same program with an input for
each of these symbols, in which such windows are read and written at computed places. A program for
a GPU is captured for its sizes, and has code of its own for classes of them, but not for its
numbers; on a CPU a window that begins at a symbol costs nothing. Invariant: a symbol that says
anything else, a size above all, stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flamec.capture import Captured
from flamec.host_numbers import Extent
from flamec.host_sizes import HostSize
from flamec.ir.bodies import symbols_in
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.shape import Dim, SymbolicDim, structurally_equal
from flamec.ir.types import CPU, Device, TensorType, int64
from flamec.prepared import graph_device
from flamec.sources import InputSource
from flamec.traced_results import Result

_WINDOWS = ("slice", "slice_update")


def places_as_numbers(captured: Captured) -> Captured:
    """See the module's docstring. A program for a CPU, one whose derivative is taken, one that is
    split, and one for a single call are left as they are."""
    if captured.tracked_outputs or captured.effects or captured.execution is not None:
        return captured
    if not _is_bound_to_sizes(captured.graph):
        return captured
    found = {f.symbol: f for f in captured.host.sizes.found if _is_number(f)}
    names = symbols_of_places(captured.graph, list(found)) if found else []
    elsewhere = {s for r in _results(captured) for s in _symbols_of(r)}
    names = [s for s in names if s not in elsewhere]
    if not names:
        return captured
    sources = [InputSource("number", expression=found[s].expression, name="place") for s in names]
    return replace(
        captured,
        graph=with_places_as_numbers(captured.graph, names),
        sources=[*captured.sources, *sources],
        symbols=tuple([s for s in captured.symbols if s not in names]),
    )


def _is_bound_to_sizes(graph: Graph) -> bool:
    return graph_device(graph).type == "cuda"


def _is_number(size: HostSize) -> bool:
    """Whether a symbol is a number that Python computes without sizes of tensors."""
    places = size.expression.places()
    return size.sign > 0 and not any(isinstance(p.place, Extent) for p in places)


def _results(captured: Captured) -> Iterator[Result]:
    """What the program's call makes of outputs and sizes."""
    yield from captured.results
    yield from (effect.result for effect in captured.grads)
    for step in (*captured.host.steps, *captured.host.last):
        yield from (o for o in step.operands if isinstance(o, Result))


def _symbols_of(result: Result) -> set[str]:
    found = set(symbols_in(result.value))
    for _, attributes in result.steps:
        found |= set(symbols_in(tuple(attributes.values())))
    return found


def symbols_of_places(graph: Graph, symbols: Sequence[str]) -> list[str]:
    """Those of the symbols that only say where windows of a fixed length begin."""
    other: set[str] = set()
    for value in graph.inputs:
        other.update(symbols_in(value.type.shape))
    for node in graph.nodes:
        for value in node.outputs:
            other.update(symbols_in(value.type.shape))
        for key, entry in node.attributes.items():
            found = set(symbols_in(entry))
            if found and key == "starts" and node.op.name in _WINDOWS:
                found -= set(_begins(node, found).values())
            other |= found
    return [s for s in symbols if s not in other]


def _begins(node: Node, symbols: Collection[str]) -> dict[int, str]:
    """The axes along which a window begins at one of these symbols."""
    window = node.output.type if node.op.name == "slice" else node.inputs[1].type
    starts, steps = node.attributes["starts"], node.attributes["steps"]
    found: dict[int, str] = {}
    for axis, (start, count, step) in enumerate(zip(starts, window.shape, steps, strict=True)):
        for symbol in symbols if isinstance(count, int) and step == 1 else ():
            if structurally_equal(start, SymbolicDim.symbol(symbol)):
                found[axis] = symbol
    if len(found) > 1 and node.op.name == "slice_update":
        return {}
    return found


def with_places_as_numbers(graph: Graph, symbols: Sequence[str]) -> Graph:
    """The graph with a further input, a whole number, for each of the symbols, in order.

    They are as ``symbols_of_places`` says.
    """
    b = GraphBuilder()
    values: dict[Value, Any] = {v: b.input(v.type, v.name) for v in graph.inputs}
    numbers = {s: b.input(TensorType((), int64, CPU), "place") for s in symbols}
    for node in graph.nodes:
        b.locate(node)
        operands = [values[v] for v in node.inputs]
        begins = _begins(node, symbols) if node.op.name in _WINDOWS else {}
        if begins:
            write = _written if node.op.name == "slice_update" else _read
            values[node.output] = write(_Places(b, numbers), node, operands, begins)
        else:
            new = b.add_node(node.op, operands, node.attributes)
            values.update(zip(node.outputs, new.outputs, strict=True))
    updates = {position: values[v] for position, v in graph.updates.items()}
    return b.build([values[v] for v in graph.outputs], updates, graph.name)


class _Places:
    """Index tensors for windows that begin at numbers; ``b`` builds the graph."""

    def __init__(self, b: GraphBuilder, numbers: Mapping[str, Value]) -> None:
        self.b = b
        self._numbers = numbers

    def of(self, symbol: str, count: Any, device: Device) -> Any:
        """The ``count`` places from the number on."""
        b, number = self.b, self._numbers[symbol]
        if device != CPU:
            number = b.to_device(number, device=device)
        first = b.reshape(number, shape=(1,))
        if count == 1:
            return first
        more = b.iota(shape=(count,), axis=0, dtype=int64, device=device)
        return b.add(b.expand(first, shape=(count,)), more)


def _read(places: _Places, node: Node, operands: Sequence[Any], begins: Mapping[int, str]) -> Any:
    b, (x,) = places.b, operands
    x = _whole_along(b, x, node, begins)
    for axis, symbol in begins.items():
        found = places.of(symbol, node.output.type.shape[axis], node.output.type.device)
        x = _moved(b, b.index(_moved(b, x, axis, 0), found, inside=True), 0, axis)
    return x


def _written(
    places: _Places, node: Node, operands: Sequence[Any], begins: Mapping[int, str]
) -> Any:
    b, (x, update) = places.b, operands
    ((axis, symbol),) = begins.items()
    type = update.type
    found = places.of(symbol, type.shape[axis], type.device)
    part = _whole_along(b, x, node, begins)
    new = b.index_put(_moved(b, part, axis, 0), _moved(b, update, axis, 0), found, mode="set")
    new = _moved(b, new, 0, axis)
    if part is x:
        return new
    starts = tuple(0 if i == axis else s for i, s in enumerate(node.attributes["starts"]))
    return b.slice_update(x, new, starts=starts, steps=node.attributes["steps"])


def _whole_along(b: GraphBuilder, x: Any, node: Node, begins: Mapping[int, str]) -> Any:
    """``x`` with the window into all dimensions but those of ``begins``."""
    window = node.output.type.shape if node.op.name == "slice" else node.inputs[1].type.shape
    shape: tuple[Dim, ...] = x.type.shape
    rank = range(len(shape))
    starts = tuple(0 if i in begins else node.attributes["starts"][i] for i in rank)
    sizes = tuple(shape[i] if i in begins else window[i] for i in rank)
    steps = node.attributes["steps"]
    if all(map(structurally_equal, sizes, shape)) and all(s == 1 for s in steps):
        return x
    return b.slice(x, starts=starts, sizes=sizes, steps=steps)


def _moved(b: GraphBuilder, x: Any, source: int, target: int) -> Any:
    """``x`` with one of its dimensions at another place."""
    if source == target:
        return x
    order = [i for i in range(len(x.type.shape)) if i != source]
    order.insert(target, source)
    return b.permute(x, axes=tuple(order))
