"""Tensors made from nothing but sizes and numbers: constants and ranges.

In: sizes (as separate arguments or as one sequence), fill values, ranges; the
keyword arguments ``dtype``, ``device`` and ``requires_grad``. Out: new tensors.
``layout`` and ``memory_format`` are accepted and have no effect:
memory is dense and row-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec import bounds_of_slices, values
from flamec.conversion import on_device
from flamec.dispatch import apply
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import (
    as_device,
    as_dtype,
    default_device,
    is_present,
    public,
)
from flamec.functional.dimensions import size, sizes
from flamec.functional.primitives import ops
from flamec.functional.promotion import (
    constant,
    convert_operands,
    is_number,
    plain_number,
    require_tensor,
    result_dtype,
)
from flamec.functional.unary import copied
from flamec.fusing import fused
from flamec.host_numbers import computed_of_sizes, is_of_sizes
from flamec.ir.op import lookup
from flamec.ir.shape import Dim, SymbolicDim, less
from flamec.ir.types import Device, DType, float64, int64
from flamec.pinning import pin_memory
from flamec.state import process, thread
from flamec.tensor import RuntimeNumber, Tensor


class Options:
    """The keyword arguments that every creation function has."""

    def __init__(self, name: str, like: Tensor | None = None, **given: Any) -> None:
        if not given.keys() <= _OPTION_NAMES:
            unknown = given.keys() - _OPTION_NAMES
            raise OperationTypeError(
                f"{name}() got an unexpected keyword argument {min(unknown)!r} "
                f"(at {user_location()})"
            )
        dtype = given.get("dtype")
        self.name = name
        self.explicit_dtype: DType | None = None if dtype is None else as_dtype(name, dtype)
        self.like_dtype = None if like is None else like._type.dtype
        place = default_device() if like is None else like._type.device
        self.device: Device = as_device(name, given.get("device"), place)
        self.requires_grad = bool(given.get("requires_grad", False))
        self.pin_memory = bool(given.get("pin_memory", False))

    @property
    def dtype(self) -> DType:
        return self.explicit_dtype or self.like_dtype or process.default_dtype

    def dtype_or(self, default: DType) -> DType:
        return self.explicit_dtype or self.like_dtype or default

    def finished(self, result: Tensor) -> Tensor:
        if self.pin_memory:
            result = pin_memory(result)
        if self.requires_grad:
            result.requires_grad = True
        return result


_OPTION_NAMES = {"dtype", "layout", "device", "requires_grad", "pin_memory", "memory_format"}


def filled(
    name: str, shape: tuple[Dim, ...], value: Any, dtype: DType, device: Device, key: Any = None
) -> Tensor:
    """A tensor of one value: a number or a zero-dimensional tensor.

    ``key``: under which the call is to be remembered (``_made_again``), unless None.
    """
    for extent in shape:
        if not isinstance(extent, SymbolicDim) and extent < 0:
            raise OperationError(
                f"{name}(): sizes must be nonnegative, got {list(shape)} (at {user_location()})"
            )
    if isinstance(value, (Tensor, SymbolicDim)):
        (scalar,) = convert_operands((value,), dtype)
        return copied(ops.expand_to(on_device(scalar, device), shape))
    value = plain_number(value)
    if dtype.kind == "bool":
        value = bool(value)
    elif dtype.kind == "float":
        value = float(value)
    elif isinstance(value, float):
        value = int(value) if math.isfinite(value) else value
    elif dtype.kind == "uint" and 0 < -value <= np.iinfo(dtype.numpy).max:  # as C counts
        value += np.iinfo(dtype.numpy).max + 1
    attributes = {"value": value, "shape": shape, "dtype": dtype, "device": device}
    if key is not None:
        if len(_remembered) >= _MOST_REMEMBERED:
            _remembered.clear()
        _remembered[key] = attributes
    result: Tensor = apply(_FULL, (), attributes)
    return result


# calls that were made before, on a GPU ---------------------------------------------------

_FULL = lookup("full")
_remembered: dict[Any, dict[str, Any]] = {}  # the attributes of the operation that a call became
_MOST_REMEMBERED = 4096


def _key(
    name: str, value: Any, place: Any, options: dict[str, Any], like: Tensor | None = None
) -> Any:
    """What stands for an eager call that gives a number, ints as sizes and a GPU, perhaps a dtype,
    and nothing else; or a tensor on a GPU in place of these. None for any other."""
    kind = value.__class__
    if (kind is not int and kind is not float) or thread.trace is not None:
        return None
    number = value if kind is int else value.hex()
    if like is not None:
        if options or like._type.device.type == "cpu":
            return None
        return name, kind, number, like._type._number or like._type.number
    device, dtype = options.get("device"), options.get("dtype")
    if device.__class__ is not Device or device.type == "cpu":
        return None
    if len(options) > 1 and (len(options) > 2 or dtype.__class__ is not DType):
        return None
    if place.__class__ is not tuple:
        return None
    for extent in place:
        if extent.__class__ is not int:
            return None
    return name, kind, number, place, dtype or process.default_dtype, device


def _made_again(key: Any) -> Tensor | None:
    """The result of a call like one before; None if there was none."""
    attributes = _remembered.get(key)
    if attributes is None or not is_present(attributes["device"]):
        return None
    result: Tensor = apply(_FULL, (), attributes)
    return result


# from sizes ------------------------------------------------------------------------------


def _sizes(name: str, given: Sequence[Any], options: dict[str, Any]) -> tuple[Dim, ...]:
    """The sizes given one by one, as one sequence, or as ``size=``."""
    if "size" in options:
        given = (*given, options.pop("size"))
    if not given:
        raise OperationTypeError(f"{name}() needs a size (at {user_location()})")
    return sizes(name, given)


@public
def zeros(*size: Any, **options: Any) -> Tensor:
    """A tensor of zeros; the default dtype unless ``dtype`` is given."""
    return _constant_tensor("zeros", 0, size, options)


@public
def ones(*size: Any, **options: Any) -> Tensor:
    """A tensor of ones; the default dtype unless ``dtype`` is given."""
    return _constant_tensor("ones", 1, size, options)


@public
def empty(*size: Any, **options: Any) -> Tensor:
    """A tensor without meaningful contents (they are zeros)."""
    return _constant_tensor("empty", 0, size, options)


def _constant_tensor(
    name: str, value: int, given: Sequence[Any], options: dict[str, Any]
) -> Tensor:
    key = _key(name, value, given, options)
    again = None if key is None else _made_again(key)
    if again is not None:
        return again
    shape = _sizes(name, given, options)
    settings = Options(name, **options)
    return settings.finished(filled(name, shape, value, settings.dtype, settings.device, key))


@public
def full(size: Sequence[int], fill_value: Any, **options: Any) -> Tensor:
    """A tensor of one value, of the dtype the value suggests unless ``dtype`` is given."""
    key = _key("full", fill_value, size, options)
    again = None if key is None else _made_again(key)
    return (
        _full("full", size, fill_value, Options("full", **options), key) if again is None else again
    )


def _full(name: str, size: Any, fill_value: Any, settings: Options, key: Any) -> Tensor:
    if not isinstance(size, (tuple, list)):
        raise OperationTypeError(
            f"{name}(): size must be a tuple of ints, not {type(size).__name__} "
            f"(at {user_location()})"
        )
    if not is_number(fill_value) and not (
        isinstance(fill_value, Tensor) and not fill_value._type.shape
    ):
        raise OperationTypeError(
            f"{name}(): fill_value must be a number, not {type(fill_value).__name__} "
            f"(at {user_location()})"
        )
    dtype = settings.dtype_or(result_dtype(fill_value))
    shape = sizes(name, (size,))
    return settings.finished(filled(name, shape, fill_value, dtype, settings.device, key))


# like another tensor ---------------------------------------------------------------------


@public
def zeros_like(input: Tensor, **options: Any) -> Tensor:
    """Zeros of the shape and dtype of ``input``."""
    return _like("zeros_like", input, 0, options)


@public
def ones_like(input: Tensor, **options: Any) -> Tensor:
    """Ones of the shape and dtype of ``input``."""
    return _like("ones_like", input, 1, options)


@public
def empty_like(input: Tensor, **options: Any) -> Tensor:
    """A tensor of the shape and dtype of ``input`` without meaningful contents."""
    return _like("empty_like", input, 0, options)


@public
def full_like(input: Tensor, fill_value: Any, **options: Any) -> Tensor:
    """One value everywhere, in the shape and dtype of ``input``."""
    return _like("full_like", input, fill_value, options)


def _like(name: str, input: Any, value: Any, options: dict[str, Any]) -> Tensor:
    require_tensor(name, "input", input)
    key = _key(name, value, None, options, input)
    again = None if key is None else _made_again(key)
    if again is not None:
        return again
    return _full(name, tuple(input._type.shape), value, Options(name, input, **options), key)


# ranges ----------------------------------------------------------------------------------


def _python_number(name: str, value: Any) -> Any:
    """A number; the value of a zero-dimensional tensor."""
    if isinstance(value, Tensor):
        if thread.trace is not None and value._type.dtype.kind in ("int", "uint"):
            return values.as_size(value, f"{name}()")
        return value if is_of_sizes(value) else values.item(value)
    if not is_number(value):
        raise OperationTypeError(
            f"{name}(): expected a number, not {type(value).__name__} (at {user_location()})"
        )
    number = plain_number(value)
    return int(number) if isinstance(number, bool) else number


@public
def arange(*bounds: Any, **options: Any) -> Tensor:
    """``arange(end)``, ``arange(start, end, step=1)``: numbers from start up to, without, end.

    int64 if all arguments are integers, else the default dtype.
    """
    names = ("end",) if len(bounds) == 1 else ("start", "end", "step")
    if len(bounds) > 3:
        raise OperationTypeError(f"arange() takes start, end, step (at {user_location()})")
    given = dict(zip(names, bounds, strict=False))
    for name in ("start", "end", "step"):
        if name in options:
            given[name] = options.pop(name)
    if "end" not in given:
        raise OperationTypeError(f"arange() needs an end (at {user_location()})")
    settings = Options("arange", **options)
    start, end, step = (
        _python_number("arange", given.get(name, default))
        for name, default in (("start", 0), ("end", None), ("step", 1))
    )
    integral = not any(isinstance(x, (float, RuntimeNumber)) for x in (start, end, step))
    dtype = settings.dtype_or(int64 if integral else process.default_dtype)
    if dtype.kind == "bool":
        raise OperationTypeError(f"arange(): not defined for bool (at {user_location()})")
    if dtype.kind != "float":
        start, end, step = (
            x.read() if isinstance(x, RuntimeNumber) else x for x in (start, end, step)
        )
    if dtype is int64 and not integral:
        start, end, step = (int(x) if isinstance(x, float) else x for x in (start, end, step))
    count = _count_of_range(start, end, step)
    if dtype.kind != "float":
        start, step = (int(x) if isinstance(x, float) else x for x in (start, step))
    return settings.finished(_arithmetic_series(start, step, count, dtype, settings.device))


def _count_of_range(start: Any, end: Any, step: Any) -> Dim:
    if step == 0:
        raise OperationError(f"arange(): step must be nonzero (at {user_location()})")
    if any(isinstance(x, (SymbolicDim, RuntimeNumber)) for x in (start, end, step)):
        count: Dim | None = None
        if any(isinstance(x, (float, RuntimeNumber)) for x in (start, end, step)):
            count = computed_of_sizes(bounds_of_slices.count_of_range, start, end, step)
        if count is None:
            count = -((start - end) // step)
        if not less(count, 0):
            return count
        raise OperationError(
            "arange(): upper bound and lower bound inconsistent with step sign "
            f"(at {user_location()})"
        )
    if not (math.isfinite(start) and math.isfinite(end)):
        raise OperationError(
            f"arange(): unsupported range: {start} -> {end} (at {user_location()})"
        )
    if (end - start) * (1 if step > 0 else -1) < 0:
        raise OperationError(
            "arange(): upper bound and lower bound inconsistent with step sign: "
            f"{start} -> {end} by {step} (at {user_location()})"
        )
    if all(isinstance(x, int) for x in (start, end, step)):
        return -((start - end) // step)
    return math.ceil((end - start) / step)


def _arithmetic_series(start: Any, step: Any, count: Dim, dtype: DType, device: Device) -> Tensor:
    """``start + i * step`` for i < count, computed in int64 or float64 and converted once."""
    simple = not any(isinstance(x, (SymbolicDim, RuntimeNumber)) for x in (start, step))
    if simple and start == 0 and step == 1:
        return ops.iota(shape=(count,), axis=0, dtype=dtype, device=device)
    wide = float64 if dtype.is_floating_point else int64
    series = ops.iota(shape=(count,), axis=0, dtype=wide, device=device)
    if not (simple and step == 1):
        series = ops.mul(series, step)
    if not (simple and start == 0):
        series = ops.add(series, start)
    return ops.cast(series, dtype)


@public
def linspace(start: Any, end: Any, steps: int, **options: Any) -> Tensor:
    """``steps`` numbers evenly spaced from start to end, both included."""
    settings = Options("linspace", **options)
    places = _evenly_spaced("linspace", start, end, steps, settings)
    return settings.finished(ops.cast(places, settings.dtype))


@public
def logspace(start: Any, end: Any, steps: int, base: float = 10.0, **options: Any) -> Tensor:
    """``base`` to the power of ``steps`` numbers evenly spaced from start to end."""
    settings = Options("logspace", **options)
    exponents = _evenly_spaced("logspace", start, end, steps, settings)
    powers = ops.pow(constant(base, float64), exponents)
    return settings.finished(ops.cast(powers, settings.dtype))


def _evenly_spaced(name: str, start: Any, end: Any, steps: Any, settings: Options) -> Tensor:
    """In float64; each half is counted from its own end, so that both ends are exact.

    Both ends are made whole first where whole numbers are wanted, as in PyTorch.
    """
    device = settings.device
    count = size(name, steps)
    if not isinstance(count, SymbolicDim) and count < 0:
        raise OperationError(
            f"{name}(): number of steps must be nonnegative (at {user_location()})"
        )
    first, last = (
        constant(x, float64, device)
        if isinstance(x, (int, float))
        else on_device(convert_operands((x,), float64)[0], device)
        for x in (start, end)
    )
    if first._type.shape or last._type.shape:
        raise OperationError(f"{name}(): start and end must be numbers (at {user_location()})")
    if not settings.dtype.is_floating_point:
        first, last = (ops.cast(ops.cast(x, int64), float64) for x in (first, last))
    if not isinstance(count, SymbolicDim) and count < 2:
        place = ops.iota(shape=(count,), axis=0, dtype=float64, device=device)
        return ops.add(place, first)
    return _between(first, last, count)


@fused("count")
def _between(first: Tensor, last: Tensor, count: Dim) -> Tensor:
    """At least two numbers."""
    place = ops.iota(shape=(count,), axis=0, dtype=float64, device=first._type.device)
    steps_between, half = constant(count - 1, float64), constant(count // 2, float64)
    if isinstance(count, SymbolicDim):  # which may be 1: then the only number is the first
        steps_between, half = ops.maximum(steps_between, 1.0), ops.maximum(half, 1.0)
    step = ops.div(ops.sub(last, first), steps_between)
    rising = ops.add(first, ops.mul(place, step))
    falling = ops.sub(last, ops.mul(ops.sub(count - 1, place), step))
    return ops.where(ops.lt(place, half), rising, falling)


# matrices --------------------------------------------------------------------------------


@public
def eye(n: Dim, m: Dim | None = None, **options: Any) -> Tensor:
    """Ones on the diagonal of an n by m matrix (m = n unless given), zeros elsewhere."""
    settings = Options("eye", **options)
    shape = (size("eye", n), size("eye", n if m is None else m))
    for extent in shape:
        if not isinstance(extent, SymbolicDim) and extent < 0:
            raise OperationError(
                f"eye(): sizes must be nonnegative, got {shape} (at {user_location()})"
            )
    grid: dict[str, Any] = {"shape": shape, "dtype": int64, "device": settings.device}
    on_diagonal = ops.eq(ops.iota(axis=0, **grid), ops.iota(axis=1, **grid))
    return settings.finished(ops.cast(on_diagonal, settings.dtype))


__all__ = [
    "arange", "empty", "empty_like", "eye", "full", "full_like", "linspace", "logspace", "ones",
    "ones_like", "zeros", "zeros_like",
]  # fmt: skip
