"""Reverse-mode differentiation: walk nodes backwards, apply each op's rule, emit more nodes.

``backpropagate`` is the only reverse-mode engine. It is generic over what a
value is at run time: with a ``GraphBuilder`` it extends a graph, with the
frontend's builder it runs eagerly or extends a trace. Because rules are
written as IR operations, the result can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from flamec.ir.builder import Builder, GraphBuilder, Report
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import DerivativeContext, OpKind
from flamec.ir.passes.rematerialize import Region, Rematerializer


class NotSaved:
    """Stands for a value that an op did not declare as needed by its derivative."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<value not saved for the derivative>"


NOT_SAVED = NotSaved()
_NOTHING: list[Any] = [NOT_SAVED]


def backpropagate(
    nodes: Sequence[Node],
    gradients: dict[Value, Any],
    tracked: Callable[[Value], bool],
    builder: Builder,
    saved: Callable[[Node, Value], Any],
    enter: Callable[[Node, Sequence[Any]], None] | None = None,
    keep: Container[Value] = (),
    finish: Callable[[Value, Any], Any] | None = None,
    check: Callable[[Node, Sequence[Any]], None] | None = None,
    apply_rule: Callable[[Node, DerivativeContext, Sequence[Any]], Sequence[Any]] | None = None,
) -> dict[Value, Any]:
    """Propagate ``gradients`` of results to everything tracked that they depend on.

    ``nodes``: in topological order. ``gradients``: seeds; extended in place and
    returned. ``tracked``: whether a value wants a gradient. ``saved(node, value)``
    gives the run-time value that the node's rule reads. ``enter`` is told the
    node whose rule is about to run, and the gradients of its results. Gradients of
    intermediate values are dropped once used, unless they are in ``keep``. ``finish`` gets each
    gradient once it is complete and gives the one to go on with. ``check`` sees what each
    rule gave. ``apply_rule`` runs the rule of a node in place of ``backpropagate``.
    NotImplementedError of a rule gets the line of its operation.
    """
    unfinished = set(gradients)
    for node in reversed(nodes):
        rule = node.op.derivative
        outputs, inputs = node.outputs, node.inputs
        if rule is None:
            continue
        incoming: list[Any] = []
        reached = False
        for output in outputs:
            gradient = gradients.get(output)
            if gradient is not None:
                reached = True
                if finish is not None:
                    gradient = gradients[output] = finish(output, gradient)
                    unfinished.discard(output)
                if output not in keep:
                    del gradients[output]
            incoming.append(gradient)
        if not reached:
            continue
        needs = tuple([tracked(v) and v.type.dtype.kind == "float" for v in inputs])
        if True not in needs:
            continue
        if enter is not None:
            enter(node, incoming)
        op = node.op
        wanted_inputs = op.saved_inputs(needs)
        wanted_outputs = op.saved_outputs(len(outputs), node.attributes)
        context = DerivativeContext(
            node.attributes,
            _read(node, inputs, wanted_inputs, saved) if wanted_inputs else _NOTHING * len(inputs),
            _read(node, outputs, wanted_outputs, saved)
            if wanted_outputs
            else _NOTHING * len(outputs),
            tuple([v.type for v in inputs]),
            tuple([v.type for v in outputs]),
            needs,
        )
        try:
            if apply_rule is None:
                results = rule(builder, context, *incoming)
            else:
                results = apply_rule(node, context, incoming)
        except NotImplementedError as error:
            if op.kind is not OpKind.CUSTOM:  # whose rule the user wrote
                error.args = (_located(str(error), node),)
            raise
        if len(results) != len(node.inputs):
            raise AssertionError(
                f"the derivative of {op.name} gave {len(results)} gradients for "
                f"{len(node.inputs)} inputs"
            )
        if check is not None:
            check(node, results)
        for value, need, gradient in zip(node.inputs, needs, results, strict=True):
            if not need or gradient is None:
                continue
            earlier = gradients.get(value)
            gradients[value] = gradient if earlier is None else builder.add(earlier, gradient)
            unfinished.add(value)
    if finish is not None:
        for value in [v for v in gradients if v in unfinished]:
            gradients[value] = finish(value, gradients[value])
    return gradients


def _read(
    node: Node,
    values: Sequence[Value],
    wanted: Sequence[int],
    saved: Callable[[Node, Value], Any],
) -> list[Any]:
    """What a rule gets for ``values``; one that it reads twice is fetched once."""
    found: list[Any] = [NOT_SAVED] * len(values)
    known: dict[Value, Any] = {}
    for i in wanted:
        value = values[i]
        if value not in known:
            known[value] = saved(node, value)
        found[i] = known[value]
    return found


def _located(text: str, node: Node) -> str:
    """An error's text with the line of the operation; the innermost one, if it has one already."""
    return text if node.location is None or "(at " in text else f"{text} (at {node.location})"


def reachable_nodes(
    roots: Iterable[Value], stop: Callable[[Value], bool] | None = None
) -> list[Node]:
    """Nodes that ``roots`` depend on, in topological order, not going past ``stop`` values."""
    order: list[Node] = []
    visited: set[Node] = set()
    stack: list[tuple[Node, bool]] = [
        (v.node, False) for v in roots if v.node is not None and not (stop and stop(v))
    ]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
            continue
        if node in visited:
            continue
        visited.add(node)
        stack.append((node, True))
        for value in node.inputs:
            before = value.node
            if before is not None and before not in visited and not (stop and stop(value)):
                stack.append((before, False))
    return order


def dependents(graph: Graph, sources: Iterable[Value]) -> set[Value]:
    """``sources`` and every floating-point value computed from them by differentiable ops."""
    found = set(sources)
    for node in graph.nodes:
        if node.op.derivative is not None and any(v in found for v in node.inputs):
            found.update(v for v in node.outputs if v.type.dtype.is_floating_point)
    return found


def depending_on(
    targets: Sequence[Value], nodes: Sequence[Node], tracked: Callable[[Value], bool]
) -> Callable[[Value], bool]:
    """Whether a value is tracked and depends on one of ``targets``."""
    found = set(targets)
    for node in nodes:
        if not found.isdisjoint(node.inputs):
            found.update(v for v in node.outputs if tracked(v))
    return {value for value in found if tracked(value)}.__contains__


def differentiate_graph(
    graph: Graph,
    wrt: Sequence[int],
    outputs: Sequence[int] | None = None,
    recorded: Container[Value] | None = None,
    finish: Callable[[Builder, Value, Any], Any] | None = None,
    regions: Sequence[Region] = (),
    states: dict[Any, Value] | None = None,
    reports: list[Report] | None = None,
) -> Graph:
    """The graph that computes ``graph``'s outputs and, after them, gradients.

    The result takes the inputs of ``graph`` followed by one gradient for each
    position in ``outputs`` (default: every floating-point output) and returns the
    outputs of ``graph`` followed by the gradients of the inputs at ``wrt``
    (vector-Jacobian product). Gradients flow through values in ``recorded`` only
    (default: all), which leaves out what was computed without recording. ``finish(builder,
    value, gradient)`` gives what to use for a complete gradient. Values in ``regions`` are
    computed again. ``states`` gets the memory that derivatives read and write, by key: as many
    further inputs, and further outputs, which are its new values. ``reports`` gets what is to be
    told of gradients, whose values are the last outputs. Raises ValueError for an input that is
    not floating point.
    """
    for position in wrt:
        if not graph.inputs[position].type.dtype.is_floating_point:
            raise ValueError(
                f"cannot differentiate with respect to input {position} of type "
                f"{graph.inputs[position].type}: it is not floating point"
            )
    if outputs is None:
        outputs = [i for i, v in enumerate(graph.outputs) if v.type.dtype.is_floating_point]
    builder = GraphBuilder()
    builder.states, builder.reports = states, reports
    builder.graph_inputs.extend(graph.inputs)
    builder.nodes.extend(graph.nodes)
    sources = {graph.inputs[i] for i in wrt}
    tracked = dependents(graph, sources)
    if recorded is not None:
        tracked = sources | {v for v in tracked if v in recorded}
    seeds: dict[Value, Any] = {}
    for position in outputs:
        value = graph.outputs[position]
        seed = builder.input(value.type, f"grad_{value.name or position}")
        if value in tracked:
            seeds[value] = seed if value not in seeds else builder.add(seeds[value], seed)

    again = Rematerializer(regions, builder, lambda value: value)

    def enter(node: Node, incoming: Sequence[Any]) -> None:
        builder.location, builder.scope = node.location, node.scope
        again.enter(node, incoming)

    gradients = backpropagate(
        graph.nodes,
        seeds,
        tracked.__contains__,
        builder,
        again.value,
        enter,
        sources,
        None if finish is None else partial(finish, builder),
    )
    results = []
    for position in wrt:
        source = graph.inputs[position]
        gradient = gradients.get(source)
        results.append(builder.full_like(0.0, source.type) if gradient is None else gradient)
    late = [*(states or {}).values()]
    late += [v for _, values in reports or () for v in values if v is not None]
    return builder.build((*graph.outputs, *results, *late), _updates(graph), graph.name)


def _updates(graph: Graph) -> Mapping[int, Value]:
    return dict(graph.updates)
