"""A hook on the gradients of several tensors: ``register_multi_grad_hook``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from flamec.autograd.backward_pass import BackwardPass
from flamec.autograd.engine import value_of
from flamec.autograd.hooks import register_hook
from flamec.errors import unrepeatable
from flamec.removable_handle import RemovableHandle
from flamec.state import thread
from flamec.tensor import Tensor

__all__ = ["register_multi_grad_hook"]


def register_multi_grad_hook(
    tensors: Sequence[Tensor], fn: Callable[..., Any], *, mode: str = "all"
) -> RemovableHandle:
    """Call ``fn`` once in each backward pass that reaches some of ``tensors``.

    ``mode`` "all": with a list of their gradients, None for those that are not reached, when all
    are complete. "any": with the first gradient that is complete. RuntimeError for a tensor that
    does not require grad. What ``fn`` returns is not used.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"Expects mode to be one of ('all', 'any') but got {mode}")
    if thread.trace is not None:
        raise unrepeatable("register_multi_grad_hook")
    watched = tuple(tensors)
    calls: dict[BackwardPass, list[Tensor | None]] = {}

    def call(backward: BackwardPass) -> None:
        fn(calls.pop(backward))

    def arrived(position: int, gradient: Tensor) -> None:
        backward = thread.backward
        assert backward is not None, "hooks are called in backward passes"
        if mode == "any":
            if backward.is_first(arrived):
                fn(gradient)
            return
        if backward not in calls:
            calls[backward] = [None] * len(watched)
            reached = sum(backward.reaches(value_of(tensor)) for tensor in watched)
            backward.expect(call, reached)
        calls[backward][position] = gradient
        backward.count(call)

    handles: list[RemovableHandle] = []

    def remove() -> None:
        for handle in handles:
            handle.remove()

    try:
        for position, tensor in enumerate(watched):
            handles.append(register_hook(tensor, partial(arrived, position)))
    except RuntimeError:
        remove()
        raise

    hooks: dict[int, Any] = {}
    together = RemovableHandle(hooks, remove)
    hooks[together.id] = fn
    return together
