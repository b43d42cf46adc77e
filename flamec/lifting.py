"""Tensors from outside of a trace become inputs of its graph.

In: an argument of the traced function, or a tensor that an operation meets. Out: the ``Root`` of
its memory, whose first value is an input, with the source from which a call gets it. Invariant:
memory has one root, however many of its tensors are met; where its tensors overlap, or several
arguments share it, the input is the memory as a whole.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from flamec.errors import CompileError, user_location
from flamec.host_numbers import expression_of
from flamec.ir.types import TensorType
from flamec.roots import Root, overlaps_itself
from flamec.sources import InputSource
from flamec.tape import APART, tape_value
from flamec.tensor import Storage, Tensor

if TYPE_CHECKING:
    from flamec.trace import Trace


def lift_argument(
    trace: Trace, tensor: Tensor, position: int, type: TensorType, name: str
) -> Tensor:
    """The tensor that stands for an argument while tracing (``type`` may be symbolic)."""
    storage = tensor._storage
    if (known := trace.gradients.stand_in(tensor)) is not None:
        return known
    if storage in trace.base_storages:
        lift_base(trace, storage, position)
        proxy = Tensor._from_trace(trace, tensor._type, storage, tensor._steps)
    else:
        if storage in trace.roots:  # nothing is written there, or the trace starts again
            shared, storage = storage, Storage(storage.base_type, storage.base)
            trace.apart[storage] = shared
        value = trace.add_input(type, InputSource("argument", position, name=name))
        trace.roots[storage] = Root(
            tensor._steps, value, type, input_position=len(trace.sources) - 1
        )
        _met(trace, tensor._array, name or f"argument {position}")
        proxy = Tensor._from_trace(trace, type, storage, tensor._steps)
    proxy._requires_grad = tensor._requires_grad
    trace.arguments.append(weakref.ref(proxy))
    value = trace.value_of(proxy)
    trace.gradients.argument(tensor, position, proxy)
    if tensor._requires_grad:
        trace.mark_leaf(proxy)
        trace.hooks.argument(value, position, tensor)
    elif tape_value(tensor) is not None:
        trace.tracked.add(value)
    return proxy


def lift(trace: Trace, tensor: Tensor) -> Root:
    """The root of the memory of a tensor that the trace meets, as an input that is captured.

    CompileError for a tensor of another trace.
    """
    storage = tensor._storage
    expression = expression_of(tensor)
    if expression is not None:
        return trace.roots.setdefault(storage, expression.state.root(expression))
    if tensor._trace is not None:
        raise CompileError(
            "a tensor made inside one compiled function is used inside another "
            f"(at {user_location()}); return it from the first instead"
        )
    if storage in trace.base_storages or overlaps_itself(tensor):
        return lift_base(trace, storage)
    owner = trace.gradients.owner(tensor)
    held = tensor if owner is None else None
    source = InputSource(
        "captured", held=held, owner=owner, name=str(getattr(tensor, "_name", "") or "")
    )
    value = trace.add_input(tensor._type, source)
    root = Root(tensor._steps, value, tensor._type, input_position=len(trace.sources) - 1)
    trace.roots[storage] = root
    _met(trace, tensor._array, source.name or f"a captured tensor {tensor._type}")
    if tensor._requires_grad:
        trace.leaf_tensors[value] = tensor
        trace.tracked.add(value)
    elif tape_value(tensor) is not None:
        trace.tracked.add(value)
    return root


def lift_base(trace: Trace, storage: Storage, position: int = -1) -> Root:
    """The root of memory that several tensors share, seen as a whole: one input for all of them."""
    if storage not in trace.roots:
        held = storage if position < 0 else None
        value = trace.add_input(
            storage.base_type, InputSource("base", position, storage=held, name="base")
        )
        trace.roots[storage] = Root(
            (), value, storage.base_type, input_position=len(trace.sources) - 1
        )
        _met(trace, storage.base, f"the memory of several views {storage.base_type}")
        if storage.value is not None and storage.value is not APART:
            trace.tracked.add(value)
    return trace.roots[storage]


def _met(trace: Trace, array: Any, name: str) -> None:
    """The last input lies in this array; of the trace of a compiled call."""
    if trace.memory is not None:
        trace.memory.read(len(trace.sources) - 1, array, name)
