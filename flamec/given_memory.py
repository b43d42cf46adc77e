"""``tensor.data = other`` while a function is traced: a write, where that is the same.

Eager, the tensor lies in the memory of ``other`` from then on, and whoever shared its old memory
keeps that. A program cannot exchange memory; it writes ``other``'s values. That is the same if
nobody else is in the old memory but tensors that the function made (``backup = p.data``), which get
memory of their own with the old values, and if it made ``other``'s itself: then ``other`` is moved
into the tensor's memory, so that the two stay one. Everything else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from flamec.errors import CompileError, user_location
from flamec.roots import Root
from flamec.tensor import Storage, Tensor, ViewStep

if TYPE_CHECKING:
    from flamec.trace import Trace

__all__ = ["move_into", "refuse_exchange", "require_unchanged", "require_write", "undetached"]


def refuse_exchange(why: str) -> CompileError:
    """The error for an exchange of memory that is no write."""
    return CompileError(
        f"data: {why} (at {user_location()}). A compiled function cannot exchange the memory of "
        "tensors: write values with copy_(), or do this outside"
    )


def undetached(tensor: Tensor) -> tuple[ViewStep, ...]:
    """A view's steps without those that only cut it off from its history."""
    return tuple(step for step in tensor._steps if step[0].name != "detach")


def _others(tensor: Tensor, tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """Those of some tensors that lie in the memory of one, beside it."""
    found = [t for t in tensors if t is not None and t is not tensor]
    return [t for t in found if t._storage is tensor._storage]


def _made(trace: Trace, tensor: Tensor) -> list[Tensor]:
    """Tensors that the function made in a tensor's memory."""
    return _others(tensor, (ref() for ref in trace.created))


def _met(trace: Trace, tensor: Tensor) -> list[Tensor]:
    """Tensors from outside, arguments and others that were used, in a tensor's memory."""
    position = trace.root_of(tensor).input_position
    first = None
    if position is not None and trace.sources[position].kind == "captured":
        first = trace.sources[position].tensor
    arguments = (ref() for ref in trace.arguments)
    return _others(tensor, (*trace.sharing, *arguments, first))


def _in_state(trace: Trace, tensor: Tensor) -> bool:
    """Whether a place of Python's state that varies holds what shares a tensor's memory."""
    for swap in () if trace.host is None else trace.host.swaps.values():
        held = None
        with suppress(LookupError, AttributeError, ValueError):  # there is no more such place
            held = swap.place.get()
        if isinstance(held, Tensor) and held is not tensor and held._storage is tensor._storage:
            return True
    return False


def require_write(trace: Trace, tensor: Tensor, other: Tensor) -> None:
    """CompileError if ``tensor.data = other`` is not the same as a write."""
    if trace.root_of(other).input_position is not None:
        raise refuse_exchange("a tensor would come to share memory that was made outside")
    if _met(trace, tensor) or _in_state(trace, tensor):
        raise refuse_exchange("other tensors share the old memory, and would keep it")
    if made := _made(trace, tensor):
        _keep_values(trace, tensor, made)
    trace.given.add(tensor._storage)
    version = trace.root_of(tensor).version
    trace.apart_since = {
        storage: since
        for storage, since in trace.apart_since.items()
        if storage is not tensor._storage and since != (tensor._storage, version)
    }


def _keep_values(trace: Trace, tensor: Tensor, aliases: list[Tensor]) -> None:
    """Give aliases of a tensor, which leaves the memory that they share, memory of their own."""
    root, own = trace.root_of(tensor), Storage(tensor._storage.base_type)
    for alias in aliases:
        trace.value_of(alias)  # as they are now
    trace.roots[own] = Root(root.steps, root.value, root.type, version=root.version)
    for alias in aliases:
        alias._storage = own


def require_unchanged(trace: Trace, tensor: Tensor) -> None:
    """CompileError if a tensor is used whose memory would, in eager mode, be one with memory that
    was written since: of a tensor that got its values by ``data``."""
    since = trace.apart_since.get(tensor._storage)
    if since is not None and trace.roots[since[0]].version != since[1]:
        raise refuse_exchange("a tensor is used after other memory was written, which is its own")


def move_into(trace: Trace, tensor: Tensor, other: Tensor) -> None:
    """After the write: ``other``, and what shares its memory, lie in the tensor's.

    What is a part of other memory, or is recorded for gradients, which ``data`` cuts off, stays
    apart: as long as neither memory is written (``require_unchanged``).
    """
    sharing = [*_made(trace, other), other]
    is_part = bool(undetached(other)) or any(trace.is_tracked(t) for t in sharing)
    if is_part or other._storage in trace.constants:
        for one, another in ((tensor, other), (other, tensor)):
            trace.apart_since[one._storage] = another._storage, trace.root_of(another).version
        return
    steps = tensor.data._steps  # of a view without history
    for alias in sharing:
        alias._steps = steps + alias._steps
        alias._storage = tensor._storage
        alias._cached = None
