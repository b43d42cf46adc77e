"""The derivative of a loop is a scan in the other direction.

In: a body, and which operands want gradients. Out: a body that takes the gradients of the new
carried values and gives those of the old ones. What it needs of the forward steps is stacked by
them (residuals) or follows from what is; where that is not so, the forward scan is run again.
Gradients of constants are sums over
the steps: where they are sums of products, the factors are stacked and one product after the scan
contracts the steps, too; else they are carried. What it emits is a scan, which has
a derivative again. Where a value of the program says how many steps there were, the scan back is
counted; its gradients of constants are carried, so that its work follows that number and not the
greatest possible one. They are carried from segment to segment, too (``segment_loops.py``): what
all steps stack is what segments save.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flamec.ir.batching import BatchBuilder, Operand
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Attributes, DerivativeContext, lookup
from flamec.ir.passes.differentiate import backpropagate, dependents
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code
from flamec.ir.passes.run_again import FREE, can_run_again
from flamec.ir.passes.sums_over_steps import Product, Stacks, Sums, Total, sums_over_steps
from flamec.ir.shape import Dim


class _Missing(Exception):
    """The backward body reads a carried value of which no step is known."""


@dataclass(eq=False)
class Pullback:
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


def pullback_of(
    attributes: Attributes, needs: Sequence[bool], given: Sequence[bool]
) -> Pullback | None:
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
) -> Pullback:
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
    return Pullback(body, carries, sequences, late, carried, seeds, results)


# residuals ---------------------------------------------------------------------------------


def with_residuals(attributes: Attributes, needs: Sequence[bool]) -> dict[str, Any]:
    """A scan's attributes such that its results include what its derivative reads.

    ``needs``: which operands will want a gradient.
    """
    body: Graph = attributes["body"]
    given = [v.type.dtype.is_floating_point for v in body.outputs]
    pullback = pullback_of(attributes, needs, given)
    residuals = [] if pullback is None else _residuals(pullback)
    return _stacking(attributes, body.outputs, residuals)


def _stacking(
    attributes: Attributes, outputs: Sequence[Value], residuals: Sequence[Value]
) -> dict[str, Any]:
    body = attributes["body"]
    kept = Graph(body.inputs, body.nodes, (*outputs, *residuals), {}, body.name)
    return {**attributes, "body": kept, "residuals": len(residuals)}


def _residuals(pullback: Pullback) -> list[Value]:
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
        free = node.op.kind in FREE or bool(node.attributes.get("checkpoint"))
        kept = all(v in wanted or v in given for v in node.inputs)
        if free or (kept and can_run_again(node, on_gpu)):
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


# the backward scan -----------------------------------------------------------------------------


@dataclass(eq=False)
class Forward:
    """A loop that has run, in the terms of a scan.

    ``outputs``: the last carried values, then what was stacked; ``count``: how many steps there
    were, None where that is ``length``; ``again``: the loop once more with other results, given
    a scan's attributes: what it stacks.
    """

    attributes: Attributes
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    needs: Sequence[bool]
    count: Any
    again: Callable[[Attributes], Sequence[Any]]


def scan_derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> list[Any]:
    """The derivative rule of ``scan``; see the module's docstring."""
    counted = bool(ctx.attributes.get("counted"))
    operands = len(ctx.inputs) - counted

    def again(attributes: Attributes) -> Sequence[Any]:
        return b.apply_all(lookup("scan"), ctx.inputs, attributes)[attributes["carries"] :]

    forward = Forward(
        ctx.attributes,
        ctx.inputs[:operands],
        ctx.outputs,
        ctx.needs[:operands],
        ctx.inputs[-1] if counted else None,
        again,
    )
    return [*loop_gradients(b, forward, gradients), *[None] * counted]


def loop_gradients(b: Builder, forward: Forward, gradients: Sequence[Any]) -> list[Any]:
    """The gradients of the loop's operands, given those of its outputs (None: there is none)."""
    attributes = forward.attributes
    pullback = pullback_of(attributes, forward.needs, [g is not None for g in gradients])
    if pullback is None:
        return [None] * len(forward.inputs)
    body, count = pullback.body, attributes["residuals"]
    residuals = list(body.outputs[len(body.outputs) - count :])
    stacks = list(forward.outputs[len(forward.outputs) - count :])
    try:
        return _run(b, forward, pullback, dict(zip(residuals, stacks, strict=True)), gradients)
    except _Missing:
        pass
    residuals = _residuals(pullback)
    stacks = list(forward.again(_stacking(attributes, body.outputs[: pullback.carries], residuals)))
    return _run(b, forward, pullback, dict(zip(residuals, stacks, strict=True)), gradients)


def _first_steps(b: Builder, stack: Any, count: Any) -> Any:
    """A stack with zeros where there was no step."""
    type, number = b.type_of(stack), b.type_of(count)
    shape = (type.shape[0], *(1,) * (len(type.shape) - 1))
    steps = b.iota(shape=shape, axis=0, dtype=number.dtype, device=number.device)
    return b.where(b.lt(steps, count), stack, b.constant(0, type))


def _run(
    b: Builder,
    forward: Forward,
    pullback: Pullback,
    residuals: Mapping[Value, Any],
    gradients: Sequence[Any],
) -> list[Any]:
    """Emit the backward scan. _Missing if the residuals do not suffice."""
    body, attributes, count = pullback.body, forward.attributes, forward.count
    length: Dim = attributes["length"]
    outer: dict[Value, Any] = dict(residuals)
    outer.update(
        zip(body.inputs[pullback.carries :], forward.inputs[pullback.carries :], strict=True)
    )
    for i, seed in pullback.seeds.items():
        gradient = gradients[i]
        outer[seed] = gradient if count is None else _first_steps(b, gradient, count)
    constants = set(body.inputs[pullback.split :])
    stacks = Stacks(v for v in outer if v not in constants)
    wanted = [v for v in body.inputs[pullback.carries : pullback.split] if v in pullback.found]
    for value in wanted:
        if pullback.found[value] not in (*stacks.known, *stacks.results):
            stacks.results.append(pullback.found[value])
    first = (*body.inputs[: pullback.split], *pullback.state.values(), *pullback.seeds.values())
    pairs = [(v, pullback.found[v]) for v in body.inputs[pullback.split :] if v in pullback.found]
    varying = _varying((*body.nodes, *pullback.late), first)
    together = count is None and not any(n.attributes.get("checkpoint") for n in body.nodes)
    sums = sums_over_steps(pullback.late, varying, pairs, stacks if together else None)

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
        inner.locate(node)  # for what is added below, too
        copy = inner.add_copy(node, [known[v] for v in node.inputs])
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
    if count is not None:
        operands.append(count)
        changed["counted"] = True
    results = b.apply_all(lookup("scan"), operands, changed)

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
    return [
        found.get(v) if need else None for v, need in zip(body.inputs, forward.needs, strict=True)
    ]


@dataclass(eq=False)
class _Read:
    """What the backward body is given and which forward nodes it runs again."""

    given: list[Value]
    again: list[Node]


def _read(pullback: Pullback, sums: Sums, residuals: Mapping[Value, Any]) -> _Read:
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
    stacks: Stacks,
    outer: Mapping[Value, Any],
    term: Product | Total,
) -> Any:
    """A term of a constant's gradient, summed over the steps."""

    def whole(value: Value) -> Any:
        source, views = stacks.source(value)
        found = Operand(outer[source], True)
        for view in views:
            found = batch.apply(view.op, [found], view.attributes)
        return found.value

    node = term.node
    if isinstance(term, Product):
        contract, pairs = node.attributes["contract"], node.attributes["batch"]
        changed = {
            "contract": tuple((0, *(a + 1 for a in axes)) for axes in contract),
            "batch": tuple(tuple(a + 1 for a in axes) for axes in pairs),
        }
        operands = [whole(value) for value in node.inputs]
        result = b.apply(node.op, operands, {**node.attributes, **changed})
    else:
        axes = (0, *(a + 1 for a in node.attributes["axes"]))
        result = b.apply(node.op, [whole(node.inputs[0])], {**node.attributes, "axes": axes})
    for view in term.chain:
        result = b.apply(view.op, [result], view.attributes)
    return result
