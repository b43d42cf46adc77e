"""Different values: unique, unique_consecutive.

In: a tensor. Out: its different elements, or slices along a dimension, and on request where each
element went and how often each occurs. The size depends on values, so these are refused
while tracing. Every NaN is different from every other. No derivatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.errors import OperationError, user_location
from flamec.functional.dimensions import dimension
from flamec.functional.promotion import require_tensor
from flamec.ir.types import DType
from flamec.tensor import Tensor
from flamec.values import concrete_array


def _read(name: str, input: Any, dim: int | None) -> tuple[np.ndarray, int | None]:
    require_tensor(name, "input", input)
    array = concrete_array(input, f"{name}()")
    if dim is None:
        return array, None
    axis = dimension(name, dim, array.ndim)
    if array.shape[axis : axis + 1] == (0,) and array.size == 0:
        return array, axis
    if array.size == 0:
        raise OperationError(
            f"{name}(): There are 0 sized dimensions, and they aren't selected, so unique cannot "
            f"be applied (at {user_location()})"
        )
    return np.atleast_1d(array), axis


def _sortable(array: np.ndarray, dtype: DType) -> np.ndarray:
    return array.astype(np.float32) if dtype.is_half else array


def _results(
    input: Tensor, values: np.ndarray, inverse: Any, counts: Any, wanted: tuple[bool, bool]
) -> Any:
    device = input._type.device
    parts = [np.array(values, input._type.dtype.numpy, order="C")]
    for array, is_wanted in zip((inverse, counts), wanted, strict=True):
        if is_wanted:
            parts.append(np.array(array, np.int64, order="C"))
    tensors = tuple(constant_array(part, device) for part in parts)
    return tensors if len(tensors) > 1 else tensors[0]


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The different elements (or slices along ``dim``), in order whether asked for or not.

    With ``return_inverse`` the position of each element among them, with ``return_counts`` how
    often each occurs: (values, inverse, counts).
    """
    array, axis = _read("unique", input, dim)
    keys = _sortable(array, input._type.dtype)
    values, inverse, counts = np.unique(
        keys, return_inverse=True, return_counts=True, axis=axis, equal_nan=False
    )
    inverse = inverse.reshape(array.shape if axis is None else (array.shape[axis],))
    return _results(input, values, inverse, counts, (return_inverse, return_counts))


def unique_consecutive(
    input: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The elements (or slices along ``dim``) without those equal to the one just before.

    Results as those of ``unique``.
    """
    array, axis = _read("unique_consecutive", input, dim)
    line = array.reshape(-1) if axis is None else np.moveaxis(array, axis, 0)
    size = line.shape[0]
    rows = line.reshape(size, -1 if line.size else 0)
    first = np.ones(size, bool)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    values = line[first] if axis is None else np.moveaxis(line[first], 0, axis)
    inverse = np.cumsum(first) - 1
    counts = np.diff(np.append(np.flatnonzero(first), size))
    if axis is None:
        inverse = inverse.reshape(array.shape)
    return _results(input, values, inverse, counts, (return_inverse, return_counts))


__all__ = ["unique", "unique_consecutive"]

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
