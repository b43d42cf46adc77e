"""Full backward hooks of modules: functions of the gradients of a module's inputs and outputs.

Two identities stand around the module, one for all of its tensor arguments and one for its
results. Backward meets that of the results first: their gradients pass the pre-hooks and are
kept; that of the arguments hands them to the hooks together with its own. A backward in a
compiled function calls the hooks as an eager one does. For one outside of it they are run on
stand-ins when the function has returned, and what they compute is replayed there; then a gradient
that does not arrive is zero, not None. Those with effects are called again, when that backward has
run. In the body of a loop or of ``vmap`` rules are made at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flamec.autograd.function import attach_rule
from flamec.autograd.rules import apply_recorded, record_gradients_rule
from flamec.autograd.trial_runs import try_out
from flamec.dispatch import tensor_builder
from flamec.inner_trace import InnerTrace
from flamec.ir.builder import Builder
from flamec.ir.custom import RecordedRule
from flamec.ir.op import DerivativeContext
from flamec.state import enable_grad, thread
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.guards import Recorder

__all__ = ["call_with_backward_hooks"]

Hook = Callable[..., Any]


def call_with_backward_hooks(
    module: Any,
    pre_hooks: Sequence[Hook],
    hooks: Sequence[Hook],
    args: tuple[Any, ...],
    forward: Callable[..., Any],
) -> Any:
    """``forward(*args)`` whose backward calls the hooks."""
    link = _Link(module, pre_hooks, hooks, args)
    return link.leave(forward(*link.enter()))


class _Link:
    """One call of a module, from its arguments to its results and, in backward, back."""

    def __init__(
        self, module: Any, pre_hooks: Sequence[Hook], hooks: Sequence[Hook], args: tuple[Any, ...]
    ) -> None:
        self.module, self.pre_hooks, self.hooks, self.args = module, pre_hooks, hooks, args
        self.places = [i for i, a in enumerate(args) if _is_differentiable(a)] if hooks else []
        self.count = len(args)
        self.seeds: Sequence[Any] | None = None  # gradients of the results, once they are known
        self.rules: Sequence[RecordedRule] | None = None
        self.again: list[Any] = [None, None]  # those with effects, to be called themselves
        self.operands: Sequence[Any] = ()
        self.sizes: Sequence[Any] = ()
        trace = thread.trace
        self.traced = trace is not None
        self.late = self.traced and not isinstance(trace, InnerTrace)  # rules come at the end

    # forward ------------------------------------------------------------------------------
    def enter(self) -> tuple[Any, ...]:
        """The arguments, on which backward will report."""
        args = list(self.args)
        self.args = ()
        if self.places:
            tensors = [args[i] for i in self.places]
            self.types = [t._type for t in tensors]
            marked = attach_rule("BackwardHook", tensors, tensors, self.of_arguments)
            for place, tensor in zip(self.places, marked, strict=True):
                args[place] = tensor
        return tuple(args)

    def leave(self, result: Any) -> Any:
        """The result, on which backward will report first."""
        outputs = list(result) if isinstance(result, (tuple, list)) else [result]
        places = [i for i, o in enumerate(outputs) if _is_differentiable(o)]
        if not places:
            return result
        tensors = [outputs[i] for i in places]
        self.output_places, self.output_count = places, len(outputs)
        self.output_types = [t._type for t in tensors]
        operands: Sequence[Tensor] = ()
        sizes: tuple[Any, ...] = ()
        if self.late:
            assert thread.trace is not None
            thread.trace.hooks.late.append(self._record)
        elif self.traced:
            operands, sizes = self._record()
        marked = attach_rule("BackwardHook", tensors, tensors, self.of_results, operands, sizes)
        if not isinstance(result, (tuple, list)):
            return marked[0]
        for place, tensor in zip(places, marked, strict=True):
            outputs[place] = tensor
        rebuild = type(result)
        return rebuild(*outputs) if hasattr(result, "_fields") else rebuild(outputs)

    def _record(self, recorder: Recorder | None = None) -> tuple[list[Tensor], tuple[Any, ...]]:
        """Run the hooks on stand-ins; gives what they read besides gradients."""
        trace = thread.trace
        assert trace is not None
        with enable_grad():
            kinds = [*(self.types if self.places else ()), *self.output_types]
            cut = len(kinds) - len(self.output_types)
            before, self.again[0] = self._tried_out(
                recorder, self.output_types, self.call_pre_hooks
            )
            call = partial(self._call_hooks, cut)
            after, self.again[1] = self._tried_out(recorder, kinds, call, len(self.output_types))
        self.rules = before, after
        operands = [trace.tensor_of(v) for v in (*before.operands, *after.operands)]
        return operands, (*before.symbolic_sizes, *after.symbolic_sizes)

    def _tried_out(
        self,
        recorder: Recorder | None,
        types: Sequence[Any],
        hooks: Callable[..., Sequence[Any]],
        behind: int = 0,
    ) -> tuple[RecordedRule, Callable[..., Any] | None]:
        """``behind``: gradients that the hooks are given behind those that they give back."""
        if recorder is None:
            return record_gradients_rule(types, hooks), None
        assert thread.trace is not None
        name, count = f"of a {type(self.module).__name__}", len(types) - behind
        return try_out(recorder, thread.trace, types, hooks, name, count)

    # backward -----------------------------------------------------------------------------
    def of_results(self, b: Builder, ctx: DerivativeContext, *incoming: Any) -> list[Any]:
        """The derivative of the identity around the results."""
        if self._calls(b):
            gradients = list(self.call_pre_hooks(incoming))
            if self.places:
                self.seeds = gradients
            else:
                self.call_hooks((), gradients)
            return self._with_results(gradients)
        assert self.rules is not None
        before, after = self.rules
        if self.again[0] is not None:
            b.report(self.again[0], incoming)
        seeds = _complete(b, incoming, self.output_types)
        count = len(seeds)
        read, sizes = ctx.inputs[2 * count :], ctx.attributes["sizes"]
        if self.late:  # the pass that asks works on the graph of the trace
            read = (*before.operands, *after.operands)
            sizes = (*before.symbolic_sizes, *after.symbolic_sizes)
        cut, named = len(before.operands), len(before.symbols)
        seeds = before.replay(b, seeds, (), read[:cut], sizes[:named], apply_recorded)
        if self.places:
            self.seeds, self.operands, self.sizes = seeds, read[cut:], sizes[named:]
        elif self.again[1] is not None:
            b.report(self.again[1], seeds)
        return [*self._with_results(seeds), *[None] * (0 if self.late else len(read))]

    def of_arguments(self, b: Builder, ctx: DerivativeContext, *incoming: Any) -> list[Any]:
        """The derivative of the identity around the arguments."""
        seeds, operands, sizes = self.seeds, self.operands, self.sizes
        self.seeds, self.operands = None, ()
        if self._calls(b):
            found = list(incoming if seeds is None else self.call_hooks(incoming, seeds))
            return self._with_results(found)
        found = _complete(b, incoming, self.types)
        if seeds is not None:
            assert self.rules is not None
            if self.again[1] is not None:
                b.report(self.again[1], [*incoming, *seeds])
            found = self.rules[1].replay(b, [*found, *seeds], (), operands, sizes, apply_recorded)
        return self._with_results(found)

    def _calls(self, b: Builder) -> bool:
        """Whether the hooks themselves are called: gradients are tensors, and no rule is older."""
        return not self.traced or (self.late and b is tensor_builder)

    def _with_results(self, gradients: Sequence[Any]) -> list[Any]:
        """As many gradients as the identity has operands: a traced one has its results, too."""
        return [*[None] * (len(gradients) if self.traced else 0), *gradients]

    def call_pre_hooks(self, seeds: Sequence[Any]) -> Sequence[Any]:
        """The gradients of the results as the pre-hooks leave them."""
        gradients = _spread(seeds, self.output_places, self.output_count)
        for hook in self.pre_hooks:
            gradients = _replaced(hook, hook(self.module, gradients), gradients)
        return [gradients[i] for i in self.output_places]

    def _call_hooks(self, cut: int, given: Sequence[Any]) -> Sequence[Any]:
        """As ``call_hooks``; the first ``cut`` gradients are those of the arguments."""
        return self.call_hooks(given[:cut], given[cut:])

    def call_hooks(self, gradients: Sequence[Any], seeds: Sequence[Any]) -> Sequence[Any]:
        """The gradients of the arguments as the hooks leave them."""
        outputs = _spread(seeds, self.output_places, self.output_count)
        inputs = _spread(gradients, self.places, self.count)
        for hook in self.hooks:
            inputs = _replaced(hook, hook(self.module, inputs, outputs), inputs)
        return [inputs[i] for i in self.places]


def _is_differentiable(value: Any) -> bool:
    return thread.grad_enabled and isinstance(value, Tensor) and value.requires_grad


def _complete(b: Builder, incoming: Sequence[Any], types: Sequence[Any]) -> list[Any]:
    """Gradients, zero where none has arrived."""
    pairs = zip(incoming, types, strict=True)
    return [b.full_like(0.0, type) if g is None else g for g, type in pairs]


def _spread(values: Sequence[Any], places: Sequence[int], count: int) -> tuple[Any, ...]:
    result: list[Any] = [None] * count
    for place, value in zip(places, values, strict=True):
        result[place] = value
    return tuple(result)


def _replaced(hook: Hook, result: Any, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    if result is None:
        return gradients
    given = result if isinstance(result, tuple) else (result,)
    if len(given) != len(gradients):
        raise RuntimeError(
            f"backward hook '{getattr(hook, '__qualname__', hook)}' returned {len(given)} "
            f"gradients, but expected {len(gradients)}"
        )
    return given
