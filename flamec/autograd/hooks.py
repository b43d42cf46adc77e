"""Hooks of tensors: functions of the gradient, called when backward has all of it.

Hooks are kept by autograd value. While a function is compiled, a backward in it calls them as
an eager one does: they are traced there, in order, once for each time they are called. Where the
function's results can be differentiated outside, ``record_hooks`` runs the hooks on tensors of
the trace once more, on stand-ins for the gradients, and keeps them as rules in IR. Hooks that have
effects, such as storing the gradient, are also called again, with the gradients that came out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from flamec.autograd.rules import apply_recorded
from flamec.errors import unrepeatable, user_location
from flamec.ir.builder import Builder
from flamec.ir.custom import RecordedRule
from flamec.ir.graph import Value
from flamec.ir.shape import format_shape, structural_key
from flamec.removable_handle import RemovableHandle
from flamec.state import enable_grad, process, thread
from flamec.tape import leaf_value, tape_value
from flamec.tensor import Tensor
from flamec.traced_hooks import KeptHook

if TYPE_CHECKING:
    from flamec.guards import Recorder
    from flamec.trace import Trace

__all__ = ["register_hook", "register_post_accumulate_grad_hook"]

Hook = Callable[[Tensor], Any]
_Hooks = dict[int, Any]

_BY_VALUE: weakref.WeakKeyDictionary[Value, _Hooks] = weakref.WeakKeyDictionary()
_AFTER: weakref.WeakKeyDictionary[Value, _Hooks] = weakref.WeakKeyDictionary()


def _changed() -> None:
    process.hook_changes += 1


def register_hook(self: Tensor, hook: Hook) -> RemovableHandle:
    """Call ``hook(gradient)`` each time the tensor's gradient is complete.

    What it returns, unless None, is used instead: a tensor of the same shape. The hook must
    not change the gradient in place. RuntimeError for a tensor that does not require grad.
    """
    if not self.requires_grad:
        raise RuntimeError(
            "cannot register a hook on a tensor that doesn't require gradient "
            f"(at {user_location()})"
        )
    trace = thread.trace
    if trace is None:
        value = tape_value(self)
        assert value is not None
        return _add(_BY_VALUE, value, hook)
    value = trace.autograd_value(self)
    _refuse_input(self, "register_hook")
    hooks = trace.hooks.registered.setdefault(value, {})
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def record_hooks(trace: Trace, recorder: Recorder) -> None:
    """Keep the hooks of a trace as rules, if a backward outside of it may call them."""
    hooks = trace.hooks
    if not (hooks.registered or hooks.late) or not _differentiable_later(trace):
        return
    for value, registered in list(hooks.registered.items()):
        if value.node is not None and id(value.node) in trace.freed:
            continue
        with enable_grad():
            hooks.rules[value] = {
                key: _kept(trace, recorder, value, hook) for key, hook in registered.items()
            }
    for record in hooks.late:
        record(recorder)


def _kept(trace: Trace, recorder: Recorder, value: Value, hook: Hook) -> KeptHook:
    name = getattr(hook, "__qualname__", repr(hook))
    called = partial(_called, hook)
    from flamec.autograd.trial_runs import try_out  # only where hooks are traced

    return KeptHook(*try_out(recorder, trace, [value.type], lambda seeds: [called(*seeds)], name))


def _differentiable_later(trace: Trace) -> bool:
    """Whether autograd can begin at a tensor that the function made and that is still alive."""
    if not thread.grad_enabled:
        return False
    for tensor in [reference() for reference in trace.created]:
        if tensor is not None and trace.is_tracked(tensor):
            node = trace.value_of(tensor).node
            if node is not None and id(node) not in trace.freed:
                return True
    return False


def register_post_accumulate_grad_hook(self: Tensor, hook: Hook) -> RemovableHandle:
    """Call ``hook(tensor)`` each time backward has accumulated into ``.grad`` of a leaf.

    RuntimeError for a tensor that is not a leaf that requires grad.
    """
    if not self.requires_grad:
        raise RuntimeError(
            "cannot register a hook on a tensor that doesn't require gradient "
            f"(at {user_location()})"
        )
    if not self._requires_grad:
        raise RuntimeError(
            "post accumulate grad hooks cannot be registered on non-leaf tensors "
            f"(at {user_location()})"
        )
    if thread.trace is not None:
        raise unrepeatable("register_post_accumulate_grad_hook")
    return _add(_AFTER, leaf_value(self), hook)


def _add(
    registry: weakref.WeakKeyDictionary[Value, _Hooks], value: Value, hook: Hook
) -> RemovableHandle:
    hooks = registry.setdefault(value, {})
    handle = RemovableHandle(hooks, _changed)
    hooks[handle.id] = hook
    _changed()
    return handle


def _refuse_input(tensor: Tensor, what: str) -> None:
    """CompileError for a tensor that lives longer than the call: its hook would, too."""
    trace = thread.trace
    assert trace is not None
    root = trace.root_of(tensor)
    if (
        root.input_position is not None
        and (tensor._requires_grad or not root.written)
        and not tensor._steps[len(root.steps) :]
    ):
        raise unrepeatable(f"{what} of a tensor that was made outside")


# what the engine asks ----------------------------------------------------------------------


def hooks_of_leaf(leaf: Tensor) -> tuple[tuple[Hook, ...], tuple[Hook, ...]]:
    """The hooks on the gradient of a concrete leaf, and those after its accumulation."""
    if not leaf._requires_grad:  # any more, in the function that is traced
        return (), ()
    value = leaf_value(leaf)
    return (
        tuple(_BY_VALUE.get(value, {}).values()),
        tuple(_AFTER.get(value, {}).values()),
    )


def finished(value: Value, gradient: Tensor) -> Tensor:
    """The complete gradient of ``value`` as its hooks leave it."""
    trace = thread.trace
    hooks: Sequence[Hook]
    if trace is None:
        if not process.hook_changes:  # the usual case, for each gradient
            return gradient
        hooks = tuple(_BY_VALUE.get(value, {}).values())
    else:
        registered = tuple(trace.hooks.registered.get(value, {}).values())
        hooks = (*registered, *trace.hooks.read(value, hooks_of_leaf)[0])
    for hook in hooks:
        gradient = _called(hook, gradient)
    return gradient


def has_hooks(value: Value) -> bool:
    """Whether ``finished`` would call anything."""
    trace = thread.trace
    if trace is None:
        return bool(_BY_VALUE.get(value))
    found = trace.hooks.registered.get(value) or trace.hooks.read(value, hooks_of_leaf)[0]
    return bool(found)


def replayed(rule: RecordedRule, gradient: Any, b: Builder) -> Any:
    """What a hook kept as a rule makes of a gradient in the graph that it was traced in."""
    (result,) = rule.replay(b, (gradient,), (), rule.operands, rule.symbolic_sizes, apply_recorded)
    return gradient if result is None else result


def accumulated(value: Value, leaf: Tensor) -> None:
    """Tell the hooks of a leaf that its gradient was accumulated."""
    trace = thread.trace
    if trace is None:
        if not process.hook_changes:
            return
        hooks = tuple(_AFTER.get(value, {}).values())
    else:
        hooks = trace.hooks.read(value, hooks_of_leaf)[1]
    for hook in hooks:
        hook(leaf)


def _called(hook: Hook, gradient: Tensor) -> Tensor:
    """What a hook makes of a gradient."""
    result = hook(gradient)
    if result is None:
        return gradient
    name = getattr(hook, "__qualname__", repr(hook))
    if not isinstance(result, Tensor):
        raise RuntimeError(
            f"hook '{name}' has returned a {type(result).__name__} instead of a tensor or None"
        )
    have, want = result._type.shape, gradient._type.shape
    if structural_key(have) != structural_key(want):
        raise RuntimeError(
            f"hook '{name}' has changed the size of value: from {format_shape(want)} to "
            f"{format_shape(have)}"
        )
    if result.dtype is not gradient.dtype:
        raise RuntimeError(
            f"hook '{name}' has changed the type of value: from {gradient.dtype!r} to "
            f"{result.dtype!r}"
        )
    return result
