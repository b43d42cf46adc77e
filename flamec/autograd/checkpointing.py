"""``checkpoint``: compute a part of the forward pass again in backward instead of keeping it.

Eager, what the operations of the part would save for their derivatives is kept until the function
returns, for gradients that it takes itself, and then only counted; when backward asks for the first
of it, the function runs again and its saved tensors are taken in the same order
(``flamec.autograd.saved_tensors``). While a function is compiled the part becomes a
region of the graph, whose values are computed again by ``ir.passes.rematerialize``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from flamec import random
from flamec.autograd.saved_tensors import using_hooks
from flamec.errors import user_location
from flamec.state import enable_grad, thread
from flamec.structures import flatten
from flamec.tape import Saved, restore
from flamec.tensor import Tensor

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential"]


class CheckpointError(RuntimeError):
    """A function did something else when it was run again."""


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[Any, Any]] | None = None,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    preserve_rng_state: bool = True,
    **kwargs: Any,
) -> Any:
    """``function(*args, **kwargs)``, whose inner values are computed again in backward.

    The function must do the same both times. ``preserve_rng_state``: random numbers are the
    same. ``context_fn`` gives two context managers, for the first and the second run (eager
    only). ``determinism_check="none"`` leaves out the comparison of shapes and dtypes.
    ``use_reentrant``, ``debug`` and ``early_stop`` are accepted; there is one implementation, which
    has none of the restrictions that the reentrant one has in PyTorch.
    """
    if determinism_check not in ("default", "none"):
        raise ValueError(
            f"determinism_check should be one of 'default', 'none', not {determinism_check!r}"
        )
    if thread.trace is not None:
        return _traced(function, args, kwargs)
    if not thread.grad_enabled:
        return function(*args, **kwargs)
    forward: Any
    again: Any
    forward, again = (
        (contextlib.nullcontext(), contextlib.nullcontext()) if context_fn is None else context_fn()
    )
    part = _Part(function, args, kwargs, again, preserve_rng_state, determinism_check == "default")
    with forward, using_hooks(part.pack, part.unpack):
        result = function(*args, **kwargs)
    part.held.clear()
    return result


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Modules one after the other in ``segments`` parts, all but the last checkpointed."""
    modules = list(functions.children()) if hasattr(functions, "children") else list(functions)
    size = len(modules) // segments

    def run(start: int, stop: int) -> Callable[[Any], Any]:
        def forward(value: Any) -> Any:
            for module in modules[start:stop]:
                value = module(value)
            return value

        return forward

    for start in range(0, size * (segments - 1), size):
        input = checkpoint(run(start, start + size), input, use_reentrant=use_reentrant, **kwargs)
    return run(size * (segments - 1), len(modules))(input)


class _Part:
    """One checkpointed call: counts what is saved, and finds it again."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Any,
        preserve_rng: bool,
        check: bool,
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.context = context
        self.check = check
        self.types: list[Any] = []
        self.held: dict[int, Saved] = {}  # while the function runs for the first time
        self.found: dict[int, Saved] = {}
        self.autocast = thread.autocast
        self.location = user_location()
        tensors = [t for t in flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        self.inputs = [Saved(t, None) for t in tensors]
        devices = {t._type.device for t in tensors}
        self.random = random.default_states(devices) if preserve_rng else None

    def pack(self, tensor: Tensor) -> int:
        self.held[len(self.types)] = Saved(tensor, None)
        self.types.append(tensor._type)
        return len(self.types) - 1

    def unpack(self, number: int) -> Tensor:
        if number in self.held:
            return self._restored(self.held[number])
        if number not in self.found:
            self._run_again()
        return self._restored(self.found.pop(number))

    def _restored(self, saved: Saved) -> Tensor:
        return restore(saved, "an operation in a checkpointed function", self.location, None)

    def _run_again(self) -> None:
        for saved in self.inputs:
            restore(saved, "a checkpointed function", self.location, None)
        found: list[Saved] = []

        def keep(tensor: Tensor) -> Saved:
            found.append(Saved(tensor, None))
            return found[-1]

        before, thread.autocast = thread.autocast, self.autocast
        try:
            with (
                enable_grad(),
                random.states_kept(self.random),
                self.context,
                using_hooks(keep, self._restored),
            ):
                self.function(*self.args, **self.kwargs)
        finally:
            thread.autocast = before
        if len(found) != len(self.types):
            raise CheckpointError(
                "checkpoint: a different number of tensors was saved during the original forward "
                f"and recomputation (at {self.location}): {len(self.types)} and {len(found)}"
            )
        for position, (type, saved) in enumerate(zip(self.types, found, strict=True)):
            if self.check and type != saved.type:
                raise CheckpointError(
                    "checkpoint: recomputed values have different metadata than during the forward "
                    f"pass (at {self.location}): tensor {position} was {type}, now {saved.type}"
                )
        self.found = dict(enumerate(found))


def _traced(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run the function and mark its nodes as a region of the trace."""
    trace = thread.trace
    assert trace is not None
    for tensor in flatten((args, kwargs))[0]:
        if isinstance(tensor, Tensor):
            trace.value_of(tensor)
    start = len(trace.builder.nodes)
    result = function(*args, **kwargs)
    outputs = [trace.value_of(t) for t in flatten(result)[0] if isinstance(t, Tensor)]
    nodes = trace.builder.nodes[start:]
    kept = {
        value
        for value, source in zip(trace.builder.graph_inputs, trace.sources, strict=True)
        if source.kind != "argument"
    }
    trace.parts.add(nodes, kept, outputs, trace.roots)
    return result
