"""Smaller programs out of one: what delta debugging tries.

In: a ``Case``: a graph, and what each of its values is for the inputs at hand. Out: other cases.
A value that is cut off becomes an input with the contents that it had, so that what reads it sees
the same numbers. Invariant: every case that is given is well formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flamec.debugging.comparison import REFUSALS
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import evaluate_graph
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.shape import evaluate_shape
from flamec.ir.types import TensorType

Attributes = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """``contents``: of inputs always; of other values if the graph could be evaluated."""

    graph: Graph
    contents: Mapping[Value, np.ndarray]

    @property
    def inputs(self) -> dict[int, np.ndarray]:
        """The contents of the inputs by position."""
        return {i: self.contents[v] for i, v in enumerate(self.graph.inputs)}


def evaluated(graph: Graph, inputs: Sequence[np.ndarray], bindings: Mapping[str, int]) -> Case:
    """The graph with the contents of all values, those of inputs alone if it cannot be run.

    Values in the bodies of loops and branches have what they were first.
    """
    contents: dict[Value, np.ndarray] = dict(zip(graph.inputs, inputs, strict=True))

    def watch(node: Node, operands: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> None:
        arrays = (*operands, *results)
        for value, array in zip((*node.inputs, *node.outputs), arrays, strict=True):
            if value not in contents:
                contents[value] = np.array(array)

    try:
        evaluate_graph(graph, inputs, bindings, watch, in_bodies=True)
    except REFUSALS:
        contents = dict(zip(graph.inputs, inputs, strict=True))
    return Case(graph, contents)


def with_results(case: Case, outputs: Sequence[Value], updates: Mapping[int, Value]) -> Case:
    """The part of the graph that computes these results."""
    return cut(case, (), outputs, updates)


def cut(
    case: Case,
    nodes: Sequence[Node],
    outputs: Sequence[Value] | None = None,
    updates: Mapping[int, Value] | None = None,
) -> Case:
    """The results of ``nodes`` become inputs; what nothing reads is left out."""
    graph, gone = case.graph, set(nodes)
    outputs = graph.outputs if outputs is None else outputs
    updates = graph.updates if updates is None else updates
    wanted = {*outputs, *updates.values(), *(graph.inputs[i] for i in updates)}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node not in gone and any(v in wanted for v in node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    kept.reverse()
    loose = [v for n in graph.nodes if n in gone for v in n.outputs if v in wanted]
    given = [*(v for v in graph.inputs if v in wanted), *loose]
    if any(v not in case.contents for v in given):
        raise ValueError("the contents of a value are not known")
    return _rebuilt(case, given, kept, outputs, updates)


def bypassed(case: Case, node: Node, operand: Value) -> Case:
    """An operand of the node, of the same type, in place of its only result."""
    graph = case.graph
    nodes = [n for n in graph.nodes if n is not node]
    return _rebuilt(case, graph.inputs, nodes, graph.outputs, graph.updates, {node.output: operand})


def with_attributes(case: Case, node: Node, attributes: Attributes) -> Case:
    """The node with other attributes, of the same result types."""
    graph = case.graph
    change = {node: attributes}
    return _rebuilt(case, graph.inputs, graph.nodes, graph.outputs, graph.updates, {}, change)


def body_case(case: Case, body: Graph) -> Case:
    """A body as a program: with what its inputs were at first, zeros where nothing read them.

    ValueError for symbolic sizes.
    """
    if any(not v.type.is_static for v in body.values()):
        raise ValueError("the sizes of the body are not known")
    inputs = [case.contents.get(v, _zeros(v.type)) for v in body.inputs]
    return evaluated(body, inputs, {})


def _zeros(type: TensorType) -> np.ndarray:
    return np.zeros(evaluate_shape(type.shape, {}), type.dtype.numpy)


def shorter_bodies(case: Case) -> Iterator[Callable[[], Case]]:
    """The graph with a body, at any depth, in which an operand stands for a result of its type."""
    for node in case.graph.nodes:
        for name, body in node.bodies.items():
            for make in _shorter(body):
                yield partial(_with_body, case, node, name, make)


def _shorter(body: Graph) -> Iterator[Callable[[], Case]]:
    """The same of a body. What is in its inputs does not matter."""
    if any(not v.type.is_static for v in body.inputs):
        return
    case = Case(body, {v: _zeros(v.type) for v in body.inputs})
    for node in reversed(body.nodes):
        if len(node.outputs) == 1:
            for operand in node.inputs:
                if operand.type == node.output.type:
                    yield partial(bypassed, case, node, operand)
    yield from shorter_bodies(case)


def _with_body(case: Case, node: Node, name: str, make: Callable[[], Case]) -> Case:
    body = eliminate_dead_code(make().graph)
    return with_attributes(case, node, {**node.attributes, name: body})


def _rebuilt(
    case: Case,
    given: Sequence[Value],
    nodes: Sequence[Node],
    outputs: Sequence[Value],
    updates: Mapping[int, Value],
    instead: Mapping[Value, Value] | None = None,
    attributes: Mapping[Node, Attributes] | None = None,
    retype: Callable[[TensorType], TensorType] | None = None,
) -> Case:
    builder = GraphBuilder()
    made: dict[Value, Value] = {}
    contents: dict[Value, np.ndarray] = {}
    for value in given:
        type = value.type if retype is None else retype(value.type)
        made[value] = builder.input(type, value.name)
        contents[made[value]] = _sliced(case.contents[value], type)
    for node in nodes:
        builder.location, builder.scope = node.location, node.scope
        own = (attributes or {}).get(node, node.attributes)
        operands = [made[(instead or {}).get(v, v)] for v in node.inputs]
        new = builder.add_node(node.op, operands, own)
        for old, value in zip(node.outputs, new.outputs, strict=True):
            made[old] = value
            if old in case.contents and retype is None:
                contents[value] = case.contents[old]
    for old, other in (instead or {}).items():
        made[old] = made[other]
    positions = {value: position for position, value in enumerate(given)}
    inputs = case.graph.inputs
    graph = builder.build(
        [made[v] for v in outputs],
        {positions[inputs[i]]: made[v] for i, v in updates.items()},
        case.graph.name,
    )
    return Case(graph, contents)


def _sliced(array: np.ndarray, type: TensorType) -> np.ndarray:
    if not type.is_static or array.shape == type.shape:
        return array
    return np.ascontiguousarray(array[tuple(map(slice, evaluate_shape(type.shape, {})))])


def resized(case: Case, size: int, other: int) -> Case:
    """``other`` in place of every dimension ``size``. Raises what a shape rule raises."""

    def dim(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(dim, value))
        return other if type(value) is int and value == size else value

    graph = case.graph
    attributes = {
        node: {k: dim(v) if k in node.op.dimensions else v for k, v in node.attributes.items()}
        for node in graph.nodes
    }
    return _rebuilt(
        case,
        graph.inputs,
        graph.nodes,
        graph.outputs,
        graph.updates,
        {},
        attributes,
        lambda type: type.with_shape(dim(type.shape)),
    )


def sizes(graph: Graph) -> list[int]:
    """The dimensions above 1 of inputs and results of nodes, the largest first."""
    found = {d for v in graph.values() for d in v.type.shape if isinstance(d, int) and d > 1}
    return sorted(found, reverse=True)


def simpler_attributes(node: Node) -> Iterator[Attributes]:
    """The node's attributes with one number or flag in a plainer form."""
    for name, value in node.attributes.items():
        if name in node.op.dimensions:
            continue
        plainer: tuple[Any, ...] = ()
        if type(value) is float:
            plainer = (0.0, 1.0)
        elif type(value) is int:
            plainer = (0, 1)
        elif value is True:
            plainer = (False,)
        for other in plainer:
            if other == value:
                break
            yield {**node.attributes, name: other}
