"""What a pass changed: the nodes that it took away and those that it put in.

In: a graph before and after. Out: the nodes at which the difference begins, as text. Two nodes are
the same if they apply the same operation to the same values; what only follows from a change
further up is not listed. Where loops and branches differ in their bodies alone, the nodes are those
of the bodies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flamec.ir.graph import Graph, Location, Node, Value, attribute_key
from flamec.ir.printer import format_node, number_values


@dataclass(frozen=True)
class Change:
    """Nodes as text, and the user's lines (with the module's path) that they come from."""

    removed: tuple[str, ...]
    added: tuple[str, ...]
    locations: tuple[tuple[Location, str], ...]


def change(before: Graph, after: Graph) -> Change:
    """See the module's docstring."""
    old, new = _identities(before), _identities(after)
    gone = list(_first(before, old, set(new.values())))
    made = list(_first(after, new, set(old.values())))
    inside = _take_bodies(gone, made, old, new)
    removed, added = _text(before, gone), _text(after, made)
    if not gone and not made and not inside:  # results are other values than before
        pairs = list(zip(before.results, after.results, strict=True))
        pairs = [(v, w) for v, w in pairs if old[v] != new[w]]
        gone = [v.node for v, _ in pairs if v.node is not None]
        made = [w.node for _, w in pairs if w.node is not None]
        removed = _text(before, gone)
        added = tuple(f"return {_name(after, w)}" for _, w in pairs)
    places = [(n.location, n.scope) for n in (*gone, *made) if n.location is not None]
    for name, found in inside:
        removed += tuple(f"in {name}: {line}" for line in found.removed)
        added += tuple(f"in {name}: {line}" for line in found.added)
        places += found.locations
    return Change(removed, added, tuple(dict.fromkeys(places)))


def _take_bodies(
    gone: list[Node], made: list[Node], old: dict[Value, int], new: dict[Value, int]
) -> list[tuple[str, Change]]:
    """Take the nodes out of the lists that differ in their bodies alone: what changed inside."""
    found: list[tuple[str, Change]] = []
    for node in tuple(gone):
        key = _without_bodies(node, old)
        other = next((n for n in made if n.bodies and _without_bodies(n, new) == key), None)
        if other is None or not node.bodies:
            continue
        pairs = zip(node.bodies.values(), other.bodies.values(), strict=True)
        inside = [change(a, b) for a, b in pairs]
        if any(c.removed or c.added for c in inside):
            gone.remove(node)
            made.remove(other)
            found += [(node.op.name, c) for c in inside]
    return found


def _without_bodies(node: Node, identities: dict[Value, int]) -> tuple[Any, ...]:
    attributes = {k: v for k, v in node.attributes.items() if k not in node.bodies}
    own = tuple((k, attribute_key(v)) for k, v in sorted(attributes.items()))
    operands = tuple(identities[v] for v in node.inputs)
    return node.op.name, operands, own, tuple(node.bodies), tuple(str(v.type) for v in node.outputs)


def _identities(graph: Graph) -> dict[Value, int]:
    """A number for each value, the same for the same computation in every graph."""
    found: dict[Value, int] = {v: hash(("input", i)) for i, v in enumerate(graph.inputs)}
    for node in graph.nodes:
        attributes = tuple((k, attribute_key(v)) for k, v in sorted(node.attributes.items()))
        key = (node.op.name, tuple(found[v] for v in node.inputs), attributes)
        for index, value in enumerate(node.outputs):
            found[value] = hash((key, index, str(value.type)))
    return found


def _first(graph: Graph, own: dict[Value, int], others: set[int]) -> Iterator[Node]:
    """Nodes that the other graph has not, all of whose operands it has; and, where a constant
    was put in, the nodes that read it."""
    fresh: set[Value] = set()
    for node in graph.nodes:
        if all(own[v] in others for v in node.outputs):
            continue
        if all(own[v] in others or v in fresh for v in node.inputs):
            yield node
            if not node.inputs:
                fresh.update(node.outputs)


def _name(graph: Graph, value: Value) -> str:
    return f"%{number_values(graph)[value]}"


def _text(graph: Graph, nodes: list[Node]) -> tuple[str, ...]:
    numbers = number_values(graph)
    return tuple(format_node(node, numbers, locations=False) for node in nodes)
