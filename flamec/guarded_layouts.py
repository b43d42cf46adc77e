"""Conditions on where the elements of arguments and captured tensors lie in memory.

In: the inputs of a trace and what the function asked of their layouts (``layout.ask``). Out:
conditions that the answers are the same; dense tensors, the usual case, need one flag of the array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.ir.shape import has_symbols
from flamec.layout import base_strides, layout
from flamec.sources import InputSource
from flamec.tensor import Storage, Tensor

if TYPE_CHECKING:
    from flamec.capture import Captured
    from flamec.guard_code import CheckBuilder
    from flamec.trace import Trace


@dataclass(frozen=True)
class AskedLayout:
    """An input whose layout was asked for; ``seen``: whether somebody sees views of it."""

    source: InputSource
    questions: frozenset[str]
    seen: bool


def asked_layouts(trace: Trace) -> list[AskedLayout]:
    """The inputs of a trace whose layouts it asked for."""
    return [
        AskedLayout(
            trace.sources[root.input_position], root.questions, root.written or root.returned
        )
        for root in trace.roots.values()
        if root.input_position is not None and root.questions
    ]


def add_layouts(b: CheckBuilder, captured: Captured) -> None:
    """Guard what was asked; arguments are in variables ``a0``, …"""
    for asked in captured.layouts:
        source, questions = asked.source, asked.questions
        position = source.position if source.kind == "argument" else -1
        tensor = source.tensor if position < 0 else captured.arguments[position]
        if source.kind == "base":
            _add_base(b, source, captured.arguments)
        elif tensor is None or (questions == {"view"} and not asked.seen and _is_dense(tensor)):
            continue  # where another's would be a copy, nobody sees the difference
        elif position >= 0:
            varies = has_symbols(captured.argument_types[position].shape)
            _add_tensor(b, f"a{position}", tensor, questions, source.name, False, varies)
        else:
            name = b.name(tensor) if source.owner is None else f"{b.name(source.owner)}._grad"
            _add_tensor(b, name, tensor, questions, source.name or "tensor", True, False)


def _add_tensor(
    b: CheckBuilder,
    variable: str,
    tensor: Tensor,
    questions: frozenset[str],
    label: str,
    captured: bool,
    varies: bool,
) -> None:
    """``varies``: its sizes are symbols, and the strides of a dense one with them."""
    strides, offset = layout(tensor)
    from_shape = "strides" not in questions or varies or all(d > 1 for d in tensor._type.shape)
    if _is_dense(tensor) and from_shape:
        b.add(f"{variable}._array.flags.c_contiguous", f"{label} is contiguous", captured)
    else:
        text = f"{b.name(_strides)}({variable}) == {b.name(strides)}"
        b.add(text, f"the strides of {label} are {strides}", captured)
    if "offset" in questions or "storage" in questions:
        text = f"{b.name(_offset)}({variable}) == {offset}"
        b.add(text, f"the storage offset of {label} is {offset}", captured)
    if "storage" in questions:
        base = b.name(tensor._storage.base_type)
        b.add(f"{variable}._storage.base_type == {base}", f"the storage of {label}", captured)


def _add_base(b: CheckBuilder, source: InputSource, arguments: Sequence[Any]) -> None:
    held = source.storage
    storage: Storage = arguments[source.position]._storage if held is None else held
    name = f"a{source.position}._storage" if held is None else b.name(storage)
    text = f"{b.name(base_strides)}({name}) == {b.name(base_strides(storage))}"
    b.add(text, "the strides of shared memory", held is not None)


def _is_dense(tensor: Tensor) -> bool:
    return bool(tensor._array.flags.c_contiguous)


def _strides(tensor: Tensor) -> Any:
    return layout(tensor)[0]


def _offset(tensor: Tensor) -> Any:
    return layout(tensor)[1]
