"""``tensor.data = other`` while a function is traced: a write, where that is the same.

Eager, the tensor lies in the memory of ``other`` from then on, and whoever shared its old memory
keeps that. A program cannot exchange memory; it writes ``other``'s values. That is the same if the
function knows nobody else in the old memory, and made ``other``'s itself: then ``other`` is moved
into the tensor's memory, so that the two stay one. Everything else is refused.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from flamec.errors import CompileError, user_location
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace

__all__ = ["move_into", "refuse_exchange", "require_unchanged", "require_write"]


def refuse_exchange(why: str) -> CompileError:
    """The error for an exchange of memory that is no write."""
    return CompileError(
        f"data: {why} (at {user_location()}). A compiled function cannot exchange the memory of "
        "tensors: write values with copy_(), or do this outside"
    )


def _sharing(trace: Trace, tensor: Tensor) -> list[Tensor]:
    """Other tensors of the trace that lie in the memory of one."""
    found = [t for ref in trace.created if (t := ref()) is not None]
    found += trace.sharing
    position = trace.root_of(tensor).input_position
    if position is not None and trace.sources[position].kind == "captured":
        first = trace.sources[position].tensor
        found += [] if first is None else [first]
    return [t for t in found if t is not tensor and t._storage is tensor._storage]


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
    if _sharing(trace, tensor) or _in_state(trace, tensor):
        raise refuse_exchange("other tensors share the old memory, and would keep it")
    trace.given.add(tensor._storage)
    version = trace.root_of(tensor).version
    trace.apart_since = {
        storage: since
        for storage, since in trace.apart_since.items()
        if storage is not tensor._storage and since != (tensor._storage, version)
    }


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
    if other._steps or trace.is_tracked(other) or other._storage in trace.constants:
        for one, another in ((tensor, other), (other, tensor)):
            trace.apart_since[one._storage] = another._storage, trace.root_of(another).version
        return
    steps = tensor.data._steps  # of a view without history
    for alias in [*_sharing(trace, other), other]:
        alias._steps = steps + alias._steps
        alias._storage = tensor._storage
        alias._cached = None
