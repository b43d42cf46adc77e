"""Cut a differentiated graph into a forward and a backward program.

The forward program returns, after its own outputs, the values that the backward
program reads ("saved"). Values that cost nothing to have again (views,
constants, cheap arithmetic on values at hand) are computed again instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind


@dataclass(frozen=True, eq=False)
class Partition:
    """``backward`` takes the saved values, the inputs at ``saved_inputs``, then the gradients."""

    forward: Graph
    backward: Graph
    saved_inputs: tuple[int, ...]
    saved_count: int


def partition(joint: Graph, input_count: int, output_count: int) -> Partition:
    """Cut ``joint`` (see ``differentiate_graph``) behind its first ``output_count`` outputs.

    Its first ``input_count`` inputs belong to the forward program, the others are
    gradients of the outputs.
    """
    seeds = set(joint.inputs[input_count:])
    late = set(seeds)
    backward_nodes: list[Node] = []
    for node in joint.nodes:
        if any(v in late for v in node.inputs):
            late.update(node.outputs)
            backward_nodes.append(node)
    gradients = joint.outputs[output_count:]
    required = {v for n in backward_nodes for v in n.inputs if v not in late}
    required.update(v for v in gradients if v not in late)
    saved, again = _choose(joint, required)

    inputs = [v for v in joint.inputs[:input_count] if v in required]
    positions = tuple(i for i, v in enumerate(joint.inputs[:input_count]) if v in required)
    saved_values = [v for n in joint.nodes for v in n.outputs if v in saved]
    forward = Graph(
        joint.inputs[:input_count],
        tuple(n for n in joint.nodes if not any(v in late for v in n.outputs)),
        (*joint.outputs[:output_count], *saved_values),
        dict(joint.updates),
        joint.name,
    )
    return Partition(
        _without_dead_nodes(forward),
        _rebuild(
            joint,
            saved_values,
            inputs,
            joint.inputs[input_count:],
            again,
            backward_nodes,
            gradients,
        ),
        positions,
        len(saved_values),
    )


def _choose(joint: Graph, required: set[Value]) -> tuple[set[Value], set[Node]]:
    """Which required values are saved, and which nodes run again; extends ``required``."""
    saved: set[Value] = set()
    again: set[Node] = set()
    for node in reversed(joint.nodes):
        wanted = [v for v in node.outputs if v in required]
        if not wanted:
            continue
        if _is_free(node) or (
            _is_cheap(node) and all(v.node is None or v in required for v in node.inputs)
        ):
            again.add(node)
            required.update(node.inputs)
        else:
            saved.update(wanted)
    return saved, again


def _is_free(node: Node) -> bool:
    return node.op.kind in (OpKind.VIEW, OpKind.CREATION, OpKind.BARRIER)


def _is_cheap(node: Node) -> bool:
    return node.op.kind is OpKind.ELEMENTWISE and not node.op.expensive


def _rebuild(
    joint: Graph,
    saved: list[Value],
    inputs: list[Value],
    seeds: tuple[Value, ...],
    again: set[Node],
    backward_nodes: list[Node],
    gradients: tuple[Value, ...],
) -> Graph:
    builder = GraphBuilder()
    mapped: dict[Value, Value] = {}
    for value in (*saved, *inputs, *seeds):
        mapped[value] = builder.input(value.type, value.name)
    late = set(backward_nodes)
    for node in joint.nodes:
        if node in again or node in late:
            builder.location, builder.scope = node.location, node.scope
            copy = builder.add_node(node.op, [mapped[v] for v in node.inputs], node.attributes)
            mapped.update(zip(node.outputs, copy.outputs, strict=True))
    return builder.build([mapped[v] for v in gradients], None, f"{joint.name}_backward")


def _without_dead_nodes(graph: Graph) -> Graph:
    live = set(graph.results)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            kept.append(node)
            live.update(node.inputs)
    return Graph(graph.inputs, tuple(reversed(kept)), graph.outputs, graph.updates, graph.name)
