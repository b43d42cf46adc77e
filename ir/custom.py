"""Operations whose derivative someone else wrote: values with another derivative.

``custom_op`` makes an op of kind CUSTOM: its results are its first operands, and
gradients flow to the others by the rule that is given. Until differentiation is done
such a node stands in the graph; afterwards ``forget_derivatives`` takes it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamec.ir.batching import BatchBuilder, Operand, whole
from flamec.ir.builder import Builder
from flamec.ir.graph import Node, Value, attribute_key
from flamec.ir.op import Attributes, Derivative, DerivativeContext, Op, OpKind, Types
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim


def custom_op(
    name: str,
    count: int,
    derivative: Derivative,
    saves_inputs: tuple[int, ...] = (),
    saves_outputs: tuple[int, ...] = (),
) -> Op:
    """An op whose ``count`` results are its first operands, with a derivative of its own."""

    def infer(types: Types, attributes: Attributes) -> Types:
        return types[:count]

    def evaluate(attributes: Attributes, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return arrays[:count]

    return Op(
        name=name,
        kind=OpKind.CUSTOM,
        infer=infer,
        evaluate=evaluate,
        derivative=derivative,
        saves_inputs=saves_inputs,
        saves_outputs=saves_outputs,
        dimensions=("sizes",),
        batch=_batch,
        doc="The first operands, with a derivative written by the user.",
    )


def _batch(
    b: Builder, size: Dim, op: Op, operands: Sequence[Operand], attributes: Attributes
) -> Any:
    """The same values with the derivative applied to a batch."""
    assert op.derivative is not None
    single, flags = op.derivative, [x.batched for x in operands]
    count = len(op.infer_types(tuple(b.type_of(x.value) for x in operands), attributes))

    def derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> list[Any]:
        batch = BatchBuilder(b, size)
        inputs = [Operand(v, flag) for v, flag in zip(ctx.inputs, flags, strict=True)]
        inner = DerivativeContext(
            ctx.attributes,
            inputs,
            [Operand(v, True) for v in ctx.outputs],
            tuple(
                t.with_shape(t.shape[1:]) if flag or i < count else t
                for i, (t, flag) in enumerate(zip(ctx.input_types, flags, strict=True))
            ),
            tuple(t.with_shape(t.shape[1:]) for t in ctx.output_types),
            ctx.needs,
        )
        seeds = [None if g is None else Operand(g, True) for g in gradients]
        found = []
        for gradient, flag in zip(single(batch, inner, *seeds), flags, strict=True):
            if gradient is None:
                found.append(None)
                continue
            full = whole(b, size, gradient)
            found.append(full if flag else b.sum(full, axes=(0,)))
        return found

    values = [whole(b, size, x) if i < count else x.value for i, x in enumerate(operands)]
    reads, keeps = op.saves_inputs, op.saves_outputs
    assert isinstance(reads, tuple) and isinstance(keeps, tuple)
    return b.apply(custom_op(op.name, count, derivative, reads, keeps), values, attributes)


@dataclass(frozen=True, eq=False)
class RecordedRule:
    """A derivative rule as the nodes that it emitted once.

    ``gradients`` and ``outputs``: what stood for the gradients and for the results of the
    operation; ``operands``: what the nodes read besides; ``nodes``, each with whether it was
    recorded for autograd; ``results``: the gradients that it gave, None where there is none.
    ``symbols``: the sizes that attributes name. ``states``: keys of memory that the rule reads and
    writes where it is used (``Builder.read_state``): its last gradients and its last results.
    """

    gradients: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operands: tuple[Value, ...]
    nodes: tuple[tuple[Node, bool], ...]
    results: tuple[Value | None, ...]
    symbols: tuple[str, ...] = ()
    states: tuple[Any, ...] = ()

    @property
    def symbolic_sizes(self) -> tuple[SymbolicDim, ...]:
        """The symbols as sizes."""
        return tuple(SymbolicDim.symbol(s) for s in self.symbols)

    def replay(
        self,
        b: Builder,
        gradients: Sequence[Any],
        outputs: Sequence[Any],
        operands: Sequence[Any],
        sizes: Sequence[Any],
        apply: Any,
    ) -> list[Any]:
        """Emit the nodes again. ``apply(b, op, inputs, attributes, recorded)`` does one."""
        values: dict[Value, Any] = dict(zip(self.operands, operands, strict=True))
        values.update(zip(self.gradients, gradients, strict=True))
        values.update(zip(self.outputs, outputs, strict=True))
        bindings = dict(zip(self.symbols, sizes, strict=True))
        known = {k: v for k, v in bindings.items() if isinstance(v, int)}
        for node, recorded in self.nodes:
            attributes = {k: _bound(v, known) for k, v in node.attributes.items()}
            result = apply(b, node.op, [values[v] for v in node.inputs], attributes, recorded)
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(node.outputs, results, strict=True))
        return [None if v is None else values[v] for v in self.results]


def _bound(value: Any, bindings: Mapping[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_bound(v, bindings) for v in value)
    return evaluate_dim(value, bindings) if bindings and isinstance(value, SymbolicDim) else value


def record_rule(
    nodes: Sequence[Node],
    gradients: Sequence[Value],
    outputs: Sequence[Value],
    results: Sequence[Value | None],
    recorded: Any,
    symbols: Sequence[str],
) -> RecordedRule:
    """The part of ``nodes`` that leads from ``gradients`` and ``outputs`` to ``results``.

    What does not depend on them is an operand. ``recorded``: a container of the values
    that were recorded for autograd.
    """
    late = {*gradients, *outputs}
    for node in nodes:
        if any(v in late for v in node.inputs):
            late.update(node.outputs)
    wanted = {v for v in results if v is not None}
    operands: dict[Value, None] = {v: None for v in results if v is not None and v not in late}
    kept: list[tuple[Node, bool]] = []
    given = {*gradients, *outputs}
    for node in reversed(nodes):
        made = [v for v in node.outputs if v in wanted and v in late and v not in given]
        if not made:
            continue
        kept.append((node, any(v in recorded for v in node.outputs)))
        wanted.update(node.inputs)
        operands.update((v, None) for v in node.inputs if v not in late)
    return RecordedRule(
        tuple(gradients),
        tuple(outputs),
        tuple(operands),
        tuple(reversed(kept)),
        tuple(results),
        tuple(symbols),
    )


def same_rule(one: RecordedRule, other: RecordedRule) -> bool:
    """Whether two rules compute the same from the same operands."""
    pairs = dict(zip(one.gradients, other.gradients, strict=True))
    pairs.update(zip(one.outputs, other.outputs, strict=True))

    def same(a: Value | None, b: Value | None) -> bool:
        if a is None or b is None:
            return a is b
        if a not in pairs:
            if a is not b and not same_node(a, b):
                return False
            pairs[a] = b
        return pairs[a] is b

    def same_node(a: Value, b: Value) -> bool:
        one, other = a.node, b.node
        if one is None or other is None or one.op is not other.op or a.index != b.index:
            return False
        keys = [{k: attribute_key(v) for k, v in node.attributes.items()} for node in (one, other)]
        return keys[0] == keys[1] and all(map(same, one.inputs, other.inputs))

    return all(map(same, one.results, other.results))


def derivative_of(rule: RecordedRule, count: int, inputs: int, apply: Any) -> Derivative:
    """The derivative of a custom op with operands: results, inputs, operands of ``rule``."""

    def derivative(b: Builder, ctx: DerivativeContext, *gradients: Any) -> list[Any]:
        seeds = [
            b.full_like(0, type) if g is None else g
            for g, type in zip(gradients, ctx.output_types, strict=True)
        ]
        placeholders = rule.gradients[len(seeds) :]
        for key, value in zip(rule.states, placeholders, strict=True):
            seeds.append(b.read_state(key, value.type))
        found = rule.replay(
            b,
            seeds,
            ctx.outputs[: len(rule.outputs)],
            ctx.inputs[count + inputs :],
            ctx.attributes["sizes"],
            apply,
        )
        for key in reversed(rule.states):
            b.write_state(key, found.pop())
        return [*[None] * count, *found, *[None] * len(rule.operands)]

    return derivative
