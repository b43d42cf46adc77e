"""Which values of a forward program a backward program takes from memory.

In: the nodes that come before the backward program, its inputs, the values it requires. Out: the
values to save and the nodes to run again. The choice moves the fewest bytes: it is a minimum
cut (Ford and Fulkerson, "Maximal flow through a network", 1956) between what must be kept and what
is required. A value that is saved is written and read; an input, or what the forward program
returns anyway, is only read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import networkx

from flamec.ir.graph import Node, Value
from flamec.ir.loop_nest import estimate
from flamec.ir.passes.run_again import FREE, can_run_again
from flamec.ir.plan import dense_elements

_NEVER = float("inf")


def choose_saved_values(
    nodes: Sequence[Node],
    inputs: Collection[Value],
    returned: Collection[Value],
    required: Collection[Value],
    expensive: bool,
) -> tuple[set[Value], set[Node]]:
    """See the module's docstring. ``expensive``: functions such as exp may run again, too.

    Of equal choices the one that runs fewest nodes again is taken.
    """
    network = networkx.DiGraph()  # from what is required back to what must be kept
    for value in required:
        network.add_edge("required", (value, "out"), capacity=_NEVER)
    for value in inputs:
        network.add_edge((value, "out"), (value, "in"), capacity=_bytes(value))
        network.add_edge((value, "in"), "kept", capacity=_NEVER)
    for node in nodes:
        again = can_run_again(node, expensive)
        for value in node.outputs:
            cost = _bytes(value) * (1 if value in returned else 2)
            capacity = _NEVER if node.op.kind in FREE else cost
            network.add_edge((value, "out"), (value, "in"), capacity=capacity)
            if not again:
                network.add_edge((value, "in"), "kept", capacity=_NEVER)
                continue
            for operand in node.inputs:
                network.add_edge((value, "in"), (operand, "out"), capacity=_NEVER)
    if "required" not in network or "kept" not in network:
        return set(), _needed(nodes, required, set())
    _, (above, _) = networkx.minimum_cut(network, "required", "kept")
    saved = {
        value
        for node in nodes
        for value in node.outputs
        if (value, "out") in above and (value, "in") not in above
    }
    return saved, _needed(nodes, required, saved)


def _needed(
    nodes: Sequence[Node], required: Collection[Value], saved: Collection[Value]
) -> set[Node]:
    """The nodes between the saved values and the required ones."""
    wanted = set(required) - set(saved)
    again: set[Node] = set()
    for node in reversed(nodes):
        if any(value in wanted for value in node.outputs):
            again.add(node)
            wanted.update(value for value in node.inputs if value not in saved)
    return again


def _bytes(value: Value) -> int:
    return max(1, estimate(dense_elements(value.type)) * value.type.dtype.itemsize)
