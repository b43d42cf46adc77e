"""The text form of a graph: one line a node, read back by ``parser.py``.

::

    graph main {
      input %0 x: float32[B, 10]
      %1: float32[] = full(value=2.0, shape=(), dtype=float32, device=cpu)
      %2: float32[B, 10] = mul(%0, %1)  # model.py:12
      return %2
      update %0 = %2
    }

A graph that a node runs stands before the node, and the attribute names it::

      body 0 step {
        input %0: float32[4]
        return %0
      }
      %3: float32[4] = scan(%1, body=body(0), carries=1, length=T, reverse=False, residuals=0)

Values are numbered in order of definition, in a body anew. Types and attributes are complete,
so the text determines the graph up to source lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from flamec.ir.graph import Graph, Location, Node, Value
from flamec.ir.shape import SymbolicDim, format_dim
from flamec.ir.types import Device, DType

_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.]*")


def number_values(graph: Graph) -> dict[Value, int]:
    """The number under which each value is printed."""
    return {value: number for number, value in enumerate(graph.values())}


def format_attribute(value: Any, bodies: Mapping[Graph, int] | None = None) -> str:
    """Text of an attribute; TypeError for a type that no attribute may have.

    ``bodies``: the numbers under which graphs are printed; without one a graph is ``body(?)``.
    """
    if isinstance(value, tuple):
        inner = ", ".join(format_attribute(v, bodies) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, DType):
        return value.name
    if isinstance(value, Device):
        return value.type if value.type == "cpu" else f"{value.type}({value.index})"
    if isinstance(value, SymbolicDim):
        return format_dim(value)
    if isinstance(value, Graph):
        return f"body({(bodies or {}).get(value, '?')})"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    raise TypeError(f"an attribute cannot be {type(value).__name__}: {value!r}")


def format_location(location: Location, scope: str = "") -> str:
    """``model.py:12 forward | layers.0``: file name, line, function and module path."""
    text = f"{PurePath(location.file).name}:{location.line}"
    if location.function:
        text += f" {location.function}"
    return f"{text} | {scope}" if scope else text


def format_node(
    node: Node,
    numbers: Mapping[Value, int],
    locations: bool = True,
    bodies: Mapping[Graph, int] | None = None,
) -> str:
    """One line; a value without a number prints as ``%?``."""

    def name(value: Value) -> str:
        return f"%{numbers.get(value, '?')}"

    results = ", ".join(f"{name(v)}: {v.type}" for v in node.outputs)
    arguments = [name(v) for v in node.inputs]
    arguments += [f"{k}={format_attribute(v, bodies)}" for k, v in node.attributes.items()]
    text = f"{results} = {node.op.name}({', '.join(arguments)})"
    if locations and node.location is not None:
        text += f"  # {format_location(node.location, node.scope)}"
    return text


def print_graph(graph: Graph, locations: bool = True) -> str:
    """The whole graph as text, without a final newline."""
    return "\n".join(printed_lines(graph, f"graph {quoted(graph.name)} {{", locations))


def body_head(body: Graph, number: int) -> str:
    """The line with which a body begins."""
    return f"body {number} {quoted(body.name)} {{"


def printed_lines(graph: Graph, head: str, locations: bool) -> list[str]:
    """The lines of a graph or body that begins with ``head``."""
    numbers = number_values(graph)
    bodies: dict[Graph, int] = {}
    lines = [head]
    for value in graph.inputs:
        name = f" {quoted(value.name)}" if value.name else ""
        lines.append(f"  input %{numbers[value]}{name}: {value.type}")
    for node in graph.nodes:
        for body in node.bodies.values():
            if body not in bodies:
                bodies[body] = len(bodies)
                head = body_head(body, bodies[body])
                lines += [f"  {line}" for line in printed_lines(body, head, locations)]
        lines.append(f"  {format_node(node, numbers, locations, bodies)}")
    returned = " ".join(["return", ", ".join(f"%{numbers[v]}" for v in graph.outputs)]).rstrip()
    lines.append(f"  {returned}")
    lines.extend(
        f"  update %{numbers[graph.inputs[i]]} = %{numbers[v]}"
        for i, v in sorted(graph.updates.items())
    )
    return [*lines, "}"]


def quoted(name: str) -> str:
    """A name as it stands in the text: as it is where it is plain, else in quotes."""
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)
