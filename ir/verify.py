"""The numbered invariants of a graph; they hold after every pass.

- V1  Inputs are distinct values that no node defines, numbered by position.
- V2  Every operand is an input or the result of an earlier node.
- V3  A node stands in the graph once, and its results point back to it.
- V4  Every op is the registered one of its name.
- V5  Attributes are None, bool, int, float, str, dtype, device, dimension, tuples of these, or
      graphs.
- V6  The recorded types are those that the op's shape rule gives (up to relations between
      symbols that only a guard can settle), and results match them in number.
- V7  Outputs are defined.
- V8  An update writes to an existing input a defined value of the input's type.
- V9  A graph in an attribute keeps these invariants itself, and has no updates.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import is_registered
from flamec.ir.printer import format_attribute, format_node
from flamec.ir.shape_oracle import Undecidable, using_oracle


class VerifyError(ValueError):
    """A graph that breaks an invariant. ``invariant`` is its number, such as ``"V2"``."""

    def __init__(self, invariant: str, message: str, where: str = "") -> None:
        super().__init__(f"{invariant}: {message}" + (f"\n  in: {where}" if where else ""))
        self.invariant = invariant


def verify(graph: Graph) -> Graph:
    """The graph itself if all invariants hold; VerifyError with number and node otherwise."""
    numbers: dict[Value, int] = {}
    for position, value in enumerate(graph.inputs):
        if value.node is not None or value.index != position:
            raise VerifyError("V1", f"input {position} is not an input value of that position")
        if value in numbers:
            raise VerifyError("V1", f"input {position} is also input {numbers[value]}")
        numbers[value] = len(numbers)
    seen: set[Node] = set()
    for node in graph.nodes:
        _verify_attributes(node)
        for value in node.inputs:
            if value not in numbers:
                raise VerifyError(
                    "V2",
                    f"an operand of type {value.type} is not defined before",
                    _text(node, numbers),
                )
        if node in seen:
            raise VerifyError("V3", "the node stands in the graph twice", _text(node, numbers))
        seen.add(node)
        for index, value in enumerate(node.outputs):
            if value.node is not node or value.index != index or value in numbers:
                raise VerifyError(
                    "V3", f"result {index} is not the node's own", _text(node, numbers)
                )
            numbers[value] = len(numbers)
        if not is_registered(node.op):
            raise VerifyError("V4", f"{node.op.name!r} is not registered", _text(node, numbers))
        _verify_types(node, numbers)
    for position, value in enumerate(graph.outputs):
        if value not in numbers:
            raise VerifyError("V7", f"output {position} of type {value.type} is not defined")
    for position, value in graph.updates.items():
        if not 0 <= position < len(graph.inputs) or value not in numbers:
            raise VerifyError("V8", f"the update of input {position} or its value is not defined")
        if value.type != graph.inputs[position].type:
            raise VerifyError(
                "V8",
                f"input {position} is {graph.inputs[position].type}, its update {value.type}",
            )
    return graph


def _text(node: Node, numbers: dict[Value, int]) -> str:
    return format_node(node, numbers)


def _verify_attributes(node: Node) -> None:
    for name, body in node.bodies.items():
        if body.updates:
            raise VerifyError("V9", f"the {name} of {node.op.name} updates its inputs")
        try:
            verify(body)
        except VerifyError as error:
            raise VerifyError("V9", f"the {name} of {node.op.name} breaks {error}") from error
    for name, value in node.attributes.items():
        try:
            format_attribute(value)
        except TypeError as error:
            raise VerifyError("V5", f"attribute {name} of {node.op.name}: {error}") from error


def _verify_types(node: Node, numbers: dict[Value, int]) -> None:
    recorded = tuple(v.type for v in node.outputs)
    with using_oracle(None):
        try:
            inferred = node.op.infer_types(tuple(v.type for v in node.inputs), node.attributes)
        except Undecidable:
            return
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise VerifyError(
                "V6", f"the shape rule rejects the node: {error}", _text(node, numbers)
            ) from error
    if inferred != recorded:
        raise VerifyError(
            "V6",
            f"the shape rule gives {', '.join(map(str, inferred))}",
            _text(node, numbers),
        )
