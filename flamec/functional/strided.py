"""``as_strided``: a view of the storage given by sizes, strides and an offset.

Possible where the view is a chain of the view primitives: the strides, largest
first, divide one another and no two elements share a place (a stride of 0
repeats). Anything else is refused, because a copy would not be a view.
"""

from __future__ import annotations

from collections.abc import Sequence

from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import OperationError, user_location
from flamec.functional.dimensions import sizes
from flamec.functional.shape import clone, regroup, window
from flamec.ir.shape import format_shape, product, structurally_equal
from flamec.layout import ask, is_row_major, layout
from flamec.state import thread
from flamec.tape import cut_off, is_detached
from flamec.tensor import ExampleStorage, Tensor


def as_strided(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """A view of the storage of ``input``; strides and offset count elements.

    Gradients go to the elements of ``input`` alone, until the memory is written to: then the view
    is one of the storage. Raises RuntimeError where the view reaches outside the storage (in
    ``func.vmap``: the elements of an example), and where its elements overlap.
    """
    shape = [int(d) for d in sizes("as_strided", (tuple(size),))]
    strides = [int(s) for s in sizes("as_strided", (tuple(stride),))]
    if len(shape) != len(strides) or any(d < 0 for d in (*shape, *strides)):
        raise OperationError(
            f"as_strided: size {shape} and stride {strides} must be of one length and not negative "
            f"(at {user_location()})"
        )
    ask(input, "storage")
    first = int(layout(input)[1] if storage_offset is None else storage_offset)
    last = first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))
    input = _once(input)
    own, start = _own_elements(input)
    if own is not None and (0 in shape or (start <= first and last < start + own.shape[0])):
        return _composed(own, shape, strides, first - start)
    flat = flat_storage(input)
    if 0 not in shape and (first < 0 or last >= int(flat._type.shape[0])):
        raise OperationError(
            f"as_strided: size {shape}, stride {strides}, storage offset {first} are out of "
            f"bounds for storage of {flat._type.shape[0]} elements (at {user_location()})"
        )
    view = _composed(flat, shape, strides, first)
    if thread.grad_enabled and input.requires_grad:
        from flamec.written_histories import follow_part  # few programs come here

        follow_part(view, input)
    return view


def _once(input: Tensor) -> Tensor:
    """The elements of a tensor without those that an expanded dimension repeats."""
    for axis, (size, stride) in enumerate(zip(input._type.shape, layout(input)[0], strict=True)):
        if structurally_equal(stride, 0) and not structurally_equal(size, 0):
            input = window(input, axis, 0, 1)
    return input


def _own_elements(input: Tensor) -> tuple[Tensor | None, int]:
    """The elements of a tensor as they lie in memory, if they are in a row there, in whatever
    order of dimensions; and the place of the first in the storage."""
    own, start = layout(input)
    strides = [int(s) for s in own]  # a program for each size
    shape = [int(d) for d in input._type.shape]
    order = sorted(range(len(shape)), key=lambda i: (-strides[i], -shape[i]))
    if not is_row_major([shape[i] for i in order], tuple([strides[i] for i in order])):
        return None, int(start)
    if order != sorted(order):
        input = apply_named("permute", input, axes=tuple(order))
    return regroup(input, (product(shape),)), int(start)


def flat_storage(input: Tensor) -> Tensor:
    """All that lies in the memory of a tensor, in a row."""
    storage = input._storage
    if isinstance(storage, ExampleStorage):
        own, begin = layout(input)
        raise OperationError(
            "as_strided: in func.vmap a view has elements of its example alone, and these must lie "
            f"in a row; the example of shape {format_shape(input._type.shape)} has strides "
            f"{list(own)} and storage offset {begin} (at {user_location()})"
        )
    if storage.base is not None and not is_row_major(
        storage.base_type.shape, tuple(s // storage.base.itemsize for s in storage.base.strides)
    ):
        raise OperationError(
            "as_strided: the storage comes from a NumPy array that is not contiguous "
            f"(at {user_location()})"
        )
    steps = (cut_off(storage.base_type),) if is_detached(input._steps) else ()
    if not input._steps:
        base = input
    elif input._trace is not None and thread.trace is not None:
        base = Tensor._from_trace(thread.trace, storage.base_type, storage, steps)
    else:
        assert storage.base is not None
        base = Tensor._from_array(storage.base, storage.base_type, storage, steps)
    return regroup(base, (product(base._type.shape),))


def _composed(flat: Tensor, shape: list[int], strides: list[int], offset: int) -> Tensor:
    """Slices and reshapes of ``flat``, from the largest stride to the smallest.

    The last dimension of ``view`` is what is left of the storage: it is cut into rows of
    one stride each, of which the next stride cuts a part.
    """
    order = sorted(
        (i for i, (d, s) in enumerate(zip(shape, strides, strict=True)) if s > 0 and d > 1),
        key=lambda i: -strides[i],
    )
    view, total = flat, int(flat._type.shape[0])
    if 0 in shape:
        return regroup(window(flat, 0, 0, 0), shape)
    for position, axis in enumerate(order):
        count, step = shape[axis], strides[axis]
        block = 1 + sum((shape[i] - 1) * strides[i] for i in order[position + 1 :])
        if block > step:
            raise _not_a_view(shape, strides)
        if block == 1:
            view = window(view, position, offset, count, step)
            break
        early = max(0, offset + count * step - total)  # the last row would end after the storage
        if early > offset:
            raise _not_a_view(shape, strides)
        view = window(view, position, offset - early, count * step)
        view = regroup(view, (*view._type.shape[:-1], count, step))
        offset, total = early, step
    else:
        view = window(view, len(order), offset, 1)
        view = regroup(view, view._type.shape[:-1])
    arranged = apply_named("permute", view, axes=tuple(order.index(i) for i in sorted(order)))
    apart = tuple(d if i in order else 1 for i, d in enumerate(shape))
    arranged = regroup(arranged, apart)
    if apart == tuple(shape):
        return arranged
    result: Tensor = apply_named("expand", arranged, shape=tuple(shape))
    return result


def _not_a_view(shape: list[int], strides: list[int]) -> OperationError:
    return OperationError(
        f"as_strided: size {format_shape(shape)} with stride {strides} has overlapping elements or "
        "cannot be made from slices and reshapes; use unfold(), or reshape() and slices "
        f"(at {user_location()})"
    )


def as_strided_scatter(
    input: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """A copy of ``input`` in which ``src`` is what ``as_strided`` shows."""
    result = clone(input)
    view = as_strided(result, size, stride, storage_offset)
    if not all(map(structurally_equal, view._type.shape, src._type.shape)) or view.ndim != src.ndim:
        raise OperationError(
            "as_strided_scatter: expected src to have the size of the view, "
            f"{format_shape(view._type.shape)}, but it has {format_shape(src._type.shape)} "
            f"(at {user_location()})"
        )
    write(view, tensor_builder.cast(src, input._type.dtype), "as_strided_scatter")
    return result


TENSOR_METHODS = {"as_strided": as_strided, "as_strided_scatter": as_strided_scatter}
