"""Cut a differentiated graph into a forward and a backward program.

The forward program returns, after its own outputs, the values that the backward
program reads ("saved"), chosen so that the fewest bytes are moved
(``choose_saved_values``); what follows elementwise from them is computed again, and with a
memory budget what is folded from them, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.passes.choose_saved_values import choose_saved_values


@dataclass(frozen=True, eq=False)
class Partition:
    """``backward`` takes the saved values, the inputs at ``saved_inputs``, then the gradients.

    The first saved values are what the inputs at ``saved_contents`` held before the program.
    """

    forward: Graph
    backward: Graph
    saved_inputs: tuple[int, ...]
    saved_count: int
    saved_contents: tuple[int, ...]


def partition(
    joint: Graph,
    input_count: int,
    output_count: int,
    expensive: bool = False,
    memory_budget: float = 1.0,
    changing: Collection[int] = (),
    kept: Collection[int] = (),
) -> Partition:
    """Cut ``joint`` (see ``differentiate_graph``) behind its first ``output_count`` outputs.

    Its first ``input_count`` inputs belong to the forward program, the others are
    gradients of the outputs. ``expensive``: functions such as exp are computed again, too,
    where that moves fewer bytes. ``changing``: inputs that may have changed when gradients are
    wanted. With a ``memory_budget`` below 1 so are folds of rows, and what is
    computed again stands just before its use. ``kept``: inputs that are written to, whose contents
    are saved in any case.
    """
    spare = memory_budget < 1
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
    early = [n for n in joint.nodes if not any(v in late for v in n.outputs)]
    given = joint.inputs[:input_count]
    returned = joint.outputs[:output_count]
    saved, again = choose_saved_values(
        early, given, returned, required, expensive or spare, folds=spare
    )
    required.update(v for n in again for v in n.inputs)

    # the contents of an input that the forward program writes to are saved like any value
    changed = {*joint.updates, *changing}
    inputs = [v for i, v in enumerate(given) if v in required and i not in changed]
    positions = tuple(i for i, v in enumerate(given) if v in required and i not in changed)
    overwritten = [i for i, v in enumerate(given) if i in kept or (v in required and i in changed)]
    contents = [given[i] for i in overwritten]
    saved_values = [*contents, *(v for n in joint.nodes for v in n.outputs if v in saved)]
    forward = Graph(
        given,
        tuple(early),
        (*returned, *saved_values),
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
            late=spare,
        ),
        positions,
        len(saved_values),
        tuple(overwritten),
    )


def _rebuild(
    joint: Graph,
    saved: list[Value],
    inputs: list[Value],
    seeds: tuple[Value, ...],
    again: set[Node],
    backward_nodes: list[Node],
    gradients: tuple[Value, ...],
    late: bool,
) -> Graph:
    builder = GraphBuilder()
    mapped: dict[Value, Value] = {}
    for value in (*saved, *inputs, *seeds):
        mapped[value] = builder.input(value.type, value.name)
    own = set(backward_nodes)
    nodes = [node for node in joint.nodes if node in again or node in own]
    for node in _before_use(nodes, again) if late else nodes:
        copy = builder.add_copy(node, [mapped[v] for v in node.inputs])
        mapped.update(zip(node.outputs, copy.outputs, strict=True))
    return builder.build([mapped[v] for v in gradients], None, f"{joint.name}_backward")


def _before_use(nodes: Sequence[Node], again: Collection[Node]) -> list[Node]:
    """The nodes with those that run again as late as they can."""
    order: dict[Node, None] = {}
    for node in nodes:
        if node in again:
            continue
        pending = [node]
        while pending:
            makers = [v.node for v in pending[-1].inputs if v.node in again and v.node not in order]
            if makers:
                pending.extend(m for m in makers if m is not None)
            else:
                order.setdefault(pending.pop())
    for node in nodes:  # what only gradients themselves are
        order.setdefault(node)
    return list(order)


def _without_dead_nodes(graph: Graph) -> Graph:
    live = set(graph.results)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(v in live for v in node.outputs):
            kept.append(node)
            live.update(node.inputs)
    return Graph(graph.inputs, tuple(reversed(kept)), graph.outputs, graph.updates, graph.name)
