"""Copies of a tensor with other elements in one of its slices: select_scatter, slice_scatter."""

from __future__ import annotations

from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.dimensions import dimension
from flamec.functional.places import place_of
from flamec.functional.selection import select
from flamec.functional.shape import clone, regroup
from flamec.ir.shape import equal, format_shape
from flamec.tensor import Tensor


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of ``input`` with ``input.select(dim, index)`` replaced by ``src``."""
    axis = dimension("select_scatter", dim, len(input._type.shape))
    position = (slice(None),) * axis + (index,)
    view = select(input, position).view
    _same_shape("select_scatter", src, view)
    shape = input._type.shape
    start = place_of(index, shape[axis])
    rank = range(len(shape))
    result: Tensor = apply_named(
        "slice_update",
        input,
        tensor_builder.cast(regroup(src, (*shape[:axis], 1, *shape[axis + 1 :])), input.dtype),
        starts=tuple(start if i == axis else 0 for i in rank),
        steps=(1,) * len(shape),
    )
    return result


def _same_shape(name: str, src: Tensor, view: Tensor) -> None:
    have, want = src._type.shape, view._type.shape
    if len(have) != len(want) or not all(map(equal, have, want)):
        raise OperationError(
            f"{name}: expected src to have a size equal to the slice of self: src "
            f"{format_shape(have)}, slice {format_shape(want)} (at {user_location()})"
        )


@public
def slice_scatter(
    input: Tensor,
    src: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """A copy of ``input`` with the elements ``start:end:step`` of ``dim`` replaced by ``src``."""
    axis = dimension("slice_scatter", dim, len(input._type.shape))
    view = select(input, (slice(None),) * axis + (slice(start, end, step),)).view
    _same_shape("slice_scatter", src, view)
    if view is input:
        return clone(tensor_builder.cast(src, input.dtype))
    attributes = view._steps[len(input._steps)][1]
    result: Tensor = apply_named(
        "slice_update",
        input,
        tensor_builder.cast(src, input.dtype),
        starts=attributes["starts"],
        steps=attributes["steps"],
    )
    return result


TENSOR_METHODS = {function.__name__: function for function in (select_scatter, slice_scatter)}
