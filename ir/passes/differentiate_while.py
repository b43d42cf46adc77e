"""The derivative of ``while_loop``.

With a limit the forward loop stacks what the steps back need, at most ``limit`` of each value, and
the derivative is a scan in the other direction over as many steps as there were
(``differentiate_loops``). Without one nobody can plan that memory: the rule then emits the
transposed loop as one operation, ``while_transpose``, which is evaluated but never compiled. It is
linear in its seeds, and its own derivative by them is the tangent loop, a ``while_loop`` that
carries tangents beside values. So forward mode, which differentiates a gradient by its seed, needs
no limit: nothing reads the transposed loop itself then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.ir.bodies import emitted
from flamec.ir.builder import Builder, GraphBuilder
from flamec.ir.graph import Graph, Value
from flamec.ir.op import Attributes, DerivativeContext, lookup
from flamec.ir.passes.differentiate import differentiate_graph
from flamec.ir.passes.differentiate_loops import (
    Forward,
    Pullback,
    loop_gradients,
    pullback_of,
    with_residuals,
)
from flamec.ir.passes.eliminate_dead_code import eliminate_dead_code


def as_scan(attributes: Attributes) -> dict[str, Any]:
    """The attributes of a scan with this loop's body."""
    return {
        "body": attributes["body"],
        "carries": attributes["carries"],
        "sequences": 0,
        "length": attributes["limit"],
        "reverse": False,
        "residuals": attributes["residuals"],
    }


class UnboundedLoop(NotImplementedError):
    """A derivative would have to know how many steps a loop makes at most."""


def while_with_residuals(attributes: Attributes, needs: Sequence[bool]) -> dict[str, Any]:
    """The attributes of a loop with a limit such that it stacks what its derivative reads."""
    made = with_residuals(as_scan(attributes), needs)
    return {**attributes, "body": made["body"], "residuals": made["residuals"]}


def while_derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> Sequence[Any]:
    """The derivative rule of ``while_loop``; see the module's docstring."""
    attributes, carries = ctx.attributes, ctx.attributes["carries"]
    given = [*gradients[:carries], *gradients[carries + 1 :]]
    if attributes["limit"] is None:
        pullback = pullback_of(as_scan(attributes), ctx.needs, [g is not None for g in given])
        if pullback is None:
            return [None] * len(ctx.inputs)
        changed = transposed(attributes, pullback)
        seeds = [
            b.full_like(0.0, ctx.output_types[i]) if given[i] is None else given[i]
            for i in changed["state"]
        ]
        results = b.apply_all(lookup("while_transpose"), [*ctx.inputs, *seeds], changed)
        found: list[Any] = [None] * len(ctx.inputs)
        for position, result in zip(
            (*changed["state"], *changed["constants"]), results, strict=True
        ):
            found[position] = result if ctx.needs[position] else None
        return found

    def again(scan: Attributes) -> Sequence[Any]:
        kept = {**attributes, "body": scan["body"], "residuals": scan["residuals"]}
        return b.apply_all(lookup("while_loop"), ctx.inputs, kept)[carries + 1 :]

    outputs = [*ctx.outputs[:carries], *ctx.outputs[carries + 1 :]]
    count = ctx.outputs[carries]
    forward = Forward(as_scan(attributes), ctx.inputs, outputs, ctx.needs, count, again)
    return loop_gradients(b, forward, given)


# without a limit -----------------------------------------------------------------------------


def transposed(attributes: Attributes, pullback: Pullback) -> dict[str, Any]:
    """The attributes of the ``while_transpose`` of a loop, given how one step is differentiated."""
    body = pullback.body
    state = tuple(pullback.state)
    constants = tuple(
        i for i in range(pullback.split, len(body.inputs)) if body.inputs[i] in pullback.found
    )
    inner = GraphBuilder()
    known = {v: inner.input(v.type, v.name) for v in body.inputs}
    known.update({s: inner.input(s.type, "gradient") for s in pullback.state.values()})
    for node in (*body.nodes, *pullback.late):
        inner.locate(node)
        copy = inner.add_node(node.op, [known[v] for v in node.inputs], node.attributes)
        known.update(zip(node.outputs, copy.outputs, strict=True))
    outputs = [known[pullback.found[body.inputs[i]]] for i in (*state, *constants)]
    graph = eliminate_dead_code(inner.build(outputs, name=f"{body.name}_backward"))
    return {
        "condition": attributes["condition"],
        "body": attributes["body"],
        "pullback": graph,
        "carries": attributes["carries"],
        "state": state,
        "constants": constants,
    }


def transpose_derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> Sequence[Any]:
    """By the seeds: the tangent loop. UnboundedLoop by anything else."""
    attributes = ctx.attributes
    body, carries = attributes["body"], attributes["carries"]
    state, constants = attributes["state"], attributes["constants"]
    operands = len(body.inputs)
    if any(ctx.needs[:operands]):
        raise UnboundedLoop(
            "while_loop: reverse mode needs a bound on the number of steps; give max_steps"
        )
    tangents = [
        b.full_like(0.0, ctx.output_types[i]) if g is None else g for i, g in enumerate(gradients)
    ]
    inner = GraphBuilder()
    types = ctx.input_types
    moving = [inner.input(t) for t in types[:carries]]
    along = [inner.input(types[i], "tangent") for i in state]
    fixed = [inner.input(t) for t in types[carries:operands]]
    fixed_along = [inner.input(types[i], "tangent") for i in constants]
    values = [*moving, *fixed]
    steps = emitted(inner, body, values)[:carries]
    push = _pushing(attributes["pullback"], operands)
    pushed = emitted(inner, push, [*values, *along, *fixed_along])
    tangent_body = inner.build([*steps, *pushed], name=f"{body.name}_tangent")
    changed = {
        "condition": _with_more(attributes["condition"], carries, tangent_body, len(state)),
        "body": eliminate_dead_code(tangent_body),
        "carries": carries + len(state),
        "limit": None,
        "residuals": 0,
    }
    loop = [
        *ctx.inputs[:carries],
        *tangents[: len(state)],
        *ctx.inputs[carries:operands],
        *tangents[len(state) :],
    ]
    made = b.apply(lookup("while_loop"), loop, changed)
    return [*[None] * operands, *made[carries : carries + len(state)]]


def _pushing(pullback: Graph, operands: int) -> Graph:
    """A step's tangents: takes its operands and the tangents of what the pullback gives."""
    seeds = range(operands, len(pullback.inputs))
    both = differentiate_graph(pullback, seeds)
    inner = GraphBuilder()
    first = [inner.input(v.type, v.name) for v in both.inputs[:operands]]
    zeros = [inner.full_like(0.0, both.inputs[i].type) for i in seeds]  # linear: never read
    given = [inner.input(v.type, v.name) for v in both.inputs[len(pullback.inputs) :]]
    results = emitted(inner, both, [*first, *zeros, *given])[len(pullback.outputs) :]
    return eliminate_dead_code(inner.build(results))


def _with_more(condition: Graph, carries: int, like: Graph, state: int) -> Graph:
    """The condition with the inputs of ``like``, where ``state`` tangents follow what is carried
    and others stand behind."""
    inner = GraphBuilder()
    values: list[Value] = [inner.input(v.type, v.name) for v in like.inputs]
    fixed = values[carries + state :][: len(condition.inputs) - carries]
    return inner.build(emitted(inner, condition, [*values[:carries], *fixed]), name=condition.name)
