"""Devices of values: a program runs on one.

``on_one_device`` (before the pipeline, since it changes the types of inputs and outputs):
in, a graph with values on several devices; out, the same program with all values on one of
them, for callers that carry inputs there and outputs back. ``eliminate_transfers`` (a pass)
takes away the transfers that then lead nowhere.
"""

from __future__ import annotations

from typing import Any

from flamec.ir.bodies import retyped
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.passes.rewrite import RewriteBuilder, rewrite
from flamec.ir.types import Device


def on_one_device(graph: Graph, device: Device) -> Graph:
    """``graph`` with every value on ``device``."""

    def placed(node: Node) -> dict[str, Any]:
        attributes = {k: device if isinstance(v, Device) else v for k, v in node.attributes.items()}
        return attributes | ({"device": device} if node.op.kind is OpKind.CREATION else {})

    return retyped(graph, lambda type: type.with_device(device), placed)


def eliminate_transfers(graph: Graph) -> Graph:
    """Transfers to the device where a value is already are the value itself."""
    return rewrite(graph, _same_device, applies=lambda op: op.kind is OpKind.TRANSFER)


def _same_device(b: RewriteBuilder, node: Node) -> Value | None:
    return node.inputs[0] if node.inputs[0].type == node.output.type else None
