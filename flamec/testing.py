"""PyTorch's ``testing`` for users' tests: ``assert_close``, ``make_tensor``.

In: tensors, arrays and numbers, or sequences and mappings of such. Out: nothing, or an
AssertionError that says how many elements differ, by how much, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flamec.conversion import as_tensor
from flamec.ir.types import DType, bfloat16, float16, float32, float64
from flamec.sample_tensors import make_tensor
from flamec.tensor import Size, Tensor

__all__ = ["assert_close", "make_tensor"]

_TOLERANCES: dict[DType, tuple[float, float]] = {  # PyTorch's, by dtype: relative and absolute
    float16: (1e-3, 1e-5),
    bfloat16: (1.6e-2, 1e-5),
    float32: (1.3e-6, 1e-5),
    float64: (1e-7, 1e-7),
}

Message = str | Callable[[str], str] | None


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: Message = None,
) -> None:
    """AssertionError unless |actual - expected| <= atol + rtol |expected| everywhere.

    Sequences and mappings are compared entry by entry. Tolerances are given together or not at
    all; without them they are those of the less exact dtype, 0 for integers and bools. Shapes
    must be equal, and so must dtypes and devices unless ``check_dtype`` and ``check_device``
    are False, then the values are promoted and compared on the CPU. ``msg`` replaces the
    message, or makes one of it. TypeError for types that cannot be compared, ValueError for one
    tolerance alone.
    """
    if (rtol is None) != (atol is None):
        raise ValueError(
            f"rtol and atol must both be specified or both be unspecified, got {rtol=} and {atol=}"
        )
    if not allow_subclasses and type(actual) is not type(expected):
        raise TypeError(f"{type(actual)} is no {type(expected)}, and subclasses are not allowed")
    tolerances = None if rtol is None or atol is None else (rtol, atol)
    checks = {"device": check_device, "dtype": check_dtype}
    for place, mine, wanted in _pairs(actual, expected, ""):
        found = _difference(mine, wanted, tolerances, equal_nan, checks, check_stride)
        if found is not None:
            text = f"{found}\n\nThe failure occurred for item {place}" if place else found
            raise AssertionError(msg(text) if callable(msg) else text if msg is None else msg)


def _pairs(actual: Any, expected: Any, place: str) -> list[tuple[str, Any, Any]]:
    """The tensors and numbers of both, with where they are; AssertionError for other structure."""
    if isinstance(actual, Mapping) and isinstance(expected, Mapping):
        if actual.keys() != expected.keys():
            raise AssertionError(
                f"The keys of the mappings do not match: {list(actual)} != {list(expected)}{place}"
            )
        keys = list(actual)
    elif _is_sequence(actual) and _is_sequence(expected):
        if len(actual) != len(expected):
            raise AssertionError(
                f"The length of the sequences mismatch: {len(actual)} != {len(expected)}{place}"
            )
        keys = list(range(len(actual)))
    else:
        return [(place, actual, expected)]
    return [
        pair for key in keys for pair in _pairs(actual[key], expected[key], f"{place}[{key!r}]")
    ]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, Size))


def _difference(
    actual: Any,
    expected: Any,
    tolerances: tuple[float, float] | None,
    equal_nan: bool,
    checks: Mapping[str, bool],
    check_stride: bool,
) -> str | None:
    """What is different, None if nothing is."""
    numbers = isinstance(actual, (bool, int, float)) and isinstance(expected, (bool, int, float))
    if actual is None or expected is None:
        return None if actual is expected else f"None mismatch: {actual} is not {expected}"
    mine, wanted = _tensor(actual, numbers), _tensor(expected, numbers)
    if mine.shape != wanted.shape:
        return f"The values for attribute 'shape' do not match: {mine.shape} != {wanted.shape}."
    for name, checked in checks.items():
        if checked and not numbers and getattr(mine, name) != getattr(wanted, name):
            return (
                f"The values for attribute {name!r} do not match: "
                f"{getattr(mine, name)} != {getattr(wanted, name)}."
            )
    have, want = mine.stride(), wanted.stride()
    if check_stride and have != want:
        return f"The values for attribute 'stride()' do not match: {have} != {want}."
    pairs = [_TOLERANCES.get(t.dtype, (0.0, 0.0)) for t in (mine, wanted)]
    rtol, atol = tolerances or (max(p[0] for p in pairs), max(p[1] for p in pairs))
    a, b = (_array(t) for t in (mine, wanted))
    with np.errstate(all="ignore"):
        near = np.asarray(np.abs(a - b) <= atol + rtol * np.abs(b), bool)
        close = (a == b) | near & np.isfinite(b.astype(np.float64))
    if equal_nan and a.dtype == b.dtype == np.float64:
        close |= np.isnan(a) & np.isnan(b)
    if close.all():
        return None
    return _described(actual, expected, a, b, ~close, (atol, rtol))


def _tensor(value: Any, number: bool) -> Tensor:
    if number:
        dtype = float64 if isinstance(value, float) else None
        return as_tensor(value, dtype)
    if isinstance(value, (Tensor, np.ndarray, np.generic, bool, int, float)):
        return as_tensor(value).detach()
    raise TypeError(f"assert_close(): cannot compare a {type(value).__name__}")


def _array(tensor: Tensor) -> np.ndarray:
    """The elements so that differences are exact: as float64, integers as Python's."""
    array: np.ndarray = tensor.detach().numpy(force=True)
    return array.astype(np.float64 if tensor.dtype.is_floating_point else object)


def _described(
    actual: Any,
    expected: Any,
    a: np.ndarray,
    b: np.ndarray,
    wrong: np.ndarray,
    allowed: tuple[float, float],
) -> str:
    with np.errstate(all="ignore"):
        absolute = np.where(wrong, np.abs(a - b), 0).astype(np.float64)
        relative = np.where(wrong, absolute / np.abs(b.astype(np.float64)), 0.0)
    exact = allowed == (0.0, 0.0)
    limits = ["" if exact else f" (up to {limit} allowed)" for limit in allowed]
    close = "equal" if exact else "close"
    if not wrong.shape:
        numbers = [v.item() if isinstance(v, Tensor) else v for v in (actual, expected)]
        lines = [f"Scalars are not {close}!", "", f"Expected {numbers[1]} but got {numbers[0]}."]
    else:
        share = f"({100 * wrong.mean():.1f}%)"
        lines = [f"Tensor-likes are not {close}!", ""]
        lines += [f"Mismatched elements: {wrong.sum()} / {wrong.size} {share}"]
    whole = a.dtype == object and b.dtype == object
    for word, values, limit in zip(
        ("absolute", "relative"), (absolute, relative), limits, strict=True
    ):
        largest = np.where(np.isnan(values), np.inf, np.minimum(values, np.finfo(np.float64).max))
        place = tuple(int(i) for i in np.unravel_index(int(largest.argmax()), values.shape))
        found: Any = values[place]
        found = int(found) if whole and word == "absolute" else float(found)
        if wrong.shape:
            lines.append(f"Greatest {word} difference: {found} at index {place}{limit}")
        else:
            lines.append(f"{word.capitalize()} difference: {found}{limit}")
    return "\n".join(lines)
