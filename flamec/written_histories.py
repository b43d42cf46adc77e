"""Histories of tensors from outside that a compiled function changes in place.

In: a finished trace; in a call, tensors that the program has written to. Out: the values whose
history they have from then on. As in eager mode a change while nothing is recorded, or through
``detach()``, leaves the history as it was, and a leaf stays one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flamec.dispatch import TapeBuilder, written_base
from flamec.errors import user_location
from flamec.ir.graph import Value
from flamec.ir.op import lookup
from flamec.state import thread
from flamec.tape import DETACH, PARTIAL, history_of, hold_history, set_tape_value, tape_value
from flamec.tensor import Tensor
from flamec.write_builder import WriteBuilder
from flamec.write_through import write_through

if TYPE_CHECKING:
    from flamec.trace import Trace

_OVERWRITE = lookup("overwrite")


def written_values(trace: Trace, is_freed: Callable[[Value], bool]) -> dict[int, Value]:
    """By the position of an input, the value that its memory ends with, if that has a history which
    begins in the function and can be gone back."""
    found = {}
    for root in trace.roots.values():
        position, value = root.input_position, root.value
        if position is None or not root.written or value not in trace.tracked:
            continue
        while value.node is not None and value.node.op is _OVERWRITE:
            if value in trace.leaf_tensors:
                break
            value = value.node.inputs[1]  # whose history it has
        if value.node is None or value in trace.leaf_tensors or is_freed(value):
            continue
        if root.value.type.dtype.is_floating_point:
            found[position] = root.value
    return found


def follow_part(view: Tensor, part: Tensor) -> None:
    """Let a view of all that lies in the memory of ``part`` have the history of the elements that
    are its own, until the memory is written to."""
    steps = [step for step in part._steps if step[0] is not DETACH[0]]
    seen = [step for step in view._steps if step[0] is not DETACH[0]]
    trace = thread.trace
    if trace is not None:
        root = trace.root_of(part)
        skipped = len([step for step in root.steps if step[0] is not DETACH[0]])
        builder = WriteBuilder(trace)
        base = builder.detach(root.value)
        value = write_through(builder, base, steps[skipped:], trace.value_of(part))
        trace.tracked.add(value)
        value = trace.seen_through(value, seen[skipped:])
        PARTIAL.add(value)
        trace.remember(view, root, value)
        return
    own = tape_value(part)
    assert own is not None
    tape = TapeBuilder(user_location())
    value = write_through(tape, Value(part._storage.base_type), steps, own)
    for op, attributes in seen:
        value = tape.apply(op, (value,), attributes)
    PARTIAL.add(value)
    set_tape_value(view, value)


def follow(target: Tensor, value: Value) -> None:
    """Let a tensor that was written to have the history of ``value``."""
    storage = target._storage
    holder, steps = history_of(target)
    hold_history(storage, holder, written_base(holder, steps, value))
    target._value, target._value_version = value, storage.version
