"""Builders: one interface with which rules and passes emit operations.

``GraphBuilder`` appends nodes to a graph. The frontend has a second
implementation whose values are Tensors. Derivative rules and decompositions
are written once against ``Builder`` and serve both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flamec.ir.graph import Graph, Location, Node, Value, attribute_key
from flamec.ir.op import Op, lookup
from flamec.ir.shape import Dim, SymbolicDim, equal, structurally_equal
from flamec.ir.shape_oracle import Undecidable
from flamec.ir.types import DType, TensorType


class Builder:
    """Emits operations; ``b.add(x, y)`` applies the op called ``add``."""

    def apply(self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        """One value, or a tuple for an op with several results."""
        raise NotImplementedError

    def apply_all(
        self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """A tuple of all results, however many there are."""
        made = self.apply(op, inputs, attributes)
        return made if isinstance(made, tuple) else (made,)

    def type_of(self, value: Any) -> TensorType:
        raise NotImplementedError

    def locate(self, node: Node) -> None:
        """What is emitted from now on comes from the same line of the user's program."""

    def read_state(self, key: Any, type: TensorType) -> Any:
        """What the memory ``key`` holds where a derivative is taken (a generator's state)."""
        raise NotImplementedError(
            "a derivative that draws random numbers cannot be taken inside of a loop or branch"
        )

    def write_state(self, key: Any, value: Any) -> None:
        """Let the memory ``key`` hold another value from here on."""
        raise NotImplementedError

    def report(self, function: Any, values: Sequence[Any]) -> None:
        """Have the program's call end with ``function`` of the list of these gradients."""
        raise NotImplementedError(
            "a backward hook that changes something cannot be called in a loop or branch"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            op = lookup(name)
        except KeyError as error:
            raise AttributeError(str(error)) from None

        def emit(*inputs: Any, **attributes: Any) -> Any:
            return self.apply(op, inputs, attributes)

        return emit

    # what nearly every rule needs ---------------------------------------------
    def constant(self, value: Any, like: TensorType) -> Any:
        """A zero-dimensional constant of the dtype and device of ``like``.

        A symbolic dimension becomes a ``dim_size`` node.
        """
        if isinstance(value, SymbolicDim):
            return self.dim_size(size=value, dtype=like.dtype, device=like.device)
        return self.full(value=value, shape=(), dtype=like.dtype, device=like.device)

    def full_like(self, value: Any, like: TensorType) -> Any:
        """``value`` broadcast to the shape of ``like``."""
        return self.full(value=value, shape=like.shape, dtype=like.dtype, device=like.device)

    def cast(self, value: Any, dtype: DType) -> Any:
        """Convert, or the value itself where the dtype is right already."""
        if self.type_of(value).dtype is dtype:
            return value
        return self.convert(value, dtype=dtype)

    def expand_to(self, value: Any, shape: tuple[Dim, ...]) -> Any:
        """Broadcast to ``shape``; leading dimensions may be added."""
        have = self.type_of(value).shape
        if have is shape or (len(have) == len(shape) and all(map(structurally_equal, have, shape))):
            return value
        return self.expand(value, shape=shape)

    def sum_to(self, value: Any, shape: tuple[Dim, ...]) -> Any:
        """Undo a broadcast: sum over the axes along which ``shape`` was stretched."""
        have = self.type_of(value).shape
        if have is shape or (len(have) == len(shape) and all(map(structurally_equal, have, shape))):
            return value
        extra = len(have) - len(shape)
        axes = tuple(range(extra)) + tuple(
            i + extra for i, d in enumerate(shape) if _is_stretched(d, have[i + extra])
        )
        if axes:
            value = self.sum(value, axes=axes)
        have = self.type_of(value).shape
        if len(have) != len(shape) or not all(map(structurally_equal, have, shape)):
            value = self.reshape(value, shape=shape)
        return value


def _is_stretched(size: Dim, to: Dim) -> bool:
    """Whether a broadcast made a size of 1 another one."""
    if structurally_equal(size, to):
        return False
    if isinstance(size, int):
        return size == 1
    try:
        return equal(size, 1)
    except Undecidable:  # after the trace: then the two symbols are known to be equal
        return not equal(size, to)


Report = tuple[Any, tuple[Value | None, ...]]


class GraphBuilder(Builder):
    """Appends nodes; equal nodes are made once if ``share`` is set."""

    def __init__(self, share: bool = False) -> None:
        self._inputs: list[Value] = []
        self._nodes: list[Node] = []
        self._shared: dict[Any, Node] | None = {} if share else None
        self.location: Location | None = None
        self.scope = ""
        self.states: dict[Any, Value] | None = None  # by key, if derivatives may ask for them
        self.reports: list[Report] | None = None  # if derivatives may make some

    @property
    def nodes(self) -> list[Node]:
        return self._nodes

    @property
    def graph_inputs(self) -> list[Value]:
        return self._inputs

    def input(self, type: TensorType, name: str | None = None) -> Value:
        value = Value(type, None, len(self._inputs), name)
        self._inputs.append(value)
        return value

    def type_of(self, value: Value) -> TensorType:
        return value.type

    def locate(self, node: Node) -> None:
        self.location, self.scope = node.location, node.scope

    def read_state(self, key: Any, type: TensorType) -> Any:
        """The first read is a further input."""
        if self.states is None:
            return super().read_state(key, type)
        if key not in self.states:
            self.states[key] = self.input(type, "state")
        return self.states[key]

    def write_state(self, key: Any, value: Any) -> None:
        assert self.states is not None
        self.states[key] = value

    def report(self, function: Any, values: Sequence[Any]) -> None:
        if self.reports is None:
            super().report(function, values)
        else:
            self.reports.append((function, tuple(values)))

    def apply(self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        node = self.add_node(op, inputs, attributes)
        return node.outputs if len(node.outputs) != 1 else node.outputs[0]

    def add_node(self, op: Op, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Node:
        return self._once(
            op, inputs, attributes, lambda: Node(op, inputs, attributes, self.location, self.scope)
        )

    def add_copy(self, node: Node, inputs: Sequence[Value]) -> Node:
        """The operation of a node, from the same line, on other operands of the same types. Its
        shape rule is not asked: what it asked of sizes while tracing, only guards may tell."""
        return self._once(node.op, inputs, node.attributes, lambda: node.on(inputs))

    def _once(
        self,
        op: Op,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any],
        make: Callable[[], Node],
    ) -> Node:
        if self._shared is None:
            node = make()
            self._nodes.append(node)
            return node
        key = (
            op.name,
            tuple(id(v) for v in inputs),
            tuple((k, attribute_key(v)) for k, v in sorted(attributes.items())),
        )
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = make()
            self._nodes.append(found)
        return found

    def build(
        self,
        outputs: Sequence[Value],
        updates: Mapping[int, Value] | None = None,
        name: str = "main",
    ) -> Graph:
        return Graph(
            tuple(self._inputs), tuple(self._nodes), tuple(outputs), dict(updates or {}), name
        )
