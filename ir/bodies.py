"""Graphs inside of nodes: what loops and branches run.

A body is a ``Graph`` without updates that stands in a node's attributes. It reads nothing but its
inputs, which the node gives it, so it can be rewritten, differentiated and compiled by itself.
Sizes that it names are those of the graph around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    equal,
    evaluate_dim,
    evaluate_shape,
    substitute,
    symbols_of,
)
from flamec.ir.types import TensorType


def check_same(name: str, what: str, have: TensorType, relation: str, other: TensorType) -> None:
    """TypeError or ValueError, naming the operation, unless two types are the same."""
    if have.dtype is not other.dtype or have.device != other.device:
        raise TypeError(f"{name}: {what} is {have}, {relation} {other}")
    same_rank = len(have.shape) == len(other.shape)
    if not same_rank or not all(map(equal, have.shape, other.shape)):
        raise ValueError(f"{name}: {what} is {have}, {relation} {other}")


def with_bodies(node: Node, change: Callable[[Graph], Graph]) -> Node:
    """The node with each of its bodies changed; itself if ``change`` gives the same objects."""
    bodies = node.bodies
    changed = {name: change(body) for name, body in bodies.items()}
    if all(changed[name] is body for name, body in bodies.items()):
        return node
    types = tuple(v.type for v in node.outputs)
    attributes = {**node.attributes, **changed}
    copy = Node(node.op, node.inputs, attributes, node.location, node.scope, types)
    for new, old in zip(copy.outputs, node.outputs, strict=True):
        new.name = old.name
    return copy


def emitted(b: Builder, graph: Graph, values: Sequence[Any], *, locate: bool = True) -> list[Any]:
    """Emit the nodes of a graph without updates, given its inputs; its outputs.

    ``locate``: they keep their lines of the user's program, else have those that ``b`` is at.
    """
    known: dict[Value, Any] = dict(zip(graph.inputs, values, strict=True))
    for node in graph.nodes:
        if locate:
            b.locate(node)
        made = b.apply_all(node.op, [known[v] for v in node.inputs], node.attributes)
        known.update(zip(node.outputs, made, strict=True))
    return [known[v] for v in graph.outputs]


def reordered(graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value]) -> Graph:
    """The graph with its inputs in another order, and with these outputs."""
    builder = GraphBuilder()
    known = {value: builder.input(value.type, value.name) for value in inputs}
    for node in graph.nodes:
        operands = [known[v] for v in node.inputs]
        types = tuple(v.type for v in node.outputs)
        copy = Node(node.op, operands, node.attributes, node.location, node.scope, types)
        builder.nodes.append(copy)
        known.update(zip(node.outputs, copy.outputs, strict=True))
    return builder.build([known[v] for v in outputs], name=graph.name)


def change_bodies(graph: Graph, change: Callable[[Graph], Graph]) -> Graph:
    """The graph with ``change`` applied to the bodies of its nodes, the innermost first."""
    if not graph.has_bodies:
        return graph
    replaced: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        new = with_bodies(node, lambda body: change(change_bodies(body, change))).reading(replaced)
        if new is not node:
            replaced.update(zip(node.outputs, new.outputs, strict=True))
        nodes.append(new)
    if not replaced:
        return graph
    return graph.with_nodes(nodes, replaced)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """The nodes of a graph and of all bodies in it."""
    for node in graph.nodes:
        yield node
        for body in node.bodies.values():
            yield from all_nodes(body)


def retyped(
    graph: Graph,
    change_type: Callable[[TensorType], TensorType],
    change_attributes: Callable[[Node], dict[str, Any]],
) -> Graph:
    """The same program over values of other types, node by node; bodies are changed, too."""
    values: dict[Value, Value] = {}
    for value in graph.inputs:
        values[value] = Value(change_type(value.type), None, value.index, value.name)
    nodes = []
    for node in graph.nodes:
        attributes = change_attributes(node)
        for name, body in node.bodies.items():
            attributes[name] = retyped(body, change_type, change_attributes)
        operands = [values[v] for v in node.inputs]
        types = tuple(change_type(v.type) for v in node.outputs)
        new = Node(node.op, operands, attributes, node.location, node.scope, types)
        for old, made in zip(node.outputs, new.outputs, strict=True):
            made.name = old.name
            values[old] = made
        nodes.append(new)
    return Graph(
        tuple(values[v] for v in graph.inputs),
        tuple(nodes),
        tuple(values[v] for v in graph.outputs),
        {position: values[v] for position, v in graph.updates.items()},
        graph.name,
    )


def bound_graph(graph: Graph, bindings: Mapping[str, int]) -> Graph:
    """The graph with numbers in place of its symbolic sizes; itself if it has none."""
    if not symbols_in(graph):
        return graph
    return retyped(
        graph,
        lambda type: type.with_shape(evaluate_shape(type.shape, bindings)),
        lambda node: {
            k: v if isinstance(v, Graph) else bound_attribute(v, bindings)
            for k, v in node.attributes.items()
        },
    )


def bound_attribute(value: Any, bindings: Mapping[str, int]) -> Any:
    """An attribute with numbers in place of symbolic sizes."""
    if isinstance(value, tuple):
        return tuple(bound_attribute(v, bindings) for v in value)
    if isinstance(value, Graph):
        return bound_graph(value, bindings)
    return evaluate_dim(value, bindings) if isinstance(value, SymbolicDim) else value


def substituted(value: Any, replacements: Mapping[str, Dim]) -> Any:
    """An attribute with other sizes in place of symbols; graphs are left as they are."""
    if isinstance(value, tuple):
        return tuple(substituted(v, replacements) for v in value)
    return substitute(value, replacements) if isinstance(value, SymbolicDim) else value


def symbols_in(entry: object) -> dict[str, None]:
    """The symbols of an attribute or of a graph's shapes and attributes, in order."""
    found: dict[str, None] = {}
    _add_symbols(entry, found, set())
    return found


def _add_symbols(entry: object, found: dict[str, None], seen: set[TensorType]) -> None:
    """``seen``: types whose symbols are in ``found``."""
    if isinstance(entry, (tuple, list)):
        for part in entry:
            if type(part) is not int:
                _add_symbols(part, found, seen)
    elif isinstance(entry, SymbolicDim):
        found.update(dict.fromkeys(sorted(symbols_of(entry))))
    elif isinstance(entry, Graph):
        _add_shapes(entry.inputs, found, seen)
        for node in entry.nodes:
            _add_shapes(node.outputs, found, seen)
            for value in node.attributes.values():
                if not isinstance(value, (int, float, str)):
                    _add_symbols(value, found, seen)


def _add_shapes(values: Sequence[Value], found: dict[str, None], seen: set[TensorType]) -> None:
    for value in values:
        if value.type not in seen:
            seen.add(value.type)
            _add_symbols(value.type.shape, found, seen)
