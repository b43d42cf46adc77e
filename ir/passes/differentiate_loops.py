"""The derivative of ``scan`` is a scan in the other direction.

In: a body, and which operands want gradients. Out: a body that takes the gradients of the new
carried values and gives those of the old ones. What it needs of the forward steps is stacked by
them (residuals) or follows from what is; where that is not so, the forward scan is run again.
Gradients of constants are sums over
the steps: where they are sums of products, the factors are stacked and one product after the scan
contracts the steps, too; else they are carried. What it emits is a scan, which has
a derivative again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flamec.ir.batching import BatchBuilder, Operand
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Attributes, DerivativeContext, OpKind, lookup
from flamec.ir.passes.differentiate import backpropagate, dependents
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.run_again import FREE, can_run_again
from flamec.ir.shape import Dim, product, structurally_equal


class _Missing(Exception):
    """The backward body reads a carried value of which no step is known."""


@dataclass(eq=False)
class _Pullback:
    """The gradients of one step, as nodes behind those of the body.

    ``late``: the nodes that compute them; ``state``: carried values that have a gradient, each with
    its seed; ``seeds``: those of stacked results by position; ``found``: the gradients of the
    body's inputs.
    """

    body: Graph
    carries: int
    sequences: int
    late: list[Node]
    state: dict[int, Value]
    seeds: dict[int, Value]
    found: dict[Value, Value]

    @property
    def split(self) -> int:
        return self.carries + self.sequences

    def state_results(self) -> list[Value]:
        return [self.found[self.body.inputs[i]] for i in self.state]

    def required(self) -> list[Value]:
        """The values of the forward step that the gradients are computed from, each once."""
        own = {*self.state.values(), *self.seeds.values()}
        own.update(v for node in self.late for v in node.outputs)
        read = [v for node in self.late for v in node.inputs]
        return list(dict.fromkeys(v for v in (*read, *self.found.values()) if v not in own))


def _pullback(
    attributes: Attributes, needs: Sequence[bool], given: Sequence[bool]
) -> _Pullback | None:
    """Differentiate one step; ``given``: which results have a gradient. None if nothing flows."""
    body, carries = attributes["body"], attributes["carries"]
    active = {v for v, need in zip(body.inputs, needs, strict=True) if need}
    while True:
        tracked = dependents(body, active)
        more = {body.inputs[i] for i in range(carries) if body.outputs[i] in tracked}
        if more <= active:
            break
        active |= {v for v in more if v.type.dtype.is_floating_point}
    state = {i for i in range(carries) if given[i] and body.inputs[i] in active}
    while True:
        made = _differentiated(attributes, state, given, tracked, active)
        more_state = {i for i in range(carries) if body.inputs[i] in made.found}
        if more_state <= state:
            break
        state |= more_state
    if not made.found and not state:
        return None
    return made


def _differentiated(
    attributes: Attributes,
    state: Iterable[int],
    given: Sequence[bool],
    tracked: set[Value],
    active: set[Value],
) -> _Pullback:
    body, carries, sequences = (attributes[k] for k in ("body", "carries", "sequences"))
    builder = GraphBuilder()
    builder.nodes.extend(body.nodes)
    gradients: dict[Value, Any] = {}
    seeds: dict[int, Value] = {}
    stacked = (i for i in range(carries, len(body.outputs)) if given[i])
    for position in (*sorted(state), *stacked):
        value = body.outputs[position]
        seed = seeds[position] = builder.input(value.type, "gradient")
        if value in tracked:
            gradients[value] = builder.add(gradients[value], seed) if value in gradients else seed

    def enter(node: Node, incoming: Sequence[Any]) -> None:
        builder.location, builder.scope = node.location, node.scope

    found = backpropagate(
        body.nodes, gradients, tracked.__contains__, builder, lambda _, v: v, enter, active
    )
    results = {v: found[v] for v in body.inputs if v in found and v in active}
    carried = {i: seeds.pop(i) for i in sorted(state)}
    for i in carried:
        if body.inputs[i] not in results:
            results[body.inputs[i]] = builder.full_like(0.0, body.inputs[i].type)
    late = builder.nodes[len(body.nodes) :]
    return _Pullback(body, carries, sequences, late, carried, seeds, results)


# residuals ---------------------------------------------------------------------------------


def with_residuals(attributes: Attributes, needs: Sequence[bool]) -> dict[str, Any]:
    """A scan's attributes such that its results include what its derivative reads.

    ``needs``: which operands will want a gradient.
    """
    body: Graph = attributes["body"]
    given = [v.type.dtype.is_floating_point for v in body.outputs]
    pullback = _pullback(attributes, needs, given)
    residuals = [] if pullback is None else _residuals(pullback)
    return _stacking(attributes, body.outputs, residuals)


def _stacking(
    attributes: Attributes, outputs: Sequence[Value], residuals: Sequence[Value]
) -> dict[str, Any]:
    body = attributes["body"]
    kept = Graph(body.inputs, body.nodes, (*outputs, *residuals), {}, body.name)
    return {**attributes, "body": kept, "residuals": len(residuals)}


def _residuals(pullback: _Pullback) -> list[Value]:
    """What the forward steps stack so that the backward body can be computed from it.

    That is what the backward body reads, without what follows from the rest of it, elements of
    sequences and constants by operations that may run again.
    """
    body = pullback.body
    varying = _varying(body.nodes, body.inputs[: pullback.split])
    on_gpu = any(v.type.device.type != "cpu" for v in body.inputs)
    wanted = set(pullback.required())
    given = set(body.inputs[pullback.carries :])
    for node in body.nodes:
        if not any(v in varying for v in node.outputs):
            given.update(node.outputs)  # follows from constants alone
    again: set[Value] = set()
    for node in reversed(body.nodes):
        if wanted.isdisjoint(node.outputs) or any(v in given for v in node.outputs):
            continue
        free = node.op.kind in FREE
        kept = all(v in wanted or v in given for v in node.inputs)
        if can_run_again(node, on_gpu) and (free or kept):
            again.update(node.outputs)
            wanted.update(v for v in node.inputs if v not in given)
    state = [v for v in body.inputs[: pullback.carries] if v in wanted]
    made = (v for n in body.nodes for v in n.outputs)
    return [*state, *(v for v in made if v in wanted and v not in again and v not in given)]


def _varying(nodes: Iterable[Node], first: Iterable[Value]) -> set[Value]:
    """``first`` and what is computed from it."""
    found = set(first)
    for node in nodes:
        if any(v in found for v in node.inputs):
            found.update(node.outputs)
    return found


# sums over the steps -------------------------------------------------------------------------


@dataclass(eq=False)
class _Product:
    """A term of a constant's gradient: views and casts of a contraction of two factors."""

    node: Node
    chain: list[Node]


@dataclass(eq=False)
class _Total:
    """A term that is a sum over axes of a value that is stacked."""

    node: Node
    chain: list[Node]


@dataclass(eq=False)
class _Sums:
    """How the gradients of constants become sums over the steps.

    ``terms``: for each constant those that are computed after the scan; ``carried``: those that
    are added up from step to step.
    """

    terms: dict[Value, list[_Product | _Total]] = field(default_factory=dict)
    carried: dict[Value, list[Value]] = field(default_factory=dict)


def _sums(pullback: _Pullback, stacks: _Stacks) -> _Sums:
    seeds = (*pullback.state.values(), *pullback.seeds.values())
    first = (*pullback.body.inputs[: pullback.split], *seeds)
    varying = _varying((*pullback.body.nodes, *pullback.late), first)
    late = set(pullback.late)
    sums = _Sums()
    rest: list[tuple[Value, Value, _Total]] = []
    for constant in pullback.body.inputs[pullback.split :]:
        if constant not in pullback.found:
            continue
        for term in _added(pullback.found[constant], late):
            base, chain = _unwrapped(term, late)
            node = base.node
            if node is None or node not in late:
                sums.carried.setdefault(constant, []).append(term)
            elif node.op.kind is OpKind.CONTRACTION and all(v in varying for v in node.inputs):
                for factor in node.inputs:
                    stacks.add(factor)
                sums.terms.setdefault(constant, []).append(_Product(node, chain))
            elif node.op.name == "sum":
                rest.append((constant, term, _Total(node, chain)))
            else:
                sums.carried.setdefault(constant, []).append(term)
    for constant, term, total in rest:
        if stacks.has(total.node.inputs[0]):
            sums.terms.setdefault(constant, []).append(total)
        else:
            sums.carried.setdefault(constant, []).append(term)
    return sums


def _added(value: Value, late: set[Node]) -> list[Value]:
    """The terms of a sum."""
    node = value.node
    if node is None or node not in late or node.op.name != "add":
        return [value]
    if any(v.type != value.type for v in node.inputs):
        return [value]
    return [term for v in node.inputs for term in _added(v, late)]


def _unwrapped(value: Value, late: set[Node]) -> tuple[Value, list[Node]]:
    """What a value is a view or another float type of, and the nodes between, outermost last."""
    chain: list[Node] = []
    while value.node is not None and value.node in late:
        node = value.node
        source = node.inputs[0] if node.inputs else value
        casts = node.op.name == "convert" and source.type.dtype.is_floating_point
        if not (casts or (node.op.kind is OpKind.VIEW and _keeps_all(source, value))):
            break
        chain.append(node)
        value = source
    return value, chain[::-1]


def _keeps_all(source: Value, view: Value) -> bool:
    """Whether a view has every element of its source."""
    before, after = product(source.type.shape), product(view.type.shape)
    if isinstance(before, int) and isinstance(after, int):
        return before <= after
    return structurally_equal(before, after)


class _Stacks:
    """Values of the backward step that are needed of all steps at once.

    ``known``: those that exist before the scan; ``results``: those that the scan stacks.
    """

    def __init__(self, known: Iterable[Value]) -> None:
        self.known = set(known)
        self.results: list[Value] = []

    def source(self, value: Value) -> tuple[Value, list[Node]]:
        """What is stacked in place of a view, and the views from there."""
        views: list[Node] = []
        while value not in self.known and value not in self.results:
            node = value.node
            if node is None or node.op.kind is not OpKind.VIEW:
                break
            if not _keeps_all(node.inputs[0], value):
                break
            views.append(node)
            value = node.inputs[0]
        return value, views[::-1]

    def has(self, value: Value) -> bool:
        source, _ = self.source(value)
        return source in self.known or source in self.results

    def add(self, value: Value) -> None:
        if not self.has(value):
            self.results.append(self.source(value)[0])


# the backward scan -----------------------------------------------------------------------------


def scan_derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> list[Any]:
    """The derivative rule of ``scan``; see the module's docstring."""
    attributes = ctx.attributes
    pullback = _pullback(attributes, ctx.needs, [g is not None for g in gradients])
    if pullback is None:
        return [None] * len(ctx.inputs)
    body, count = pullback.body, attributes["residuals"]
    residuals = list(body.outputs[len(body.outputs) - count :])
    stacks = list(ctx.outputs[len(ctx.outputs) - count :])
    try:
        return _run(b, ctx, pullback, dict(zip(residuals, stacks, strict=True)), gradients)
    except _Missing:
        pass
    residuals = _residuals(pullback)
    again = _stacking(attributes, body.outputs[: pullback.carries], residuals)
    made = b.apply(lookup("scan"), list(ctx.inputs), again)
    results = made if isinstance(made, tuple) else (made,)
    stacks = list(results[len(results) - len(residuals) :])
    return _run(b, ctx, pullback, dict(zip(residuals, stacks, strict=True)), gradients)


def _run(
    b: Builder,
    ctx: DerivativeContext,
    pullback: _Pullback,
    residuals: Mapping[Value, Any],
    gradients: Sequence[Any],
) -> list[Any]:
    """Emit the backward scan. _Missing if the residuals do not suffice."""
    body, attributes = pullback.body, ctx.attributes
    length: Dim = attributes["length"]
    outer: dict[Value, Any] = dict(residuals)
    outer.update(zip(body.inputs[pullback.carries :], ctx.inputs[pullback.carries :], strict=True))
    outer.update((seed, gradients[i]) for i, seed in pullback.seeds.items())
    constants = set(body.inputs[pullback.split :])
    stacks = _Stacks(v for v in outer if v not in constants)
    wanted = [v for v in body.inputs[pullback.carries : pullback.split] if v in pullback.found]
    for value in wanted:
        if pullback.found[value] not in (*stacks.known, *stacks.results):
            stacks.results.append(pullback.found[value])
    sums = _sums(pullback, stacks)

    # the body: gradients of carried values and sums, then what is stacked, then constants
    read = _read(pullback, sums, residuals)
    inner = GraphBuilder()
    known: dict[Value, Value] = {}
    for seed in pullback.state.values():
        known[seed] = inner.input(seed.type, "gradient")
    totals = [inner.input(constant.type, "sum") for constant in sums.carried]
    sequences = [v for v in read.given if v not in constants]
    for value in (*sequences, *(v for v in read.given if v in constants)):
        known[value] = inner.input(value.type, value.name)
    for node in (*read.again, *pullback.late):
        inner.location, inner.scope = node.location, node.scope
        copy = inner.add_node(node.op, [known[v] for v in node.inputs], node.attributes)
        known.update(zip(node.outputs, copy.outputs, strict=True))
    outputs = [known[v] for v in pullback.state_results()]
    for total, terms in zip(totals, sums.carried.values(), strict=True):
        for term in terms:
            total = inner.add(total, known[term])
        outputs.append(total)
    carries = len(outputs)
    outputs += [known[v] for v in stacks.results]
    backward = eliminate_dead_code(inner.build(outputs, name=f"{body.name}_backward"))

    # the scan around it
    operands = []
    for i, seed in pullback.state.items():
        gradient = gradients[i]
        operands.append(b.full_like(0.0, seed.type) if gradient is None else gradient)
    operands += [b.full_like(0.0, constant.type) for constant in sums.carried]
    operands += [outer[v] for v in read.given if v not in constants]
    operands += [outer[v] for v in read.given if v in constants]
    changed = {
        **attributes,
        "body": backward,
        "carries": carries,
        "sequences": len(sequences),
        "reverse": not attributes["reverse"],
        "residuals": 0,
    }
    made = b.apply(lookup("scan"), operands, changed)
    results = made if isinstance(made, tuple) else (made,)

    # what becomes of its results
    outer.update(zip(stacks.results, results[carries:], strict=True))
    found: dict[Value, Any] = {
        body.inputs[i]: result for i, result in zip(pullback.state, results, strict=False)
    }
    found.update((v, outer[pullback.found[v]]) for v in wanted)
    parts: dict[Value, list[Any]] = {}
    for constant, result in zip(sums.carried, results[len(pullback.state) :], strict=False):
        parts.setdefault(constant, []).append(result)
    batch = BatchBuilder(b, length)
    for constant, terms_after in sums.terms.items():
        for term in terms_after:
            result = _after(b, batch, stacks, outer, term)
            parts.setdefault(constant, []).append(result)
    for constant, values in parts.items():
        total = values[0]
        for value in values[1:]:
            total = b.add(total, value)
        found[constant] = total
    return [found.get(v) if need else None for v, need in zip(body.inputs, ctx.needs, strict=True)]


@dataclass(eq=False)
class _Read:
    """What the backward body is given and which forward nodes it runs again."""

    given: list[Value]
    again: list[Node]


def _read(pullback: _Pullback, sums: _Sums, residuals: Mapping[Value, Any]) -> _Read:
    body = pullback.body
    inputs = {v: i for i, v in enumerate(body.inputs)}
    given: dict[Value, None] = {}
    wanted: set[Value] = set()
    pending = pullback.required()
    again: set[Node] = set()
    while pending:
        value = pending.pop()
        if value in wanted:
            continue
        wanted.add(value)
        if value in residuals:
            given[value] = None
        elif value in inputs:
            if inputs[value] < pullback.carries:
                raise _Missing
            given[value] = None
        else:
            assert value.node is not None
            again.add(value.node)
            pending.extend(value.node.inputs)
    given.update(dict.fromkeys(pullback.seeds.values()))
    order = {v: i for i, v in enumerate((*body.inputs, *residuals, *pullback.seeds.values()))}
    return _Read(sorted(given, key=order.__getitem__), [n for n in body.nodes if n in again])


def _after(
    b: Builder,
    batch: BatchBuilder,
    stacks: _Stacks,
    outer: Mapping[Value, Any],
    term: _Product | _Total,
) -> Any:
    """A term of a constant's gradient, summed over the steps."""

    def whole(value: Value) -> Any:
        source, views = stacks.source(value)
        found = Operand(outer[source], True)
        for view in views:
            found = batch.apply(view.op, [found], view.attributes)
        return found.value

    node = term.node
    if isinstance(term, _Product):
        contract, pairs = node.attributes["contract"], node.attributes["batch"]
        result = b.dot_general(
            *map(whole, node.inputs),
            contract=tuple((0, *(a + 1 for a in axes)) for axes in contract),
            batch=tuple(tuple(a + 1 for a in axes) for axes in pairs),
        )
    else:
        axes = (0, *(a + 1 for a in node.attributes["axes"]))
        result = b.apply(node.op, [whole(node.inputs[0])], {**node.attributes, "axes": axes})
    for view in term.chain:
        result = b.apply(view.op, [result], view.attributes)
    return result
