"""A graph as lines for a person and as data for a program.

The lines are those of ``ir/printer.py`` with the user's source line above the nodes that it
gave rise to; ``hidden`` ranges of nodes are replaced by one comment.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flamec.cli.source_lines import describe_location, source_text
from flamec.ir.graph import Graph, Location, Node, Value, attribute_key
from flamec.ir.printer import (
    body_head,
    format_attribute,
    format_node,
    number_values,
    printed_lines,
    quoted,
)
from flamec.ir.shape import format_dim
from flamec.ir.types import TensorType

HiddenRange = tuple[int, int, str]


def graph_lines(
    graph: Graph,
    hidden: Sequence[HiddenRange] = (),
    numbers: Mapping[Value, int] | None = None,
) -> list[str]:
    """The graph as text. ``hidden``: (start, stop, comment) of nodes left out."""
    numbers = number_values(graph) if numbers is None else numbers
    lines = [f"graph {quoted(graph.name)} {{"]
    for value in graph.inputs:
        name = f" {quoted(value.name)}" if value.name else ""
        lines.append(f"  input %{numbers[value]}{name}: {value.type}")
    shown: tuple[Location | None, str] | None = None
    bodies: dict[Graph, int] = {}
    for entry in _visible(graph, hidden):
        if isinstance(entry, str):
            lines += ["", f"  # {entry}"]
            shown = None
            continue
        here = (entry.location, entry.scope)
        if here != shown and entry.location is not None:
            lines += ["", f"  # {describe_location(entry.location, entry.scope)}"]
        shown = here
        for body in entry.bodies.values():
            if body not in bodies:
                bodies[body] = len(bodies)
                head = body_head(body, bodies[body])
                lines += [f"  {line}" for line in printed_lines(body, head, locations=False)]
        lines.append(f"  {format_node(entry, numbers, False, bodies)}")
    lines.append("")
    lines.append(f"  return {', '.join(f'%{numbers[v]}' for v in graph.outputs)}".rstrip())
    lines += [
        f"  update %{numbers[graph.inputs[i]]} = %{numbers[v]}"
        for i, v in sorted(graph.updates.items())
    ]
    return [*lines, "}"]


def _visible(graph: Graph, hidden: Sequence[HiddenRange]) -> Iterator[Node | str]:
    starts = {start: (stop, comment) for start, stop, comment in hidden}
    position = 0
    while position < len(graph.nodes):
        if position in starts:
            stop, comment = starts.pop(position)
            yield comment
            position = stop
        else:
            yield graph.nodes[position]
            position += 1
    yield from (comment for _, comment in starts.values())


def graph_data(graph: Graph, hidden: Sequence[HiddenRange] = ()) -> dict[str, Any]:
    """The graph as JSON: values by number, nodes in order, with the user's lines."""
    numbers = number_values(graph)
    left_out = {i for start, stop, _ in hidden for i in range(start, stop)}
    return {
        "name": graph.name,
        "inputs": [
            {"value": numbers[v], "name": v.name, **type_data(v.type)} for v in graph.inputs
        ],
        "nodes": [
            _node_data(node, numbers) for i, node in enumerate(graph.nodes) if i not in left_out
        ],
        "outputs": [numbers[v] for v in graph.outputs],
        "updates": {str(i): numbers[v] for i, v in sorted(graph.updates.items())},
        "left_out": [{"nodes": stop - start, "comment": text} for start, stop, text in hidden],
    }


def _node_data(node: Node, numbers: Mapping[Value, int]) -> dict[str, Any]:
    data: dict[str, Any] = {
        "op": node.op.name,
        "inputs": [numbers[v] for v in node.inputs],
        "outputs": [{"value": numbers[v], **type_data(v.type)} for v in node.outputs],
        "attributes": {
            k: graph_data(v) if isinstance(v, Graph) else format_attribute(v)
            for k, v in node.attributes.items()
        },
    }
    if node.location is not None:
        data["location"] = {
            "file": node.location.file,
            "line": node.location.line,
            "function": node.location.function,
            "source": source_text(node.location),
        }
    if node.scope:
        data["scope"] = node.scope
    return data


def type_data(type: TensorType) -> dict[str, Any]:
    """dtype and shape; a symbolic dimension is a text."""
    shape = [d if isinstance(d, int) else format_dim(d) for d in type.shape]
    return {"dtype": type.dtype.name, "shape": shape}


def numbers_like(before: Graph, after: Graph) -> dict[Value, int]:
    """Numbers for ``after`` under which what ``before`` computes too has the number it has there.

    So that a textual difference of the two shows what changed and not how it was counted.
    """
    numbers = number_values(before)
    known: dict[Any, int] = {}
    _structural_keys(before, lambda value, key: known.setdefault(key, numbers[value]))
    fresh = len(numbers)
    result: dict[Value, int] = {}

    def assign(value: Value, key: Any) -> None:
        nonlocal fresh
        if key not in known:
            known[key] = fresh
            fresh += 1
        result[value] = known[key]

    _structural_keys(after, assign)
    return result


def _structural_keys(graph: Graph, visit: Any) -> None:
    """Call ``visit(value, key)`` in order; equal keys mean that the same is computed."""
    keys: dict[Value, int] = {}
    for position, value in enumerate(graph.inputs):
        keys[value] = hash(("input", position))
        visit(value, keys[value])
    for node in graph.nodes:
        attributes = tuple((k, attribute_key(v)) for k, v in sorted(node.attributes.items()))
        types = tuple(str(v.type) for v in node.outputs)
        base = (node.op.name, tuple(keys[v] for v in node.inputs), attributes, types)
        for value in node.outputs:
            keys[value] = hash((base, value.index))
            visit(value, keys[value])
