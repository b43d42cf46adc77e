"""Histories that begin behind a detach step while a function is traced.

What is written to ``x.detach()`` changes the memory of ``x``, and of all its views, but not what
``x`` is a function of: only tensors behind the same step have that history. In: a trace, and
tensors behind a detach step. Out: their values; the step holds the history (``tape.Detachment``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flamec.ir.graph import Value
from flamec.roots import Root
from flamec.tape import Detachment, history_of
from flamec.tensor import Tensor
from flamec.write_builder import WriteBuilder
from flamec.write_through import with_zero_gradient, write_through

if TYPE_CHECKING:
    from flamec.trace import Trace


def _begun(trace: Trace, own: object) -> tuple[int, Value] | None:
    """The version of the memory and the history that began in a trace; None if none has."""
    if not isinstance(own, Detachment) or own.traced is None or own.traced[0] != trace.serial:
        return None
    return own.traced[1:]


def has_own_history(trace: Trace, tensor: Tensor) -> bool:
    """Whether a tensor is behind a detach step where a history began in this trace."""
    return _begun(trace, history_of(tensor)[0]) is not None


def with_own_history(trace: Trace, tensor: Tensor, root: Root, value: Value) -> Value:
    """``value``, of a tensor that is behind a detach step, with the history that began there."""
    own, steps = history_of(tensor)
    known = _begun(trace, own)
    if known is None:
        return value
    version, begun = known
    seen = trace.seen_through(begun, steps)
    if version == root.version:
        return seen
    result = WriteBuilder(trace).overwrite(value, seen)
    trace.tracked.add(result)
    return result


def begin_own_history(
    trace: Trace, target: Tensor, root: Root, before: Value, source: Value
) -> None:
    """``source`` was stored behind a detach step; what was there was seen in ``before``."""
    own, steps = history_of(target)
    assert isinstance(own, Detachment)
    known = _begun(trace, own)
    if known is None and source not in trace.tracked:
        return
    builder = WriteBuilder(trace)
    value = builder.convert(source, dtype=source.type.dtype)
    if known is None:
        ahead = trace.relative_steps(target, root)
        base = trace.seen_through(before, ahead[: len(ahead) - len(steps)])
    else:
        _, base = known
    new = write_through(builder, base, steps, value)
    if known is not None and not steps and source not in trace.tracked:
        new = with_zero_gradient(builder, new, base)
    trace.tracked.add(new)
    own.traced = trace.serial, root.version, new
