"""Leaves whose ``requires_grad`` a traced function switches.

In: a trace, a tensor, the new flag. Out: the value that the tensor has from here on. Operations
that are there already go on as they were: what they computed from a leaf is tracked, or not, as
the flag was then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flamec.errors import unrepeatable
from flamec.tensor import Tensor
from flamec.write_builder import WriteBuilder

if TYPE_CHECKING:
    from flamec.ir.graph import Value
    from flamec.roots import Root
    from flamec.trace import Trace


def switch(trace: Trace, tensor: Tensor, flag: bool) -> None:
    """Let a leaf begin or end to be one. Its ``_requires_grad`` is still as it was.

    CompileError for a view that is switched off, and while the gradient is still to come.
    """
    root = trace.root_of(tensor)
    trace.gradients.use(tensor)
    if tensor._steps[len(root.steps) :]:
        if not flag:
            raise unrepeatable("requires_grad_(False) of a view")
        seen = trace.value_of(tensor)
        if _passes_gradients_on(seen):
            trace.remember(tensor, root, WriteBuilder(trace).detach(seen))
        return
    value = root.value
    if not flag:
        if tensor._requires_grad:
            cut = WriteBuilder(trace).detach(value)
            trace.cut_leaves[cut] = value
            _replace(root, cut)
        return
    if value in trace.cut_leaves:  # it is what it was before it was switched off
        _replace(root, trace.cut_leaves[value])
    elif any(value in node.inputs for node in trace.builder.nodes):
        _replace(root, WriteBuilder(trace).detach(value))
        trace.late_leaves.add(root.value)
    elif _passes_gradients_on(value):
        _replace(root, WriteBuilder(trace).detach(value))


def _passes_gradients_on(value: Value) -> bool:
    """Whether it was computed, without recording, by what has a derivative."""
    return value.node is not None and value.node.op.derivative is not None


def cut_off(trace: Trace, tensor: Tensor) -> None:
    """Forget what a tensor was computed from (``detach_``)."""
    if tensor._requires_grad:
        raise unrepeatable("detach_ of a leaf")
    root = trace.root_of(tensor)
    _replace(root, WriteBuilder(trace).detach(root.value))


def _replace(root: Root, value: Value) -> None:
    root.value = value
    root.version += 1
