"""The same elements in another shape or order: reshape, expand, permute; copies.

In: tensors. Out: views that share the tensor's storage wherever PyTorch's do;
``view`` refuses where a copy would be needed, ``reshape`` makes it. Sizes may be
symbolic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import as_dtype, listed
from flamec.functional.dimensions import dimension, dimensions, sequence, size, sizes
from flamec.ir import broadcasting
from flamec.ir.shape import Dim, equal, format_shape, product, structurally_equal
from flamec.ir.types import DType, int64
from flamec.layout import can_view, is_contiguous
from flamec.memory_format import last_channels
from flamec.remembered_views import remembered
from flamec.state import thread
from flamec.tensor import Size, Tensor


# copies -----------------------------------------------------------------------------
def _arranged(name: str, input: Tensor, format: Any, make: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``make`` makes of ``input`` (a copy, or the same) in the order of ``format``."""
    order = last_channels(name, input, format)
    if order is None:
        return make(input)
    last = permute(input, order)
    made = make(last)
    return input if made is last else permute(made, [order.index(i) for i in range(len(order))])


def clone(input: Tensor, *, memory_format: Any = None) -> Tensor:
    """A copy in memory of its own, through which gradients flow, row-major by default."""
    if memory_format is not None:
        return _arranged("clone", input, memory_format, clone)
    result: Tensor = apply_named("convert", input, dtype=input._type.dtype)
    return result


def contiguous(input: Tensor, memory_format: Any = None) -> Tensor:
    """The tensor itself if its elements lie in row-major (or the given) order, else a copy."""
    if memory_format is not None:
        return _arranged("contiguous", input, memory_format, contiguous)
    if is_contiguous(input, seen=False):
        return input
    result = clone(input)
    if thread.trace is not None:
        thread.trace.note_copy(input, result)
    return result


def owned(view: Tensor) -> Tensor:
    """The value of a view that nothing else refers to, in memory of its own."""
    return clone(view) if thread.trace is None else thread.trace.fresh(view)


def apart_from(source: Tensor, result: Tensor) -> Tensor:
    """``result``, in memory of its own where it would be a view of ``source``.

    For what is made of views but is a copy to those who call it, as they may write to it.
    """
    return owned(result) if result._storage is source._storage else result


# reshape ----------------------------------------------------------------------------
def regroup(input: Tensor, shape: Sequence[Dim]) -> Tensor:
    """A reshape that needs no copy, such as adding or removing dimensions of size 1."""
    result: Tensor = apply_named("reshape", input, shape=tuple(shape))
    return result


def reshaped(input: Tensor, shape: Sequence[Dim]) -> Tensor:
    """``input`` in ``shape`` (complete, of as many elements): a view if possible, else a copy."""
    if thread.trace is not None and not can_view(input, shape, seen=False):
        copy = owned(input)
        thread.trace.note_copy(input, copy)
        input = copy
    return regroup(input, shape)


def _completed(name: str, input: Tensor, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """``shape`` with -1 replaced by the size that is left for it."""
    unknown = [i for i, d in enumerate(shape) if isinstance(d, int) and d == -1]
    for dim in shape:
        if isinstance(dim, int) and dim < -1:
            raise OperationError(f"{name}: invalid shape dimension {dim} (at {user_location()})")
    if len(unknown) > 1:
        raise OperationError(f"{name}: only one dimension can be inferred (at {user_location()})")
    total = product(input._type.shape)
    if not unknown:
        if not equal(total, product(shape)):
            raise _wrong_count(name, input, shape)
        return tuple(shape)
    known = product(d for i, d in enumerate(shape) if i != unknown[0])
    if equal(known, 0):
        raise OperationError(
            f"{name}: cannot reshape {format_shape(input._type.shape)} into {format_shape(shape)}: "
            f"the size for -1 can be any value (at {user_location()})"
        )
    rest = total // known
    if not equal(rest * known, total):
        raise _wrong_count(name, input, shape)
    return tuple(rest if i == unknown[0] else d for i, d in enumerate(shape))


def _wrong_count(name: str, input: Tensor, shape: Sequence[Dim]) -> OperationError:
    have = input._type.shape
    return OperationError(
        f"{name}: shape {format_shape(shape)} is invalid for input of size {product(have)} "
        f"(shape {format_shape(have)}) (at {user_location()})"
    )


@listed("shape")
@remembered
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The elements in row-major order in another shape; one size may be -1.

    A view where strides allow it, otherwise a copy.
    """
    return reshaped(input, _completed("reshape", input, sizes("reshape", shape)))


@listed("size")
def sum_to_size(input: Tensor, *size: Any) -> Tensor:
    """The sum over the dimensions along which ``size`` would be stretched to the tensor's shape.

    Integers and bools become int64, unless that is the tensor's shape and has dimensions.
    """
    shape = input._type.shape
    wanted = sizes("sum_to_size", size)
    apart = shape[len(shape) - len(wanted) :]
    if len(wanted) > len(shape) or not all(
        structurally_equal(a, b) or b == 1 for a, b in zip(apart, wanted, strict=True)
    ):
        raise OperationError(
            f"sum_to_size: size {format_shape(wanted)} is not expandable to size "
            f"{format_shape(shape)} (at {user_location()})"
        )
    same = len(wanted) == len(shape) and all(map(structurally_equal, shape, wanted))
    if not (same and wanted) and not input._type.dtype.is_floating_point:
        input = tensor_builder.cast(input, int64)
    result: Tensor = tensor_builder.sum_to(input, wanted)
    return result


def reshape_as(input: Tensor, other: Tensor) -> Tensor:
    """``reshape`` to the shape of ``other``."""
    return reshape(input, other._type.shape)


@listed("size")
@remembered
def view(input: Tensor, *shape: Any) -> Tensor:
    """As ``reshape``, but always a view: RuntimeError if a copy would be needed."""
    if len(shape) == 1 and isinstance(shape[0], (DType, type)):
        if as_dtype("view", shape[0]) is input._type.dtype:
            return regroup(input, input._type.shape)
        raise OperationError(
            f"view: {input._type.dtype!r} cannot be seen as {shape[0]!r} without a copy; use "
            f"x.to(dtype) for the values or x.numpy().view(...) for the bits "
            f"(at {user_location()})"
        )
    wanted = _completed("view", input, sizes("view", shape))
    if not can_view(input, wanted):
        raise OperationError(
            f"view: size {format_shape(wanted)} is not compatible with the tensor's size "
            f"{format_shape(input._type.shape)} and strides (at least one dimension spans across "
            f"two contiguous subspaces); use .reshape(...) instead (at {user_location()})"
        )
    return regroup(input, wanted)


def view_as(input: Tensor, other: Tensor) -> Tensor:
    """``view`` with the shape of ``other``."""
    return view(input, other._type.shape)


@remembered
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Dimensions ``start_dim`` to ``end_dim`` (included) made one."""
    shape = input._type.shape
    first = dimension("flatten", start_dim, len(shape))
    last = dimension("flatten", end_dim, len(shape))
    if first > last:
        raise OperationError(
            f"flatten: start_dim {start_dim} comes after end_dim {end_dim} (at {user_location()})"
        )
    if not shape:
        return regroup(input, (1,))
    if first == last:
        return input
    middle = product(shape[first : last + 1])
    return reshaped(input, (*shape[:first], middle, *shape[last + 1 :]))


@remembered
def unflatten(input: Tensor, dim: int, sizes: Any) -> Tensor:
    """Dimension ``dim`` cut into ``sizes``, one of which may be -1."""
    shape = input._type.shape
    axis = dimension("unflatten", dim, len(shape))
    wanted = [size("unflatten", s) for s in sizes]
    unknown = [i for i, s in enumerate(wanted) if isinstance(s, int) and s == -1]
    if len(unknown) == 1:
        known = product(s for i, s in enumerate(wanted) if i != unknown[0])
        if not structurally_equal(known, 0):
            wanted[unknown[0]] = shape[axis] // known
    if not wanted or len(unknown) > 1 or not equal(product(wanted), shape[axis]):
        raise OperationError(
            f"unflatten: sizes {list(sizes)} don't multiply up to the size of dim {axis} "
            f"({shape[axis]}) of {format_shape(shape)} (at {user_location()})"
        )
    return regroup(input, (*shape[:axis], *wanted, *shape[axis + 1 :]))


@remembered
def ravel(input: Tensor) -> Tensor:
    """All elements in one dimension; a copy if the tensor is not contiguous."""
    return reshaped(contiguous(input), (product(input._type.shape),))


@remembered
def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Without the dimensions of size 1 (or those in ``dim`` that have size 1)."""
    shape = input._type.shape
    wanted = range(len(shape)) if dim is None else dimensions("squeeze", dim, len(shape))
    dropped = {i for i in wanted if i < len(shape) and equal(shape[i], 1)}
    return regroup(input, tuple(d for i, d in enumerate(shape) if i not in dropped))


@remembered
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """With a new dimension of size 1 at position ``dim``."""
    shape = input._type.shape
    axis = dimension("unsqueeze", dim, len(shape) + 1)
    return regroup(input, (*shape[:axis], 1, *shape[axis:]))


def _atleast(rank: int, tensors: Sequence[Any]) -> Any:
    results = tuple(with_rank(rank, t) for t in sequence(tensors))
    single = len(tensors) == 1 and isinstance(tensors[0], Tensor)
    return results[0] if single else results


def with_rank(rank: int, tensor: Tensor) -> Tensor:
    """A tensor with at least ``rank`` dimensions: new ones where ``atleast_3d`` puts them."""
    shape = tensor._type.shape
    if len(shape) >= rank:
        return tensor
    if len(shape) == 0:
        return regroup(tensor, (1,) * rank)
    if rank == 2 or len(shape) == 2:
        return regroup(tensor, (1, *shape) if rank == 2 else (*shape, 1))
    return regroup(tensor, (1, *shape, 1))


def atleast_1d(*tensors: Any) -> Any:
    """Zero-dimensional tensors get one dimension; others are returned as they are."""
    return _atleast(1, tensors)


def atleast_2d(*tensors: Any) -> Any:
    """Tensors with fewer than two dimensions get leading ones."""
    return _atleast(2, tensors)


def atleast_3d(*tensors: Any) -> Any:
    """Tensors with fewer than three dimensions get ones, where NumPy puts them."""
    return _atleast(3, tensors)


# expand -----------------------------------------------------------------------------
@listed("size")
@remembered
def expand(input: Tensor, *shape: Any) -> Tensor:
    """A view in which dimensions of size 1 are repeated; -1 keeps a size."""
    wanted = list(sizes("expand", shape))
    have = input._type.shape
    extra = len(wanted) - len(have)
    for axis, dim in enumerate(wanted):
        if isinstance(dim, int) and dim == -1:
            if axis < extra:
                raise OperationError(
                    f"expand: the size -1 is not allowed in the leading, new dimension {axis} of "
                    f"{format_shape(wanted)} (at {user_location()})"
                )
            wanted[axis] = have[axis - extra]
    result: Tensor = apply_named("expand", input, shape=tuple(wanted))
    return result


def expand_as(input: Tensor, other: Tensor) -> Tensor:
    """``expand`` to the shape of ``other``."""
    return expand(input, other._type.shape)


def broadcast_to(input: Tensor, size: Any) -> Tensor:
    """A view of ``input`` in the shape ``size``, by the rules of broadcasting."""
    return expand(input, tuple(size))


def broadcast_shapes(*shapes: Any) -> Size:
    """The shape that arrays of these shapes broadcast to."""
    given = [(s,) if isinstance(s, int) else tuple(s) for s in shapes]
    try:
        return Size(broadcasting.broadcast_shapes(*given))
    except ValueError as error:
        raise OperationError(f"broadcast_shapes: {error} (at {user_location()})") from error


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """The tensors expanded to their common shape."""
    given = sequence(tensors)
    shape = broadcast_shapes(*(t._type.shape for t in given))
    return tuple(expand(t, tuple(shape)) for t in given)


# order of dimensions -----------------------------------------------------------------
@listed("dims")
@remembered
def permute(input: Tensor, *dims: Any) -> Tensor:
    """Dimension i of the result is dimension ``dims[i]`` of the input."""
    given = sequence(dims)
    rank = len(input._type.shape)
    if len(given) != rank:
        raise OperationError(
            f"permute: {len(given)} dims {list(given)} for a tensor of {rank} dimensions "
            f"(at {user_location()})"
        )
    result: Tensor = apply_named("permute", input, axes=dimensions("permute", given, rank))
    return result


@remembered
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dimensions exchanged."""
    rank = len(input._type.shape)
    first, second = dimension("transpose", dim0, rank), dimension("transpose", dim1, rank)
    axes = list(range(rank))
    if rank:
        axes[first], axes[second] = second, first
    result: Tensor = apply_named("permute", input, axes=tuple(axes))
    return result


def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """The same as ``transpose``."""
    return transpose(input, axis0, axis1)


def swapdims(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """The same as ``transpose``."""
    return transpose(input, dim0, dim1)


@remembered
def t(input: Tensor) -> Tensor:
    """A matrix transposed; tensors with fewer dimensions as they are."""
    rank = len(input._type.shape)
    if rank > 2:
        raise OperationError(
            f"t() expects a tensor with <= 2 dimensions, but self is {rank}D (at {user_location()})"
        )
    return reversed_dimensions(input)


def reversed_dimensions(input: Tensor) -> Tensor:
    """All dimensions in the opposite order (the property ``T``)."""
    result: Tensor = apply_named(
        "permute", input, axes=tuple(reversed(range(len(input._type.shape))))
    )
    return result


@remembered
def matrix_transpose(input: Tensor) -> Tensor:
    """The last two dimensions exchanged (the property ``mT``)."""
    if len(input._type.shape) < 2:
        raise OperationError(
            f"mT needs at least 2 dimensions, not {format_shape(input._type.shape)} "
            f"(at {user_location()})"
        )
    return transpose(input, -2, -1)


def adjoint(input: Tensor) -> Tensor:
    """The conjugate transpose of matrices; all dtypes are real, so the same as ``mT``."""
    return matrix_transpose(input)


def _hermitian(input: Tensor) -> Tensor:
    rank = len(input._type.shape)
    if rank not in (0, 2):
        raise OperationError(
            f"tensor.H is only supported on matrices (2-D tensors), got {rank}-D "
            f"(at {user_location()})"
        )
    return reversed_dimensions(input)


@remembered
def movedim(input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """The dimensions ``source`` moved to the positions ``destination``."""
    rank = len(input._type.shape)
    origins = dimensions("movedim", source, rank)
    targets = dimensions("movedim", destination, rank)
    if len(origins) != len(targets):
        raise OperationError(
            f"movedim: source {source} and destination {destination} differ in length "
            f"(at {user_location()})"
        )
    moved = dict(zip(targets, origins, strict=True))
    rest = iter(i for i in range(rank) if i not in origins)
    axes = tuple(moved[i] if i in moved else next(rest) for i in range(rank))
    result: Tensor = apply_named("permute", input, axes=axes)
    return result


def moveaxis(
    input: Tensor, source: int | Sequence[int], destination: int | Sequence[int]
) -> Tensor:
    """The same as ``movedim``."""
    return movedim(input, source, destination)


# parts ---------------------------------------------------------------------------------
def window(input: Tensor, axis: int, start: Dim, count: Dim, step: int = 1) -> Tensor:
    """A view of the elements ``start + i * step`` for ``i < count`` of one dimension."""
    shape = input._type.shape
    rank = range(len(shape))
    result: Tensor = apply_named(
        "slice",
        input,
        starts=tuple(start if i == axis else 0 for i in rank),
        sizes=tuple(count if i == axis else shape[i] for i in rank),
        steps=tuple(step if i == axis else 1 for i in rank),
    )
    return result


TENSOR_METHODS = {
    function.__name__: function
    for function in (
        adjoint,
        broadcast_to,
        clone,
        contiguous,
        expand,
        expand_as,
        flatten,
        moveaxis,
        movedim,
        permute,
        ravel,
        reshape,
        reshape_as,
        squeeze,
        sum_to_size,
        swapaxes,
        swapdims,
        t,
        transpose,
        unflatten,
        unsqueeze,
        view,
        view_as,
    )
}

TENSOR_PROPERTIES = {
    "T": reversed_dimensions,
    "mT": matrix_transpose,
    "H": _hermitian,
    "mH": matrix_transpose,
}
