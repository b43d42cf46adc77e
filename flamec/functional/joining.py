"""Tensors put together and taken apart along a dimension: cat, stack, split.

In: tensors, for joining promoted to a common dtype. Out: copies where tensors are
joined, views where one is split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import apply, apply_named, tensor_builder
from flamec.errors import OperationError, OperationTypeError, OutOfRangeError, user_location
from flamec.functional.arguments import public
from flamec.functional.autocasting import WIDEST, autocasts
from flamec.functional.dimensions import dimension, size
from flamec.functional.eager_view import eager_view
from flamec.functional.places import is_python_int, narrowed, place_of, shown
from flamec.functional.promotion import promote_types
from flamec.functional.shape import (
    clone,
    movedim,
    owned,
    regroup,
    unsqueeze,
    window,
    with_rank,
)
from flamec.fusing import fused
from flamec.ir.op import lookup
from flamec.ir.shape import (
    Dim,
    equal,
    format_shape,
    less,
    maximum,
    minimum,
    product,
    structurally_equal,
)
from flamec.ir.types import int64
from flamec.remembered_views import remembered
from flamec.tensor import Tensor
from flamec.values import concrete_array

_CONCATENATE = lookup("concatenate")


# joining ----------------------------------------------------------------------------
def _tensors(name: str, tensors: Any) -> list[Tensor]:
    if isinstance(tensors, Tensor) or not isinstance(tensors, (tuple, list)):
        raise OperationTypeError(
            f"{name}(): argument 'tensors' must be a tuple or list of Tensors, not "
            f"{type(tensors).__name__} (at {user_location()})"
        )
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise OperationTypeError(
                f"{name}(): expected Tensor as element {position}, but got "
                f"{type(tensor).__name__} (at {user_location()})"
            )
    if not tensors:
        raise OperationError(
            f"{name}(): expected a non-empty list of Tensors (at {user_location()})"
        )
    return list(tensors)


@autocasts(cpu=WIDEST)
@public
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along ``dim``, in their common dtype.

    Tensors of shape [0] are left out, whatever the shape of the others.
    """
    given = _tensors("cat", tensors)
    dtype = given[0]._type.dtype
    for t in given:
        if t._type.dtype is not dtype or len(t._type.shape) < 2:
            break
    else:
        rank = len(given[0]._type.shape)
        known = dim.__class__ is int and 0 <= dim < rank
        axis = dim if known else dimension("cat", dim, rank)
        alike: Tensor = apply(_CONCATENATE, given, {"axis": axis})
        return alike
    for position, tensor in enumerate(given):
        dtype = promote_types(dtype, tensor._type.dtype)
        if not tensor._type.shape:
            raise OperationError(
                f"cat(): zero-dimensional tensor (at position {position}) cannot be concatenated "
                f"(at {user_location()})"
            )
    kept = [t for t in given if not _is_legacy_empty(t._type.shape)]
    kept = kept or given[:1]
    axis = dimension("cat", dim, len(kept[0]._type.shape))
    result: Tensor = apply_named(
        "concatenate", *(tensor_builder.cast(t, dtype) for t in kept), axis=axis
    )
    return result


def _is_legacy_empty(shape: Sequence[Dim]) -> bool:
    return len(shape) == 1 and structurally_equal(shape[0], 0)


concat = concatenate = cat


@autocasts(cpu=WIDEST)
@public
def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new dimension ``dim``."""
    given = _tensors("stack", tensors)
    first = given[0]._type.shape
    for position, tensor in enumerate(given):
        shape = tensor._type.shape
        if len(shape) != len(first) or not all(map(equal, shape, first)):
            raise OperationError(
                f"stack expects each tensor to be equal size, but got {format_shape(first)} at "
                f"entry 0 and {format_shape(shape)} at entry {position} (at {user_location()})"
            )
    axis = dimension("stack", dim, len(first) + 1)
    return cat([unsqueeze(t, axis) for t in given], axis)


@public
def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1, one-dimensional tensors along dimension 0."""
    given = [with_rank(1, t) for t in _tensors("hstack", tensors)]
    return cat(given, 0 if len(given[0]._type.shape) == 1 else 1)


@public
def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 0, after one-dimensional tensors became rows."""
    return cat([with_rank(2, t) for t in _tensors("vstack", tensors)], 0)


row_stack = vstack


@public
def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 2, after ``atleast_3d``."""
    return cat([with_rank(3, t) for t in _tensors("dstack", tensors)], 2)


@public
def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Joined along dimension 1, after one-dimensional tensors became columns."""
    return cat(
        [
            regroup(t, (product(t._type.shape), 1)) if len(t._type.shape) <= 1 else t
            for t in _tensors("column_stack", tensors)
        ],
        1,
    )


# splitting --------------------------------------------------------------------------
def _axis_with_size(name: str, input: Tensor, dim: int) -> tuple[int, Dim]:
    shape = input._type.shape
    if not shape:
        raise OutOfRangeError(
            f"{name} expects at least a 1-dimensional tensor (at {user_location()})"
        )
    axis = dimension(name, dim, len(shape))
    return axis, shape[axis]


def _windows(input: Tensor, axis: int, counts: Sequence[Dim]) -> tuple[Tensor, ...]:
    before = (slice(None),) * axis
    parts = []
    start: Dim = 0
    for count in counts:
        end = start + count
        part = eager_view(input, (*before, slice(start, end)))
        parts.append(window(input, axis, start, count) if part is None else part)
        start = end
    return tuple(parts)


def split(
    tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Views of consecutive parts: of one size (the last may be smaller), or of given sizes."""
    axis, extent = _axis_with_size("split", tensor, dim)
    if isinstance(split_size_or_sections, (tuple, list)):
        counts = [size("split", s) for s in split_size_or_sections]
        if any(isinstance(c, int) and c < 0 for c in counts):
            raise OperationError(
                f"split: sizes must not be negative, got {counts} (at {user_location()})"
            )
        if not equal(sum(counts, start=0), extent):
            raise OperationError(
                f"split: sizes {counts} do not sum exactly to {extent}, the size of dimension "
                f"{axis} of {format_shape(tensor._type.shape)} (at {user_location()})"
            )
        return _windows(tensor, axis, counts)
    part = size("split", split_size_or_sections)
    if less(part, 0):
        raise OperationError(f"split: split_size must not be negative (at {user_location()})")
    if equal(part, 0) and not equal(extent, 0):
        raise OperationError(
            f"split: split_size 0 for a dimension of size {extent} (at {user_location()})"
        )
    count = _number_of_parts(extent, part)
    last = extent - part * (count - 1)
    return _windows(tensor, axis, [*[part] * (count - 1), last])


def _number_of_parts(extent: Dim, part: Dim) -> int:
    """How many parts of a size there are, the last one perhaps smaller: of sizes that vary only
    this is a condition."""
    count = 1
    while less(part * count, extent):
        count += 1
    return count


def unsafe_split(input: Tensor, split_size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """``split`` in parts of one size."""
    return split(input, split_size, dim)


def split_with_sizes(input: Tensor, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """``split`` with a list of sizes."""
    return split(input, list(split_sizes), dim)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` views of consecutive parts of one size; the last may be smaller."""
    axis, extent = _axis_with_size("chunk", input, dim)
    if chunks <= 0:
        raise OperationError(
            f"chunk expects `chunks` to be greater than 0, got: {chunks} (at {user_location()})"
        )
    if not less(0, extent):
        return _windows(input, axis, [0] * chunks)
    return split(input, (extent + (chunks - 1)) // chunks, axis)


def _inside(place: Dim, extent: Dim) -> Dim:
    """A bound of a slice, which may be counted from the end, as a place from 0 to the end."""
    if less(place, 0):
        return maximum(place + extent, 0)
    return minimum(place, extent)


def tensor_split(
    input: Tensor, indices_or_sections: int | Sequence[int] | Tensor, dim: int = 0
) -> tuple[Tensor, ...]:
    """Views of parts of nearly equal size, or of the parts between given indices."""
    axis, extent = _axis_with_size("tensor_split", input, dim)
    if isinstance(indices_or_sections, Tensor):
        indices_or_sections = concrete_array(indices_or_sections, "tensor_split()").tolist()
    if isinstance(indices_or_sections, (tuple, list)):
        places = [size("tensor_split", i) for i in indices_or_sections]
        bounds = [_inside(place, extent) for place in places]
        return tuple(
            window(input, axis, a, maximum(b - a, 0))
            for a, b in zip([0, *bounds], [*bounds, extent], strict=True)
        )
    sections = size("tensor_split", indices_or_sections)
    if not isinstance(sections, int) or sections <= 0:
        raise OperationError(
            f"tensor_split: number of sections must be larger than 0, got {sections} "
            f"(at {user_location()})"
        )
    shares = [(extent + (sections - 1 - i)) // sections for i in range(sections)]
    return _windows(input, axis, shares)


def hsplit(input: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """``tensor_split`` of dimension 1, of one-dimensional tensors of dimension 0."""
    return _even_split("hsplit", input, indices_or_sections, min(len(input._type.shape) - 1, 1), 1)


def vsplit(input: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """``tensor_split`` of dimension 0."""
    return _even_split("vsplit", input, indices_or_sections, 0, 2)


def dsplit(input: Tensor, indices_or_sections: int | Sequence[int]) -> tuple[Tensor, ...]:
    """``tensor_split`` of dimension 2."""
    return _even_split("dsplit", input, indices_or_sections, 2, 3)


def _even_split(
    name: str, input: Tensor, parts: int | Sequence[int], axis: int, rank: int
) -> tuple[Tensor, ...]:
    shape = input._type.shape
    if len(shape) < rank:
        raise OperationError(
            f"{name} requires a tensor with at least {rank} dimension, but got a tensor with "
            f"{len(shape)} dimensions (at {user_location()})"
        )
    if isinstance(parts, int) and (parts <= 0 or not equal(shape[axis] % parts, 0)):
        raise OperationError(
            f"{name}: the size {shape[axis]} of dimension {axis} is not divisible by {parts} "
            f"(at {user_location()})"
        )
    return tensor_split(input, parts, axis)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """A view of each slice along ``dim``, without that dimension."""
    axis, extent = _axis_with_size("unbind", input, dim)
    before = (slice(None),) * axis
    found = []
    for i in range(int(extent)):
        part = eager_view(input, (*before, i))
        found.append(select(input, axis, i) if part is None else part)
    return tuple(found)


@remembered
def narrow(input: Tensor, dim: int, start: Any, length: Any) -> Tensor:
    """A view of ``length`` elements of ``dim`` from ``start`` on."""
    axis, extent = _axis_with_size("narrow", input, dim)
    first, count = (v if is_python_int(v) else size("narrow", v) for v in (start, length))
    found = narrowed(first, count, extent)
    if found is None:
        place = shown(start)
        if isinstance(place, int) and isinstance(extent, int) and not -extent <= place <= extent:
            raise IndexError(
                f"narrow: start {place} is out of range of dimension {axis} (expected to be in "
                f"[{-extent}, {extent}]) (at {user_location()})"
            )
        raise OperationError(
            f"narrow: start ({shown(start)}) + length ({shown(length)}) exceeds dimension size "
            f"({extent}) of dimension {axis}, or is negative (at {user_location()})"
        )
    return window(input, axis, *found)


@public
@fused("start", "length")
def narrow_copy(input: Tensor, dim: int, start: Any, length: Any) -> Tensor:
    """``narrow`` as a copy."""
    return clone(narrow(input, dim, start, length))


def select(input: Tensor, dim: int, index: Any) -> Tensor:
    """A view of element ``index`` of ``dim``, without that dimension."""
    shape = input._type.shape
    if not shape:
        raise IndexError(f"select() cannot be applied to a 0-dim tensor (at {user_location()})")
    axis = dimension("select", dim, len(shape))
    extent = shape[axis]
    place = place_of(index if is_python_int(index) else size("select", index), extent)
    if place is None:
        raise IndexError(
            f"select(): index {shown(index)} out of range for tensor of size {format_shape(shape)} "
            f"at dimension {axis} (at {user_location()})"
        )
    part = window(input, axis, place, 1)
    return regroup(part, (*shape[:axis], *shape[axis + 1 :]))


MOST_OVERLAPPING = 16  # windows that an element is in, whose gradients are added one by one


def unfold(input: Tensor, dimension: int, size: Dim, step: int) -> Tensor:
    """All windows of ``size`` elements of a dimension, ``step`` apart, as a new last dimension.

    A copy, unlike PyTorch's view: windows may overlap.
    """
    shape = input._type.shape
    if not shape:
        return regroup(unfold(regroup(input, (1,)), dimension, size, step), (size,))
    axis = _dimension("unfold", dimension, len(shape))
    extent = shape[axis]
    size, step = _size("unfold", size), int(step)
    if less(size, 0) or step <= 0 or less(extent, size):
        raise OperationError(
            f"unfold: windows of size {size} with step {step} do not fit dimension {axis} of size "
            f"{extent} (at {user_location()})"
        )
    count = (extent - size) // step + 1
    known = isinstance(extent, int) or step == 1
    if isinstance(size, int) and 0 < size <= MOST_OVERLAPPING * step and known:
        view = apply_named(
            "windows", input, axes=(axis,), counts=(count,), sizes=(size,), steps=(step,),
            dilations=(1,),
        )  # fmt: skip
        return clone(movedim(view, axis + 1, -1))
    device = input._type.device
    grid = {"shape": (count, size), "dtype": int64, "device": device}
    b = tensor_builder
    starts = b.iota(axis=0, **grid)
    places = b.add(b.mul(starts, b.constant(step, starts._type)), b.iota(axis=1, **grid))
    windows = apply_named("index", movedim(input, axis, 0), places)
    return owned(movedim(windows, (0, 1), (axis, -1)))


_dimension, _size = dimension, size  # ``unfold`` has arguments of these names


def _split_method(
    self: Tensor, split_size: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """``flamec.split``: views of consecutive parts."""
    return split(self, split_size, dim)


TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "split": _split_method,
    "unsafe_chunk": chunk,
    "unsafe_split": unsafe_split,
    "unsafe_split_with_sizes": split_with_sizes,
}
TENSOR_METHODS |= {
    function.__name__: function
    for function in (
        chunk,
        dsplit,
        hsplit,
        narrow,
        narrow_copy,
        select,
        split_with_sizes,
        tensor_split,
        unbind,
        unfold,
        vsplit,
    )
}
