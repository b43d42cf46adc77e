"""Views of arrays on a GPU that were made before, by the same function with the same arguments.

In: a function that gives a view of its first operand. Out: the function, which in eager mode looks
up where the view of an array of this type with these strides lies, instead of computing it and
checking its arguments again. Invariant: what is looked up is a view that the function made by one
operation of an operand of the same type, which lay alike, with equal arguments (integers, or tuples
of integers); it is recorded for autograd like any other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flamec.device_array import DeviceArray, Shape
from flamec.ir.types import TensorType
from flamec.state import thread
from flamec.tape import DETACH, cut_off, record
from flamec.tensor import Tensor, ViewStep

F = TypeVar("F", bound=Callable[..., Any])

_MOST_VIEWS = 4096


@dataclass(slots=True)
class _View:
    """``offset`` in bytes behind the operand's first element."""

    type: TensorType
    shape: Shape
    strides: Shape
    offset: int
    c_contiguous: bool
    step: ViewStep


_known: dict[Any, _View] = {}  # by function, operand's type and strides, and arguments


def remembered(function: F) -> F:
    """Declare that a function's result depends on its first operand's type and strides, and on
    its other arguments, alone."""

    @functools.wraps(function)
    def wrapper(input: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs or thread.trace is not None or not isinstance(input, Tensor):
            return function(input, *args, **kwargs)
        array = input._array
        if array.__class__ is not DeviceArray or not (
            (len(args) == 1 and args[0].__class__ is int) or _are_integers(args)
        ):
            return function(input, *args)
        type = input._type
        strides = None if array.c_contiguous else array.strides
        key = (function, type._number or type.number, strides, args)
        known = _known.get(key)
        if known is not None:
            return _again(input, array, known)
        result = function(input, *args)
        made = _described(input, array, result)
        if made is not None:
            if len(_known) >= _MOST_VIEWS:
                _known.clear()
            _known[key] = made
        return result

    made: Any = wrapper
    return made


def _are_integers(arguments: tuple[Any, ...]) -> bool:
    """Whether equal arguments mean the same: 1, 1.0 and True are equal."""
    for value in arguments:
        kind = value.__class__
        if kind is not int and not (kind is tuple and _are_integers(value)):
            return False
    return True


def _again(input: Tensor, array: DeviceArray, view: _View) -> Tensor:
    made = DeviceArray(
        array.device,
        view.shape,
        array.dtype,
        array.address + view.offset,
        array.memory,
        view.strides,
        view.c_contiguous,
    )
    if not thread.grad_enabled:
        steps = (*input._steps, view.step, cut_off(view.type))
        return Tensor._from_array(made, view.type, input._storage, steps)
    storage = input._storage
    output = Tensor._from_array(made, view.type, storage, (*input._steps, view.step))
    if input._requires_grad or input._value is not None or storage.value is not None:
        op, attributes = view.step
        record(op, (input,), attributes, (output,))
    return output


def _described(input: Tensor, array: DeviceArray, result: Any) -> _View | None:
    """What ``_again`` needs; None for a copy, the operand itself, or a view by several steps."""
    if result is input or not isinstance(result, Tensor):
        return None
    made: Any = result._array
    if result._storage is not input._storage or made.memory is not array.memory:
        return None
    steps = result._steps[len(input._steps) :]
    step, *rest = steps
    if rest not in ([], [DETACH]) or step[0] is DETACH[0]:
        return None
    offset = made.address - array.address
    return _View(result._type, made.shape, made.strides, offset, made.c_contiguous, step)
