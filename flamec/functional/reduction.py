"""Reductions: sums, products, extremes, truth, over some or all dimensions.

In: a tensor, ``dim`` (an int, for many functions also several, None for all) and
``keepdim``. Out: a tensor without those dimensions, or with size 1 in their place.
Sums and products of integers are int64 unless ``dtype`` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from flamec import return_types
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional import elementwise
from flamec.functional.arguments import as_dtype, public
from flamec.functional.autocasting import FLOAT32, autocasts
from flamec.functional.comparison import as_bool
from flamec.functional.dimensions import dimension
from flamec.functional.primitives import is_found_empty, kept, narrowed, ops, widened
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.shape import Dim, product
from flamec.ir.types import DType, bool_, int64, uint8
from flamec.tensor import Tensor

Dims = int | Sequence[int] | None


def axes_of(name: str, dim: Any, rank: int) -> tuple[int, ...]:
    """The sorted axes that ``dim`` names: all for None and for an empty sequence."""
    if dim is None:
        return tuple(range(rank))
    given = dim if isinstance(dim, (tuple, list)) else (dim,)
    if not given:
        return tuple(range(rank))
    axes = sorted(dimension(name, d, rank) for d in given)
    for earlier, later in pairwise(axes):
        if earlier == later:
            raise OperationError(
                f"{name}(): dim {earlier} appears multiple times in the list of dims "
                f"(at {user_location()})"
            )
    return tuple(a for a in axes if a < rank)


def fold(op: str, x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    """The reduction ``op`` over ``axes``; over none of them a copy."""
    result: Tensor = getattr(ops, op)(x, axes=axes)
    return kept(result, x._type.shape, axes) if keepdim and axes else result


def count_of(x: Tensor, axes: tuple[int, ...]) -> Dim:
    """How many elements are folded into one."""
    return product([x._type.shape[a] for a in axes])


def _one_dimension(name: str, dim: Any) -> Any:
    """``dim``, which must be an int or None."""
    if isinstance(dim, (tuple, list)):
        raise OperationTypeError(
            f"{name}(): dim must be an int, not {dim!r} (at {user_location()})"
        )
    return dim


# sums and products -----------------------------------------------------------------------


def accumulated(name: str, input: Any, dtype: DType | None) -> Tensor:
    """``input`` in ``dtype``, or with integers and bools widened to int64."""
    require_tensor(name, "input", input)
    if dtype is not None:
        return ops.cast(input, as_dtype(name, dtype))
    return input if input._type.dtype.is_floating_point else ops.cast(input, int64)


def _sum(x: Tensor, axes: tuple[int, ...], keepdim: bool) -> Tensor:
    if x._type.dtype is bool_:
        return fold("amax", x, axes, keepdim)
    return fold("sum", x, axes, keepdim)


@autocasts(cuda=FLOAT32)
@public
def sum(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The sum over ``dim``; 0 where there is nothing."""
    x = accumulated("sum", input, dtype)
    return _sum(x, axes_of("sum", dim, x.ndim), keepdim)


@public
@fused()
def nansum(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The sum over ``dim`` with NaN taken as 0."""
    require_tensor("nansum", "input", input)
    if input._type.dtype.is_floating_point:
        input = ops.where(ops.ne(input, input), 0.0, input)
    x = accumulated("nansum", input, dtype)
    return _sum(x, axes_of("nansum", dim, x.ndim), keepdim)


@autocasts(cpu=FLOAT32, cuda=FLOAT32)
@public
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The product over one dimension or over all; 1 where there is nothing."""
    x = accumulated("prod", input, dtype)
    axes = axes_of("prod", _one_dimension("prod", dim), x.ndim)
    return fold("amin" if x._type.dtype is bool_ else "prod", x, axes, keepdim)


@public
@fused()
def mean(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The mean over ``dim``; NaN where there is nothing. RuntimeError unless floating point."""
    require_tensor("mean", "input", input)
    target = input._type.dtype if dtype is None else as_dtype("mean", dtype)
    if not target.is_floating_point:
        raise OperationTypeError(
            "mean(): the dtype must be floating point; give dtype=flamec.float32 for a tensor of "
            f"{input._type.dtype.name} (at {user_location()})"
        )
    x = widened(ops.cast(input, target))
    axes = axes_of("mean", dim, x.ndim)
    return narrowed(ops.div(fold("sum", x, axes, keepdim), count_of(x, axes)), target)


@public
@fused()
def nanmean(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The mean over ``dim`` of what is not NaN."""
    require_tensor("nanmean", "input", input)
    if not input._type.dtype.is_floating_point:
        raise OperationTypeError(
            f"nanmean(): expected floating-point values, got {input._type.dtype.name} "
            f"(at {user_location()})"
        )
    target = input._type.dtype if dtype is None else as_dtype("nanmean", dtype)
    present = ops.eq(input, input)
    x = widened(ops.cast(ops.where(present, input, 0.0), target))
    axes = axes_of("nanmean", dim, x.ndim)
    count = fold("sum", ops.cast(present, x._type.dtype), axes, keepdim)
    return narrowed(ops.div(fold("sum", x, axes, keepdim), count), target)


@public
@fused()
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero, as int64."""
    require_tensor("count_nonzero", "input", input)
    axes = axes_of("count_nonzero", dim, input.ndim)
    return fold("sum", ops.cast(as_bool(input), int64), axes, False)


# truth -----------------------------------------------------------------------------------


@public
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are nonzero; true where there is nothing. bool (uint8 for uint8)."""
    return _truth("all", "amin", input, dim, keepdim)


@public
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is nonzero; false where there is nothing. bool (uint8 for uint8)."""
    return _truth("any", "amax", input, dim, keepdim)


def _truth(name: str, op: str, input: Any, dim: Any, keepdim: bool) -> Tensor:
    require_tensor(name, "input", input)
    x = as_bool(input)
    if isinstance(dim, (tuple, list)) and not dim:
        result = ops.convert(x, dtype=bool_)
    else:
        result = fold(op, x, axes_of(name, dim, x.ndim), keepdim)
    return ops.cast(result, uint8) if input._type.dtype is uint8 else result


# extremes --------------------------------------------------------------------------------


def _require_elements(name: str, x: Tensor, axes: tuple[int, ...], dim: Any) -> None:
    shape = x._type.shape
    for axis in axes:
        if is_found_empty(shape[axis]):
            if dim is None or dim == () or dim == []:
                raise OperationError(
                    f"{name}(): expected reduction dim to be specified for input.numel() == 0; "
                    f"the shape is {list(shape)} (at {user_location()})"
                )
            raise IndexError(
                f"{name}(): expected reduction dim {axis} to have non-zero size; the shape is "
                f"{list(shape)} (at {user_location()})"
            )


def _extreme(name: str, op: str, input: Any, dim: Any, keepdim: bool) -> Tensor:
    require_tensor(name, "input", input)
    axes = axes_of(name, dim, input.ndim)
    _require_elements(name, input, axes, dim)
    return fold(op, input, axes, keepdim)


@public
def amax(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """The greatest value over ``dim``; its gradient is shared between equal elements."""
    return _extreme("amax", "amax", input, dim, keepdim)


@public
def amin(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
    """The least value over ``dim``; its gradient is shared between equal elements."""
    return _extreme("amin", "amin", input, dim, keepdim)


@public
@fused()
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """The named tuple (min, max) over one dimension or over all."""
    low = _extreme("aminmax", "amin", input, dim, keepdim)
    return return_types.aminmax(low, _extreme("aminmax", "amax", input, dim, keepdim))


def _position(name: str, input: Any, dim: int | None, keepdim: bool) -> Tensor:
    """Where along ``dim`` the extreme stands (in the flattened tensor for None), as int64."""
    require_tensor(name, "input", input)
    x, rank = input, input.ndim
    _one_dimension(name, dim)
    _require_elements(name, x, axes_of(name, dim, rank), dim)
    if rank == 0 or dim is None:
        flat = ops.reshape(x, shape=(product(x._type.shape),))
        result: Tensor = getattr(ops, name)(flat, axes=(0,))
        return ops.reshape(result, shape=(1,) * rank) if keepdim and rank else result
    axis = dimension(name, dim, rank)
    result = getattr(ops, name)(x, axes=(axis,))
    return kept(result, x._type.shape, (axis,)) if keepdim else result


def _refuse_bool(name: str, input: Any) -> None:
    require_tensor(name, "input", input)
    if input._type.dtype is bool_:
        raise OperationTypeError(f"{name}(): not defined for bool (at {user_location()})")


@public
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The position of the first greatest element; a NaN counts as greatest."""
    _refuse_bool("argmax", input)
    return _position("argmax", input, dim, keepdim)


@public
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The position of the first least element; a NaN counts as least."""
    _refuse_bool("argmin", input)
    return _position("argmin", input, dim, keepdim)


def taken_along(x: Tensor, axis: int, indices: Tensor) -> Tensor:
    """``x`` at ``indices`` along ``axis``; ``indices`` has the shape of x without that axis."""
    shape = x._type.shape
    rest = tuple(i for i in range(len(shape)) if i != axis)
    rest_shape = tuple(shape[i] for i in rest)
    count = product(rest_shape)
    rows = ops.permute(x, axes=(*rest, axis)) if axis != len(shape) - 1 else x
    rows = ops.reshape(rows, shape=(count, shape[axis]))
    row = ops.iota(shape=(count,), axis=0, dtype=int64, device=x._type.device)
    picked = ops.index(rows, row, ops.reshape(indices, shape=(count,)))
    return ops.reshape(picked, shape=rest_shape)


def _selected(name: str, input: Tensor, dim: Any, keepdim: bool) -> Any:
    """The named tuple (values, indices); the gradient goes to the element that was selected."""
    _one_dimension(name, dim)
    axis = dimension(name, dim, input.ndim)
    result = getattr(return_types, name)
    if input.ndim == 0:
        zero = ops.full(value=0, shape=(), dtype=int64, device=input._type.device)
        return result(ops.convert(input, dtype=input._type.dtype), zero)
    _require_elements(name, input, (axis,), dim)
    numbers = ops.cast(input, uint8) if input._type.dtype is bool_ else input
    indices = _position(f"arg{name}", numbers, axis, False)
    values = taken_along(input, axis, indices)
    if keepdim:
        values, indices = (kept(t, input._type.shape, (axis,)) for t in (values, indices))
    return result(values, indices)


def _whole_or_selected(name: str, input: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The three forms of max and min: of all, over one dimension, of two tensors."""
    require_tensor(name, "input", input)
    names = ("other",) if args and isinstance(args[0], Tensor) else ("dim", "keepdim")
    given = dict(zip(names, args, strict=False))
    if len(args) > len(names) or given.keys() & kwargs.keys():
        raise OperationTypeError(
            f"{name}(): takes (input), (input, dim, keepdim) or (input, other) "
            f"(at {user_location()})"
        )
    given |= kwargs
    if set(given) == {"other"}:
        return getattr(elementwise, f"{name}imum")(input, given["other"])
    if "dim" in given and set(given) <= {"dim", "keepdim"}:
        return _selected(name, input, given["dim"], given.get("keepdim", False))
    if given:
        raise OperationTypeError(
            f"{name}(): unexpected arguments {sorted(given)}; it takes (input), (input, dim, "
            f"keepdim) or (input, other) (at {user_location()})"
        )
    return _extreme(name, f"a{name}", input, None, False)


@public
@fused()
def max(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The greatest value of all; or over ``dim`` with its index; or ``maximum`` with ``other``."""
    return _whole_or_selected("max", input, args, kwargs)


@public
@fused()
def min(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The least value of all; or over ``dim`` with its index; or ``minimum`` with ``other``."""
    return _whole_or_selected("min", input, args, kwargs)


__all__ = [
    "all", "amax", "amin", "aminmax", "any", "argmax", "argmin", "count_nonzero", "max", "mean",
    "min", "nanmean", "nansum", "prod", "sum",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
