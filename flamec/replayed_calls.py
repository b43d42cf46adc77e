"""A call of a compiled function once more, operation by operation on the tape.

In: a traced graph, and the tensors that a call had as inputs. Out: gradients that have gradients,
to any order. What results with gradients depend on runs again, where it lies behind a change in
place too: an untracked value that an input was left with (running statistics, the vectors of a
power iteration) is read there, and states of generators are kept from before the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from flamec.autograd import grad
from flamec.autograd.hooks import register_hook
from flamec.autograd.rules import apply_recorded
from flamec.capture import Captured
from flamec.dispatch import apply, apply_named, tensor_builder
from flamec.errors import CompileError
from flamec.ir.custom import RecordedRule
from flamec.ir.evaluate import concrete_attributes
from flamec.ir.graph import Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.state import enable_grad, no_grad
from flamec.tape import cut_off, tape_value
from flamec.tensor import Tensor, is_generator_state


class ReplayedCall:
    """What of a traced graph runs again, and what that takes from a call.

    ``needed``: the inputs from which all follows that rules of derivatives read; of those that the
    call changes what they held before, which is to be saved of ``states``, of generators. ``left``:
    inputs that are read for the values which the call has left in them.
    """

    def __init__(self, original: Captured) -> None:
        self._original = original
        graph, tracked = original.graph, original.trace.tracked
        left = {v: i for i, v in graph.updates.items() if v not in tracked}
        hooks = [h for hooks in original.trace.hooks.rules.values() for h in hooks.values()]
        roots = [graph.outputs[i] for i in original.tracked_outputs]
        roots += [v for hook in hooks if hook.again is None for v in hook.rule.operands]
        self._nodes = reachable_nodes(roots, left.__contains__)
        read: list[Value] = []
        for node in self._nodes:
            if not any(v in tracked for v in node.outputs):
                continue
            needs = [v in tracked for v in node.inputs]
            read += [node.inputs[i] for i in node.op.saved_inputs(needs)]
            count = len(node.outputs)
            read += [node.outputs[i] for i in node.op.saved_outputs(count, node.attributes)]
        makers = reachable_nodes(read, left.__contains__)
        reached = {*read, *(v for node in makers for v in node.inputs)}
        self.needed = {i for i, v in enumerate(graph.inputs) if v in reached}
        self.left = {i for v, i in left.items() if v in reached}
        used = {*roots, *(v for node in self._nodes for v in node.inputs)}
        self._left = {v: i for v, i in left.items() if v in used}
        self.states = [i for i in self.needed & graph.updates.keys() if self._is_state(i)]

    def _is_state(self, position: int) -> bool:
        held = self._original.sources[position].tensor
        return held is not None and is_generator_state(held)

    def gradients(
        self,
        inputs: Sequence[Tensor],
        before: Mapping[int, Value | None],
        contents: Mapping[int, Tensor],
        seeds: Sequence[Tensor],
        bindings: Mapping[str, int],
        retain: Callable[[int, Tensor], None],
        create_graph: bool,
    ) -> Sequence[Tensor | None]:
        """The gradients of the tracked inputs.

        ``before``: the histories that inputs had which the call changed, ``contents``: what inputs
        held that it changed, if that is known. ``retain`` is told the gradients of results, by
        position, that ``retain_grad`` keeps. CompileError if other contents are needed.
        """
        original = self._original
        graph, tracked = original.graph, original.trace.tracked
        lost = sorted((self.needed & graph.updates.keys()) - contents.keys())
        if lost:
            raise CompileError(
                f"{original.name}: a second derivative needs what a tensor "
                f"{graph.inputs[lost[0]].type} held before the compiled function changed it in "
                "place; change it outside, or call the uncompiled function instead"
            )
        started = [
            _as_before(contents.get(i, t), before[i] if i in before else tape_value(t))
            if i in graph.updates
            else t
            for i, t in enumerate(inputs)
        ]
        with enable_grad():
            for i in original.tracked_inputs:
                started[i] = _value_of_its_own(started[i])
            values = dict(zip(graph.inputs, started, strict=True))
            values.update((value, inputs[i].detach()) for value, i in self._left.items())
            for node in self._nodes:
                attributes = concrete_attributes(node.attributes, bindings)
                operands = [values[v] for v in node.inputs]
                if any(v in tracked for v in node.outputs):
                    result = apply(node.op, operands, attributes)
                else:
                    with no_grad():
                        result = apply(node.op, operands, attributes)
                results = result if isinstance(result, tuple) else (result,)
                values.update(zip(node.outputs, results, strict=True))
        _register_hooks(original, values, bindings)
        for value, position in original.retained.items():
            register_hook(values[value], partial(retain, position))
        outputs = [values[graph.outputs[i]] for i in original.tracked_outputs]
        wanted = [started[i] for i in original.tracked_inputs]
        return grad(outputs, wanted, list(seeds), create_graph=create_graph, allow_unused=True)


def _as_before(tensor: Tensor, value: Value | None) -> Tensor:
    """What stands for a tensor that was changed, with the history from before."""
    steps = (cut_off(tensor._type),)
    result = Tensor._from_array(tensor._array, tensor._type, tensor._storage, steps)
    result._value, result._value_version = value, tensor._storage.version
    return result


def _value_of_its_own(tensor: Tensor) -> Tensor:
    """The same tensor to the call alone: the gradient of an input that others were computed from
    is not to have theirs in it."""
    own: Tensor = apply_named("reshape", tensor, shape=tensor._type.shape)
    return own


def _register_hooks(
    original: Captured, values: Mapping[Value, Tensor], bindings: Mapping[str, int]
) -> None:
    """Put the hooks of a trace on the tensors that stand for its values."""
    for value, hooks in original.trace.hooks.rules.items():
        tensor = values.get(value)
        if tensor is None or not tensor.requires_grad:
            continue
        for hook in hooks.values():
            if hook.again is not None:
                register_hook(tensor, partial(_again, hook.again))
                continue
            operands = [values[v] for v in hook.rule.operands]
            register_hook(tensor, partial(_replay_hook, hook.rule, operands, bindings))


def _again(hook: Callable[[Sequence[Tensor]], Sequence[Tensor]], gradient: Tensor) -> Tensor:
    return hook([gradient])[0]


def _replay_hook(
    rule: RecordedRule, operands: Sequence[Tensor], bindings: Mapping[str, int], gradient: Tensor
) -> Any:
    sizes = [bindings[s] for s in rule.symbols]
    return rule.replay(tensor_builder, (gradient,), (), operands, sizes, apply_recorded)[0]
