"""Reads and writes at places given by index tensors along one dimension.

In: tensors and int64 index tensors. Out: new tensors (the forms that write in place
are attached from ``IN_PLACE``). A negative index is an error, except in ``take``,
``put``, ``index_put``, ``index_fill`` and ``take_along_dim``, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.device_array import DeviceArray
from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import OperationError, user_location
from flamec.functional.along_dimension import (
    gathered_along,
    on_device,
    put_along,
    put_slices,
    selected_slices,
)
from flamec.functional.arguments import public
from flamec.functional.autocasting import WIDEST, autocasts
from flamec.functional.dimensions import dimension
from flamec.functional.eager_view import plain_indices
from flamec.functional.indexing import Gathered, fit, gathered, put_in_place
from flamec.functional.promotion import is_number, require_tensor, scalar_of
from flamec.functional.scatter_reduction import combining, has_no_detour
from flamec.functional.selection import select
from flamec.functional.shape import (
    clone,
    expand,
    owned,
    ravel,
    regroup,
)
from flamec.fusing import InPlace, fused
from flamec.ir.shape import Dim, equal, format_shape, less, structurally_equal
from flamec.ir.types import bool_, int32, int64
from flamec.state import thread
from flamec.tensor import Tensor


# index tensors ------------------------------------------------------------------------
def _as_int64(name: str, index: Any) -> Tensor:
    require_tensor(name, "index", index)
    if index._type.dtype is not int64 and index._type.dtype is not int32:
        raise OperationError(
            f"{name}(): Expected dtype int32/int64 for index, not {index._type.dtype.name} "
            f"(at {user_location()})"
        )
    return tensor_builder.cast(index, int64)


def _checked(
    name: str, x: Tensor, dim: int, index: Any, against: Tensor | None = None
) -> tuple[Tensor, int, Tensor]:
    """``x``, ``dim`` and ``index`` with at least one dimension, once their sizes were compared.

    An index without elements may have any dtype.
    """
    require_tensor(name, "index", index)
    if any(structurally_equal(d, 0) for d in index._type.shape):
        index = tensor_builder.cast(index, int64)
    index = _as_int64(name, index)
    axis = dimension(name, dim, len(x._type.shape))
    if not x._type.shape:
        x = regroup(x, (1,))
    if not index._type.shape:
        index = regroup(index, (1,))
    have, want = x._type.shape, index._type.shape
    empty = any(structurally_equal(d, 0) for d in want)
    if len(have) != len(want) and not empty:
        raise OperationError(
            f"{name}(): Index tensor must have the same number of dimensions as input tensor: "
            f"{format_shape(want)} and {format_shape(have)} (at {user_location()})"
        )
    if not empty:
        for i, (size, limit) in enumerate(zip(want, have, strict=True)):
            if i != axis and less(limit, size):
                raise OperationError(
                    f"{name}(): Size does not match at dimension {i} expected index "
                    f"{format_shape(want)} to be no larger than self {format_shape(have)} apart "
                    f"from dimension {axis} (at {user_location()})"
                )
    return x, axis, index


@public
@fused()
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """``out[i][j][k] = input[index[i][j][k]][j][k]`` (for dim 0), of the shape of ``index``."""
    result_shape = index._type.shape
    x, axis, index = _checked("gather", input, dim, index)
    if len(index._type.shape) != len(x._type.shape):  # an empty index
        return tensor_builder.full(
            value=0, shape=result_shape, dtype=x._type.dtype, device=x._type.device
        )
    result = on_device(gathered_along, x, index, axis)
    return result if len(result._type.shape) == len(result_shape) else regroup(result, result_shape)


@public
@fused()
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``gather`` of input and indices broadcast against each other, except along ``dim``.

    With ``dim``, negative indices count from the end.
    """
    if dim is None:
        return gather(ravel(input), 0, ravel(indices))
    rank = len(input._type.shape)
    if rank != len(indices._type.shape):
        raise OperationError(
            "take_along_dim(): input and indices should have the same number of dimensions, but "
            f"got {format_shape(input._type.shape)} and {format_shape(indices._type.shape)} "
            f"(at {user_location()})"
        )
    axis = dimension("take_along_dim", dim, rank)
    shared: list[Dim] = []
    for i, (a, b) in enumerate(zip(input._type.shape, indices._type.shape, strict=True)):
        shared.append(1 if i == axis else b if not structurally_equal(b, 1) else a)
    extent = input._type.shape[axis]
    places = _counted_from_end(_as_int64("take_along_dim", indices), extent)
    return gather(
        expand(input, (*shared[:axis], extent, *shared[axis + 1 :])),
        axis,
        expand(places, (*shared[:axis], indices._type.shape[axis], *shared[axis + 1 :])),
    )


def _counted_from_end(places: Tensor, extent: Dim) -> Tensor:
    """Indices into ``extent`` elements, of which negative ones count from the end."""
    b = tensor_builder
    ahead = b.add(places, b.constant(extent, places._type))
    result: Tensor = b.where(b.lt(places, b.constant(0, places._type)), ahead, places)
    return result


@public
def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at ``index``, which counts all elements; negative ones count from the end."""
    result: Tensor = apply_named("index", ravel(input), _as_int64("take", index))
    return result


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of ``input`` with ``source`` at ``index``, which counts all elements in order."""
    places, values = ravel(_as_int64("put", index)), ravel(source)
    if not equal(places._type.shape[0], values._type.shape[0]):
        raise IndexError(
            f"put: expected source and index to have the same number of elements, but got "
            f"{format_shape(source._type.shape)} and {format_shape(index._type.shape)} "
            f"(at {user_location()})"
        )
    require_same_dtype("put", input, source)
    mode = combining("add", input) if accumulate else "set"
    flat = apply_named("index_put", ravel(input), values, places, mode=mode)
    return regroup(flat, input._type.shape)


def require_same_dtype(name: str, input: Tensor, source: Tensor) -> None:
    if input._type.dtype is not source._type.dtype:
        raise OperationError(
            f"{name}(): self and source expected to have the same dtype, but got "
            f"{input._type.dtype.name} and {source._type.dtype.name} (at {user_location()})"
        )


# scatter ------------------------------------------------------------------------------
@public
@fused()
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """A copy of ``input`` with ``src`` (a tensor or a number) at ``index`` along ``dim``.

    ``reduce``: ``"add"`` or ``"multiply"`` combines with what is there.
    """
    given = value if src is None else src
    modes = {None: "set", "add": "add", "multiply": "prod"}
    if reduce not in modes:
        raise OperationError(
            f"scatter(): reduce must be 'add' or 'multiply', not {reduce!r} (at {user_location()})"
        )
    return _scattered("scatter", input, dim, index, given, modes[reduce])


@autocasts(cuda=WIDEST)
@public
@fused()
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of ``input`` with ``src`` added at ``index`` along ``dim``; equal places add up."""
    return _scattered("scatter_add", input, dim, index, src, "add")


@public
@fused()
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A copy of ``input`` with ``src`` combined into it at ``index`` along ``dim``.

    ``reduce``: sum, prod, mean, amax or amin. Without ``include_self`` the elements
    written to do not take part themselves.
    """
    modes = {"sum": "add", "prod": "prod", "mean": "mean", "amax": "amax", "amin": "amin"}
    modes |= {"max": "amax", "min": "amin"}
    if reduce not in modes:
        raise OperationError(
            f"scatter_reduce(): reduce must be sum, prod, mean, amax or amin, not {reduce!r} "
            f"(at {user_location()})"
        )
    return _scattered("scatter_reduce", input, dim, index, src, modes[reduce], include_self)


def _scattered(
    name: str,
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Any,
    mode: str,
    include_self: bool = True,
) -> Tensor:
    x, axis, index = _checked(name, input, dim, index)
    shape = index._type.shape
    if any(structurally_equal(d, 0) for d in shape):
        return clone(input)
    if isinstance(source, Tensor):
        require_same_dtype(name, input, source)
        values = source if source._type.shape else regroup(source, (1,))
        have = values._type.shape
        if len(have) != len(shape) or any(map(less, have, shape)):
            raise OperationError(
                f"{name}(): Expected index {format_shape(shape)} to be no larger than src "
                f"{format_shape(have)} (at {user_location()})"
            )
        if not all(map(structurally_equal, have, shape)):
            rank = len(shape)
            values = apply_named(
                "slice", values, starts=(0,) * rank, sizes=shape, steps=(1,) * rank
            )
    elif is_number(source):
        values = tensor_builder.expand_to(scalar_of(source, x), shape)
    else:
        require_tensor(name, "src", source)
    arguments = values, index, name, axis, mode, include_self
    result = on_device(put_along, x, *arguments, whole=has_no_detour(x, values, mode))
    return result if input is x else regroup(result, input._type.shape)


# one index for whole slices -------------------------------------------------------------
def _line_of(name: str, index: Any) -> Tensor:
    index = _as_int64(name, index)
    if len(index._type.shape) > 1:
        raise IndexError(
            f"{name}(): Index is supposed to be a vector, not {format_shape(index._type.shape)} "
            f"(at {user_location()})"
        )
    return regroup(index, (1,)) if not index._type.shape else index


@public
@fused()
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of ``dim`` that the one-dimensional ``index`` names."""
    axis = dimension("index_select", dim, len(input._type.shape))
    x = input if input._type.shape else regroup(input, (1,))
    result = on_device(selected_slices, x, _line_of("index_select", index), axis)
    return result if x is input else regroup(result, ())


def _put_slices(
    name: str,
    input: Tensor,
    dim: int,
    index: Any,
    source: Tensor,
    mode: str,
    include_self: bool = True,
) -> Tensor:
    axis = dimension(name, dim, len(input._type.shape))
    x = input if input._type.shape else regroup(input, (1,))
    line = _line_of(name, index)
    values = source if source._type.shape else regroup(source, (1,))
    shape = x._type.shape
    expected = (*shape[:axis], line._type.shape[0], *shape[axis + 1 :])
    have = values._type.shape
    if len(have) != len(expected) or not all(map(equal, have, expected)):
        raise OperationError(
            f"{name}(): source has shape {format_shape(have)}, expected {format_shape(expected)} "
            f"for {line._type.shape[0]} indices along dimension {axis} of {format_shape(shape)} "
            f"(at {user_location()})"
        )
    arguments = values, line, name, axis, mode, include_self
    result = on_device(put_slices, x, *arguments, whole=has_no_detour(x, values, mode))
    return result if x is input else regroup(result, ())


@public
@fused()
def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
) -> Tensor:
    """A copy of ``input`` with ``alpha * source`` added to the slices ``index`` of ``dim``."""
    require_same_dtype("index_add", input, source)
    if alpha != 1:
        source = tensor_builder.mul(source, scalar_of(alpha, source))
    return _put_slices("index_add", input, dim, index, source, "add")


@public
@fused()
def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """A copy of ``input`` with ``source`` combined into the slices ``index`` of ``dim``.

    ``reduce``: prod, mean, amax or amin.
    """
    require_same_dtype("index_reduce", input, source)
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise OperationError(
            f"index_reduce(): reduce must be prod, mean, amax or amin, not {reduce!r} "
            f"(at {user_location()})"
        )
    return _put_slices("index_reduce", input, dim, index, source, reduce, include_self)


@autocasts(cpu=WIDEST)
@public
@fused()
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of ``input`` in which the slices ``index`` of ``dim`` are those of ``source``."""
    require_same_dtype("index_copy", input, source)
    return _put_slices("index_copy", input, dim, index, source, "set")


@fused()
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of ``input`` in which the slices ``index`` of ``dim`` are ``value``."""
    filling = single_value("index_fill", input, value)
    axis = dimension("index_fill", dim, len(input._type.shape))
    shape = input._type.shape or (1,)
    line = _counted_from_end(_line_of("index_fill", index), shape[axis])
    # as a mask: a slice that is named twice is filled once, also in the gradient of the value
    b, extent = tensor_builder, (shape[axis],)
    settings = {"dtype": bool_, "device": input._type.device}
    named = b.full(value=True, shape=(line._type.shape[0],), **settings)
    mask = _put_slices(
        "index_fill", b.full(value=False, shape=extent, **settings), 0, line, named, "set"
    )
    mask = b.reshape(mask, shape=(*extent, *(1,) * (len(shape) - 1 - axis)))
    x = input if input._type.shape else regroup(input, (1,))
    result = b.where(b.expand_to(mask, shape), b.expand_to(filling, shape), x)
    return result if x is input else regroup(result, ())


def single_value(name: str, input: Tensor, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return scalar_of(value, input)
    if value._type.shape:
        raise OperationError(
            f"{name} only supports a 0-dimensional value tensor, but got tensor with "
            f"{len(value._type.shape)} dimension(s) (at {user_location()})"
        )
    return tensor_builder.cast(value, input._type.dtype)


@autocasts(cuda=WIDEST)
def index_put(
    input: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False
) -> Tensor:
    """A copy of ``input`` with ``values`` at ``input[indices]``, or added there."""
    selection = select(input, tuple(slice(None) if i is None else i for i in indices))
    if selection.is_basic:
        raise IndexError(f"index_put: at least one index must be a tensor (at {user_location()})")
    require_same_dtype("index_put", input, values)
    found: Gathered = gathered(selection)
    rest = found.view._type.shape[len(found.indices) :]
    shape = (*found.index_shape, *rest)
    axes = found.result_axes()
    source = fit(values, tuple(shape[a] for a in axes), "value tensor")
    source = apply_named("permute", source, axes=_inverse(axes))
    mode = combining("add", input) if accumulate else "set"
    put = apply_named("index_put", found.view, source, *found.indices, mode=mode)
    if found.view is selection.view:
        return put
    return owned(apply_named("permute", put, axes=_inverse(found.axes)))


def index_put_into(
    target: Tensor, indices: Any, values: Any, accumulate: bool = False, **others: Any
) -> bool:
    """Put or add ``values`` into the memory of ``target``; False, and nothing is done, where this
    is not the common case: index tensors of one shape, for the first dimensions, on a GPU."""
    if others or target._array.__class__ is not DeviceArray or thread.trace is not None:
        return False
    if not isinstance(values, Tensor) or values._type.dtype is not target._type.dtype:
        return False
    if values._type.device != target._type.device or not isinstance(indices, (tuple, list)):
        return False
    plain = plain_indices(target, tuple(indices))
    if plain is None:
        return False
    shape = (*plain[0]._type.shape, *target._type.shape[len(plain) :])
    source = fit(values, shape, "value tensor")
    return (_add_in_place if accumulate else put_in_place)(target, source, *plain)


def _add_at(target: Tensor, source: Tensor, *indices: Tensor) -> None:
    mode = combining("add", target)
    write(target, apply_named("index_put", target, source, *indices, mode=mode), "index_put_")


_add_in_place = InPlace(_add_at)


def _inverse(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


TENSOR_METHODS = {
    function.__name__: function
    for function in (
        gather,
        index_add,
        index_copy,
        index_fill,
        index_put,
        index_reduce,
        index_select,
        put,
        scatter,
        scatter_add,
        scatter_reduce,
        take,
        take_along_dim,
    )
}

IN_PLACE = (
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_reduce",
    "put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
)
