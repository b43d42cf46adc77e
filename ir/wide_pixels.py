"""Borders that an array needs in memory, because windows read what they make whole.

A border that ``pad`` puts around an array usually has no memory: its readers ask where an element
lies. Where elements are added to each pixel, windows over the pixels would ask that of every
element by itself, many times; in memory a window's line is a run of aligned elements.
"""

from __future__ import annotations

from flamec.ir.graph import Graph, Value
from flamec.ir.shape import structurally_equal


def wide_pixels(graph: Graph) -> set[Value]:
    """Results of ``pad`` that add to the last dimension, over which no window moves."""
    found = set()
    for node in graph.nodes:
        if node.op.name != "windows":
            continue
        source = node.inputs[0]
        while source.node is not None and source.node.op.name == "slice":
            source = source.node.inputs[0]
        pad, last = source.node, source.type.ndim - 1
        if pad is None or pad.op.name != "pad" or last in node.attributes["axes"]:
            continue
        amounts = (pad.attributes["low"][last], pad.attributes["high"][last])
        if not all(structurally_equal(amount, 0) for amount in amounts):
            found.add(source)
    return found
