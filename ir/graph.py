"""The graph: SSA values, immutable nodes, and a signature.

A ``Node`` applies an ``Op`` to values; the op's own shape rule computes the
types of the results in the constructor, so a node that exists is well typed.
Nodes stand in topological order. There is no mutation inside a graph: what
the program writes back is listed in ``Graph.updates``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flamec.ir.types import Device, TensorType

if TYPE_CHECKING:
    from flamec.ir.divided_graph import DividedGraph
    from flamec.ir.op import Op


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's program; ``operation``: what it called, where errors name that."""

    file: str
    line: int
    function: str = ""
    operation: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Value:
    """One result of a node, or an input of a graph (``node`` is None)."""

    __slots__ = ("__weakref__", "index", "name", "node", "type")

    def __init__(
        self, type: TensorType, node: Node | None = None, index: int = 0, name: str | None = None
    ) -> None:
        self.type = type
        self.node = node
        self.index = index
        self.name = name

    def __repr__(self) -> str:
        return f"<Value {self.name or ''}: {self.type}>"


class Node:
    """An operation applied to values; never changed after construction."""

    __slots__ = ("_attributes_key", "attributes", "inputs", "location", "op", "outputs", "scope")

    def __init__(
        self,
        op: Op,
        inputs: Iterable[Value],
        attributes: Mapping[str, Any] | None = None,
        location: Location | None = None,
        scope: str = "",
        types: tuple[TensorType, ...] | None = None,
    ) -> None:
        self.op = op
        self.inputs: tuple[Value, ...] = tuple(inputs)
        self.attributes: dict[str, Any] = dict(attributes or {})
        self.location = location
        self.scope = scope
        self._attributes_key: tuple[Any, ...] | None = None
        if types is None:
            types = op.infer_types(tuple([v.type for v in self.inputs]), self.attributes)
        self.outputs: tuple[Value, ...]
        if len(types) == 1:
            self.outputs = (Value(types[0], self),)
        else:
            self.outputs = tuple([Value(t, self, i) for i, t in enumerate(types)])

    def on(self, inputs: Iterable[Value]) -> Node:
        """The same operation, from the same line, on other operands of the same types."""
        node = object.__new__(Node)
        node.op, node.attributes = self.op, self.attributes
        key = self._attributes_key  # found once for all copies
        node._attributes_key = self.attributes_key if key is None else key
        node.location, node.scope = self.location, self.scope
        node.inputs = tuple(inputs)
        outputs = self.outputs
        if len(outputs) == 1:
            (v,) = outputs
            node.outputs = (Value(v.type, node, 0, v.name),)
        else:
            node.outputs = tuple([Value(v.type, node, v.index, v.name) for v in outputs])
        return node

    def reading(self, replaced: Mapping[Value, Value]) -> Node:
        """A copy that reads what its operands were replaced by; the node itself if none was."""
        if replaced.keys().isdisjoint(self.inputs):
            return self
        return self.on([replaced.get(v, v) for v in self.inputs])

    @property
    def output(self) -> Value:
        """The only result; ValueError if the op has several."""
        (value,) = self.outputs
        return value

    @property
    def stated(self) -> str:
        """What errors of a program name: the function that was called, and the user's line."""
        if self.location is None:
            return self.op.name
        return f"{self.location.operation or self.op.name} at {self.location}"

    @property
    def bodies(self) -> dict[str, Graph]:
        """The graphs that the node runs, by attribute; empty for most operations."""
        for value in self.attributes.values():  # of most nodes none is one
            if isinstance(value, Graph):
                return {k: v for k, v in self.attributes.items() if isinstance(v, Graph)}
        return {}

    def key(self) -> tuple[Any, ...]:
        """Equal keys mean equal results, given that the op is pure."""
        return (self.op.name, tuple(id(v) for v in self.inputs), self.attributes_key)

    @property
    def attributes_key(self) -> tuple[Any, ...]:
        """Equal, and hashable, for equal attributes; the node keeps it."""
        if self._attributes_key is None:
            found = sorted(self.attributes.items()) if self.attributes else ()
            self._attributes_key = tuple([(name, attribute_key(value)) for name, value in found])
        return self._attributes_key

    def __repr__(self) -> str:
        return f"<Node {self.op.name} {self.attributes}>"


def attribute_key(value: Any) -> Any:
    """A hashable form of an attribute in which 1, 1.0 and True, 0.0 and -0.0 differ."""
    if isinstance(value, (tuple, list)):
        return tuple(attribute_key(v) for v in value)
    if isinstance(value, Graph):
        return ("Graph", value.fingerprint())
    return (type(value).__name__, repr(value))


class _Texts(dict[TensorType, str]):
    """Types as text, each made once."""

    def __missing__(self, type: TensorType) -> str:
        text = self[type] = str(type)
        return text


@dataclass(frozen=True, eq=False)
class Graph:
    """A program: inputs, nodes in topological order, outputs, and write-backs.

    ``updates`` maps the position of an input to the value it holds afterwards. ``divided``: what
    the graph was put together from, if it was (``ir.divided_graph``).
    """

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    updates: Mapping[int, Value] = field(default_factory=dict)
    name: str = "main"
    divided: DividedGraph | None = None

    @property
    def results(self) -> tuple[Value, ...]:
        """Everything that must be computed: outputs, then updates by input position."""
        return self.outputs + tuple(self.updates[i] for i in sorted(self.updates))

    def with_outputs(self, outputs: Sequence[Value]) -> Graph:
        """The graph that gives back other values of its own."""
        return Graph(self.inputs, self.nodes, tuple(outputs), dict(self.updates), self.name)

    def with_nodes(self, nodes: Iterable[Node], replaced: Mapping[Value, Value]) -> Graph:
        """The graph of other nodes, that gives back what its results were replaced by."""
        return Graph(
            self.inputs,
            tuple(nodes),
            tuple(replaced.get(v, v) for v in self.outputs),
            {i: replaced.get(v, v) for i, v in self.updates.items()},
            self.name,
        )

    def users(self) -> dict[Value, list[Node]]:
        """For each value the nodes that read it, in order, once per use."""
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs:
                users.setdefault(value, []).append(node)
        return users

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """The devices of all values, those of bodies included, in order of appearance."""
        found: dict[Device, None] = {}
        last = None
        for value in self.inputs:
            found[value.type.device] = None
        for node in self.nodes:
            for value in node.outputs:
                device = value.type.device
                if device is not last:  # asked thousands of times of a network
                    found[device] = None
                    last = device
            if self.has_bodies:
                for body in node.bodies.values():
                    found.update(dict.fromkeys(body.devices))
        return tuple(found)

    @cached_property
    def ops(self) -> frozenset[Op]:
        """The operations of its nodes."""
        return frozenset(self.places)

    @cached_property
    def places(self) -> Mapping[Op, list[int]]:
        """Where the nodes of each operation stand, in order."""
        found: dict[Op, list[int]] = {}
        for place, node in enumerate(self.nodes):
            found.setdefault(node.op, []).append(place)
        return found

    @cached_property
    def has_bodies(self) -> bool:
        """Whether a node runs graphs of its own."""
        for node in self.nodes:
            if node.attributes:
                for value in node.attributes.values():
                    if isinstance(value, Graph):
                        return True
        return False

    def fingerprint(self) -> str:
        """A hash of structure alone: names and source lines do not count."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        number: dict[Value, str] = {}
        text = _Texts()
        attributes: dict[tuple[Any, ...], str] = {}
        lines = []
        for value in self.inputs:
            number[value] = str(len(number))
            lines.append(f"input {value.type}")
        for node in self.nodes:
            operands = ",".join([number[v] for v in node.inputs])
            for value in node.outputs:
                number[value] = str(len(number))
            types = ",".join([text[v.type] for v in node.outputs])
            key = node.attributes_key
            own = attributes.get(key) or attributes.setdefault(key, str(key))
            lines.append(f"{node.op.name}({operands}){own}:{types}")
            if node.op.kernel is not None:
                given = tuple(v.type for v in node.inputs)
                made = tuple(v.type for v in node.outputs)
                lines.append(node.op.kernel.key(given, made, node.attributes))
        lines.append("return " + ",".join([number[v] for v in self.outputs]))
        lines.extend(f"update {i} {number[self.updates[i]]}" for i in sorted(self.updates))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
