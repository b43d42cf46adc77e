"""Devices of values: a program runs on one.

``on_one_device`` (before the pipeline, since it changes the types of inputs and outputs):
in, a graph with values on several devices; out, the same program with all values on one of
them, for callers that carry inputs there and outputs back. ``eliminate_transfers`` (a pass)
takes away the transfers that then lead nowhere.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.types import Device


def devices_of(graph: Graph) -> tuple[Device, ...]:
    """The devices of a graph's values, in order of appearance."""
    values = [*graph.inputs, *(v for node in graph.nodes for v in node.outputs)]
    return tuple(dict.fromkeys(v.type.device for v in values))


def on_one_device(graph: Graph, device: Device) -> Graph:
    """``graph`` with every value on ``device``."""
    placed: dict[Value, Value] = {}
    for value in graph.inputs:
        placed[value] = Value(value.type.with_device(device), None, value.index, value.name)
    nodes = []
    for node in graph.nodes:
        attributes = {
            name: device if isinstance(value, Device) else value
            for name, value in node.attributes.items()
        }
        if node.op.kind is OpKind.CREATION:
            attributes["device"] = device
        operands = [placed[v] for v in node.inputs]
        types = tuple(v.type.with_device(device) for v in node.outputs)
        moved = Node(node.op, operands, attributes, node.location, node.scope, types)
        for old, new in zip(node.outputs, moved.outputs, strict=True):
            new.name = old.name
            placed[old] = new
        nodes.append(moved)
    return Graph(
        tuple(placed[v] for v in graph.inputs),
        tuple(nodes),
        tuple(placed[v] for v in graph.outputs),
        {position: placed[v] for position, v in graph.updates.items()},
        graph.name,
    )


def eliminate_transfers(graph: Graph) -> Graph:
    """Transfers to the device where a value is already are the value itself."""
    return rewrite(graph, _same_device)


def _same_device(b: RewriteBuilder, node: Node) -> Value | None:
    if node.op.kind is not OpKind.TRANSFER or node.inputs[0].type != node.output.type:
        return None
    return node.inputs[0]
