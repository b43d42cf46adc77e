"""Programs that end where Python wants a tensor's value.

While a function is traced on tracers, ``Execution`` gives the values that the function asks
for: what they depend on becomes a ``Segment``, a compiled program of its own, which is run on the
real inputs. The trace goes on as if nothing had happened: it is one graph. Invariant: segments
only compute. What the function writes is written by the last program of a call, so that a
call can be given up at any split, and begun again, with nothing changed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flamec.device_array import DeviceArray
from flamec.errors import user_location
from flamec.float32_precision import chosen_precision
from flamec.gpu import gpu_of
from flamec.ir.graph import Graph, Location, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.extract import extract, needed_nodes
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import TensorType
from flamec.prepared import Prepared
from flamec.size_bounds import ANY_SIZE
from flamec.size_oracle import ShapeGuard, symbol_values
from flamec.sources import InputSource
from flamec.state import trace_paused
from flamec.watching import looking_away

MAX_COMPARED = 64  # elements of an array that is a condition of a path
MAX_SEGMENTS = 64  # compiled segments that a function keeps
_CHEAP = frozenset(
    {OpKind.ELEMENTWISE, OpKind.VIEW, OpKind.BARRIER, OpKind.CREATION, OpKind.RANDOM}
)


class SizesDiffer(BaseException):  # code that handles errors must not handle it
    """The trace relied on sizes that the call does not have; it must start again with these."""


@dataclass(frozen=True)
class Origin:
    """Output ``output`` of the segment that runs as number ``step`` of a call."""

    step: int
    output: int


Place = InputSource | Origin


@dataclass(frozen=True, eq=False)
class Decision:
    """A value that Python was given: a later call takes the same path only if it is equal.

    ``recurs``: whether it is likely to be the same again, as a bool or an index is, a loss is not.
    ``is_size``: it could be the value of a symbol (``FoundSize``).
    """

    place: Place
    what: str
    location: Location | None
    expected: np.ndarray
    recurs: bool
    is_size: bool = False

    def holds(self, value: np.ndarray) -> bool:
        expected = self.expected
        same = value.shape == expected.shape and value.dtype == expected.dtype
        return same and value.tobytes() == expected.tobytes()

    def __str__(self) -> str:
        value = self.expected.item() if self.expected.size == 1 else "an array"
        return f"{self.what} gives {value} (at {self.location})"


@dataclass(frozen=True, eq=False)
class FoundSize:
    """A size that a call finds when it has come so far, the value of a symbol from there on.

    ``sign``: -1 if the symbol is the size with another sign, as in ``x[-n:]``; ``guards``:
    relations between sizes that are known then; ``example``: the traced call's.
    """

    place: Place
    what: str
    location: Location | None
    symbol: str
    example: int
    sign: int = 1
    guards: tuple[ShapeGuard, ...] = ()

    def value(self, found: np.ndarray) -> int:
        """The symbol's value."""
        return self.sign * int(found.reshape(()))

    def holds(self, bindings: Mapping[str, int]) -> bool:
        return bindings[self.symbol] >= 0 and all(guard.check(bindings) for guard in self.guards)

    def __str__(self) -> str:
        relations = ", ".join([f"{self.symbol} >= 0", *map(str, self.guards)])
        return f"{self.what} gives a size, {relations} (at {self.location})"


def array_of(source: InputSource, leaves: Sequence[Any], sizes: Mapping[str, int]) -> Any:
    """The array (for a number, the number) that a graph input stands for in a call."""
    if source.kind == "number":
        return source.read(leaves, sizes)
    if source.kind == "base":
        storage = leaves[source.position]._storage if source.storage is None else source.storage
        return storage.base
    tensor = leaves[source.position] if source.tensor is None else source.tensor
    return tensor._array


def on_host(array: Any) -> np.ndarray:
    """An array's values in the host's memory; a copy that cannot be written to."""
    if isinstance(array, DeviceArray):
        array = gpu_of(array).download(array)
    result = np.array(array, copy=True)
    result.flags.writeable = False
    return result


class Segment:
    """A compiled graph without updates. ``inputs``: where each of its inputs comes from."""

    def __init__(
        self, graph: Graph, inputs: tuple[Place, ...], symbols: tuple[str, ...], prepared: Prepared
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.symbols = symbols
        self.prepared = prepared
        self._local = threading.local()

    def run(
        self,
        leaves: Sequence[Any],
        sizes: tuple[int, ...],
        earlier: Sequence[Sequence[Any]],
        inputs: Sequence[Place] | None = None,
        read: Callable[[InputSource, Sequence[Any], Mapping[str, int]], Any] = array_of,
    ) -> list[Any]:
        """New arrays of the outputs. ``earlier``: those of the segments before.

        While tracing: ``inputs`` as the trace found them, ``read`` as ``array_of``.
        """
        invocation, cells, types = self._bound(sizes)
        memory, bindings = self.prepared.memory, dict(zip(self.symbols, sizes, strict=True))
        held = []  # alive while the program runs
        for position, place in enumerate(self.inputs if inputs is None else inputs):
            if position in cells:
                assert isinstance(place, InputSource)  # a number comes from no segment
                memory.write_number(cells[position], read(place, leaves, bindings))
                invocation.set_input(position, cells[position])  # equal graphs share addresses
                continue
            if isinstance(place, Origin):
                array = earlier[place.step][place.output]
            else:
                array = read(place, leaves, bindings)
            if not array.flags.c_contiguous:
                array = memory.dense(array)
            held.append(array)
            invocation.set_input(position, array)
        outputs = []
        for position, type in enumerate(types):
            array = memory.empty(type)
            invocation.set_output(position, array)
            outputs.append(array)
        invocation.run()
        return outputs

    def _bound(self, sizes: tuple[int, ...]) -> Any:
        """The invocation, cells of numbers and output types for these sizes, in this thread."""
        known = self._local.__dict__.setdefault("known", OrderedDict())
        found = known.get(sizes)
        if found is None:
            bindings = dict(zip(self.symbols, sizes, strict=True))
            invocation = self.prepared.bind(sizes)
            cells = {}
            for position, place in enumerate(self.inputs):
                if isinstance(place, InputSource) and place.kind == "number":
                    dtype = self.graph.inputs[position].type.dtype
                    cells[position] = self.prepared.memory.number(dtype)
            types = [concrete_type(v.type, bindings) for v in self.graph.outputs]
            found = known[sizes] = invocation, cells, types
            if len(known) > MAX_SEGMENTS:
                known.popitem(last=False)
        return found


def concrete_type(type: TensorType, bindings: Mapping[str, int]) -> TensorType:
    """A type whose symbolic sizes have the values of ``bindings``."""
    return type.with_shape(tuple(evaluate_dim(d, bindings) for d in type.shape))


def place_key(place: Place) -> Any:
    """Equal for places that are the same in every call; what it names is kept alive elsewhere."""
    if isinstance(place, Origin):
        return place
    owners = (place.tensor, place.storage, place.container)
    number = None if place.expression is None else place.expression.key()
    return (place.kind, place.position, *map(id, owners), place.path, number)


class SegmentCache:
    """The segments of a function: equal graphs with inputs from the same places are one."""

    def __init__(self, prepare: Callable[[Graph, tuple[str, ...]], Prepared]) -> None:
        self.prepare = prepare
        self._known: OrderedDict[Any, Segment] = OrderedDict()

    def find(self, graph: Graph, inputs: tuple[Place, ...], symbols: tuple[str, ...]) -> Segment:
        sources = tuple(map(place_key, inputs))
        key = (graph.fingerprint(), sources, symbols, chosen_precision(graph))
        segment = self._known.get(key)
        if segment is None:
            prepared = self.prepare(graph, symbols)
            segment = self._known[key] = Segment(graph, inputs, symbols, prepared)
            if len(self._known) > MAX_SEGMENTS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return segment


class Execution:
    """The values of a trace in progress, for one call.

    ``steps``: the segments that were run and the decisions that were made, in order;
    ``results``: the arrays of each segment's outputs; ``places``: where values are. ``sizes``: what
    sizes are that values decide: ``"constant"``, or symbols, with an ``"example"`` that is not 0 or
    1, or the ``"exact"`` size of the call.
    """

    def __init__(
        self,
        trace: Any,
        leaves: Sequence[Any],
        cache: SegmentCache,
        name: str,
        sizes: str = "constant",
    ) -> None:
        self.steps: list[Segment | Decision | FoundSize] = []
        self.results: list[list[Any]] = []
        self.places: dict[Value, Origin] = {}
        self._trace = trace
        self._leaves = leaves
        self._cache = cache
        self._name = name
        self._seen = 0  # nodes that were there at the last split
        self.bindings: dict[str, int] = {}
        self._sizes = sizes
        self._true_places: dict[Value, Any] = {}
        self._known_sizes: dict[Value, Dim] = {}

    @property
    def found_sizes(self) -> dict[str, int]:
        """The symbols that values decide, with the sizes of this call."""
        return {s.symbol: s.example for s in self.steps if isinstance(s, FoundSize)}

    def places_of(self, mask: Any, find: Callable[[Any, Callable[[Any], Dim]], Any]) -> Any:
        """The places where a mask of the trace is True, which ``find`` computes; once a mask."""
        value = self._trace.value_of(mask)
        if value not in self._true_places:
            self._true_places[value] = self._trace.value_of(find(mask, self._read_count))
        return self._trace.wrap(self._true_places[value])

    def _read_count(self, count: Any) -> Dim:
        return self.read_size(count, "the number of True elements")

    def read_size(self, count: Any, what: str) -> Dim:
        """The size that a tensor with one whole number holds; the program is split here."""
        known = self._known_sizes.get(value := self._trace.value_of(count))
        if known is None:
            known = self._known_sizes[value] = self._found_size(count, what)
        return known

    def _found_size(self, count: Any, what: str) -> Dim:
        location = user_location()
        number = int(self._trace.read_value(count, what, True).reshape(()))
        decision = self.steps.pop()
        assert isinstance(decision, Decision)
        if self._sizes == "constant":
            self.steps.append(replace(decision, is_size=True))
            return number
        hints = self._trace.oracle.hints
        symbol = f"s{len(hints)}"
        dim = SymbolicDim.symbol(symbol)
        sign = -1 if number < 0 else 1
        number *= sign
        example = number if self._sizes == "exact" or number > 1 else 2 + len(hints)
        self._trace.oracle.declare(dim, symbol, example, ANY_SIZE)
        self.bindings[symbol] = number
        self.steps.append(FoundSize(decision.place, what, location, symbol, number, sign))
        return sign * dim

    def bind(self, argument_types: Mapping[int, TensorType]) -> None:
        """Find the values of the symbols in the shapes of the arguments."""
        self.bindings.update(symbol_values(argument_types, self._leaves))

    def read(self, value: Value, what: str, location: Location | None, recurs: bool) -> np.ndarray:
        """The array of a value of the trace; the program is split here."""
        oracle = self._trace.oracle
        sizes = {**oracle.hints, **self.bindings}
        if not all(g.check(sizes) for g in oracle.guards.values()):
            raise SizesDiffer
        with looking_away(), trace_paused(), using_oracle(None):
            if value.node is not None and value not in self.places:
                self._run(value, tuple(sizes[s] for s in oracle.hints))
            place, array = self._find(value)
            found = on_host(array)
        if found.dtype != value.type.dtype.numpy:  # a Python number
            found = found.astype(value.type.dtype.numpy)
            found.flags.writeable = False
        recurs = found.size <= MAX_COMPARED and (recurs or not value.type.dtype.is_floating_point)
        self.steps.append(Decision(place, what, location, found, recurs))
        return found

    def depends_only_on_numbers(self, value: Value) -> bool:
        """Whether a value follows from numbers among the arguments alone."""
        sources = self._trace.sources
        inputs = {v for n in needed_nodes([value], ()) for v in n.inputs if v.node is None}
        inputs |= {value} if value.node is None else set()
        numbers = [s for s in (sources[v.index] for v in inputs) if s.kind == "number"]
        return (
            bool(inputs)
            and len(numbers) == len(inputs)
            and all(s.expression is not None and s.expression.of_arguments for s in numbers)
        )

    def _find(self, value: Value) -> tuple[Place, Any]:
        origin = self.places.get(value)
        if origin is not None:
            return origin, self.results[origin.step][origin.output]
        source = self._trace.sources[value.index]
        return source, self._read(source, self._leaves, {})

    def _read(self, source: InputSource, leaves: Sequence[Any], sizes: Mapping[str, int]) -> Any:
        """As ``array_of``; numbers of Python's state as they were when the trace began."""
        if source.kind == "number":
            return self._trace.host.firsts.read(source)
        return array_of(source, leaves, sizes)

    def place_of(self, value: Value) -> Place:
        return self.places.get(value) or self._trace.sources[value.index]

    def _run(self, value: Value, sizes: tuple[int, ...]) -> None:
        nodes = self._trace.builder.nodes
        outputs = [value, *(v for v in self._kept() if v is not value)]
        step = len(self.results)
        part = extract(nodes, self.places, outputs, {}, f"{self._name}_part{step + 1}")
        places = tuple(self.place_of(v) for v in part.inputs)
        if any(isinstance(p, InputSource) and p.moment for p in places):
            self._trace.host.depends_on_act(user_location())
        guards = self._trace.oracle.guards.values()
        equal = [(g.left, g.right) for g in guards if g.relation == "==" and g.holds]
        graph = settle_sizes(part.graph, equal)
        segment = self._cache.find(graph, places, tuple(self._trace.oracle.hints))
        self.results.append(segment.run(self._leaves, sizes, self.results, places, self._read))
        self.steps.append(segment)
        self.places.update((v, Origin(step, i)) for i, v in enumerate(outputs))
        self._seen = len(nodes)

    def _kept(self) -> list[Value]:
        """What later segments may read: live tensors, and what gradients need and is expensive.

        Whatever else they need they compute again from these.
        """
        trace = self._trace
        values = trace.live_values()
        for node in trace.builder.nodes[self._seen :]:
            if node.op.kind not in _CHEAP and id(node) not in trace.freed:
                values += [v for v in node.outputs if v in trace.tracked]
        fresh = dict.fromkeys(v for v in values if v.node is not None and v not in self.places)
        return list(fresh)
