"""The user's lines and modules in plans that are kept on disk.

A plan is found by the hash of its graph, in which names and lines do not count: the same program
may come from another file, or from other lines of it. So what is kept are the positions of nodes in
the traced graph, and a plan that is read gets the lines of the graph at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from flamec.ir.actions import Action, Branch, HostCall, Loop
from flamec.ir.graph import Graph, Node
from flamec.ir.plan import ExecutionPlan

_MARK = "\0"  # begins the position of a node in place of a text, and ends it within a longer one
_LINE = re.compile(f" at ({_MARK}\\d+){_MARK}")
_CALL = "\1"  # stands on both sides of the position of a node in place of what it states
_STATED = re.compile(f"{_CALL}(\\d+){_CALL}")


def without_places(plan: ExecutionPlan, graph: Graph) -> ExecutionPlan:
    """The plan to keep, with positions of nodes for lines and modules."""
    lines: dict[str, str] = {}
    modules: dict[str, str] = {}
    calls: dict[str, str] = {}
    last = None
    for position, node in enumerate(_nodes(graph)):
        if node.location is not None and node.location is not last:
            last = node.location
            lines.setdefault(str(node.location), f"{_MARK}{position}")
        if node.op.may_report:
            calls.setdefault(node.stated, f"{_CALL}{position}{_CALL}")
        if node.scope:
            modules.setdefault(node.scope, f"{_MARK}{position}")
    line = re.compile(rf" at ({_one_of(lines)})(?!\d)")
    call = re.compile(rf"\b({_one_of(calls)})(?!\d)")

    def message(text: str) -> str:
        text = call.sub(lambda m: calls[m[1]], text) if calls else text
        return line.sub(lambda m: f" at {lines[m[1]]}{_MARK}", text) if lines else text

    return _changed(plan, lambda text: lines.get(text, text), lambda m: modules.get(m, m), message)


def with_places(plan: ExecutionPlan, graph: Graph) -> ExecutionPlan:
    """The inverse for a graph with the same hash."""
    nodes = list(_nodes(graph))

    def line(text: str) -> str:
        if not text.startswith(_MARK):
            return text
        location = nodes[int(text[1:])].location
        return "" if location is None else str(location)

    def module(text: str) -> str:
        return nodes[int(text[1:])].scope if text.startswith(_MARK) else text

    def message(text: str) -> str:
        text = _STATED.sub(lambda m: nodes[int(m[1])].stated, text)
        return _LINE.sub(lambda m: f" at {found}" if (found := line(m[1])) else "", text)

    return _changed(plan, line, module, message)


def _one_of(texts: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))


def _nodes(graph: Graph) -> Iterator[Node]:
    if not graph.has_bodies:
        yield from graph.nodes
        return
    for node in graph.nodes:
        yield node
        for body in node.bodies.values():
            yield from _nodes(body)


def _changed(
    plan: ExecutionPlan,
    line: Callable[[str], str],
    module: Callable[[str], str],
    message: Callable[[str], str],
) -> ExecutionPlan:
    """The plan with other lines and modules; ``message`` is for texts that have lines in them."""

    def action(old: Action) -> Action:
        if isinstance(old, HostCall):
            return replace(old, location=line(old.location))
        if isinstance(old, Loop):
            test, body = changed(old.test), changed(old.actions)
            return replace(old, location=line(old.location), test=test, actions=body)
        if isinstance(old, Branch):
            first, second = changed(old.first), changed(old.second)
            return replace(old, location=line(old.location), first=first, second=second)
        return old

    def changed(actions: Sequence[Action]) -> tuple[Action, ...]:
        return tuple(map(action, actions))

    steps = tuple(
        replace(
            step,
            locations=tuple(dict.fromkeys(filter(None, map(line, step.locations)))),
            modules=tuple(dict.fromkeys(filter(None, map(module, step.modules)))),
            checks=tuple(dict.fromkeys(map(message, step.checks))),
        )
        for step in plan.steps
    )
    errors = tuple(map(message, plan.errors))
    return replace(plan, steps=steps, actions=changed(plan.actions), errors=errors)
