"""Which values of a forward program a backward program takes from memory.

In: the nodes that come before the backward program, its inputs, the values it requires. Out: the
values to save and the nodes to run again. The choice moves the fewest bytes: it is a minimum
cut (``keep_or_repeat``) between what must be kept and what is required. A value that is saved is
written and read; an input, or what the forward program returns anyway, is only read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Node, Value
from flamec.ir.passes.keep_or_repeat import NEVER, Item, keep_or_repeat
from flamec.ir.passes.run_again import FREE, can_run_again


def choose_saved_values(
    nodes: Sequence[Node],
    inputs: Collection[Value],
    returned: Collection[Value],
    required: Collection[Value],
    expensive: bool,
    folds: bool = False,
) -> tuple[set[Value], set[Node]]:
    """See the module's docstring. ``expensive``, ``folds``: what may run again, too
    (``can_run_again``).

    Of equal choices the one that runs fewest nodes again is taken.
    """
    items = [Item(value, _bytes(value), NEVER) for value in inputs]
    for node in nodes:
        again = 0 if can_run_again(node, expensive, folds) else NEVER
        for value in node.outputs:
            cost = _bytes(value) * (1 if value in returned else 2)
            keep = NEVER if node.op.kind in FREE else cost
            items.append(Item(value, keep, again, node.inputs))
    kept, _ = keep_or_repeat(items, required)
    saved = {value for node in nodes for value in node.outputs if value in kept}
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
    return max(1, value_bytes(value))
