"""From a list of samples to a batch of tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, cast

import numpy as np

from flamec.conversion import as_tensor, from_numpy, tensor
from flamec.functional.joining import stack
from flamec.ir.types import float64
from flamec.tensor import Tensor

__all__ = ["default_collate", "default_convert"]


def default_convert(data: Any) -> Any:
    """NumPy arrays within ``data`` as tensors; the rest as it is."""
    if isinstance(data, (np.ndarray, np.generic)):
        return as_tensor(data) if data.dtype.kind in "biuf" else data
    return _same_container(data, default_convert)


def _like_mapping(model: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """A mapping of the model's class if one can be made, with what its copy has besides entries."""
    if type(model) is dict:
        return entries
    try:
        if isinstance(model, MutableMapping):
            result = copy.copy(model)
            result.update(entries)
            return result
        return cast(Any, type(model))(entries)
    except TypeError:
        return entries


def _same_container(data: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(data, Mapping):
        return _like_mapping(data, {key: convert(value) for key, value in data.items()})
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*map(convert, data))
    if isinstance(data, (list, tuple)):
        return [convert(value) for value in data]
    return data


def default_collate(batch: Any) -> Any:
    """Samples that are alike, joined: tensors and arrays stacked, numbers as a tensor.

    Mappings, which keep their class, and sequences are joined entry by entry; text and bytes
    stay as they are.
    Raises TypeError for other types and RuntimeError where shapes or lengths differ.
    """
    first = batch[0]
    if isinstance(first, Tensor):
        return stack(list(batch))
    if isinstance(first, (np.ndarray, np.generic)):
        return _of_arrays(batch, first)
    if isinstance(first, float):
        return tensor(list(batch), dtype=float64)
    if isinstance(first, (bool, int)):
        return tensor(list(batch))
    if isinstance(first, (str, bytes)):
        return batch
    if isinstance(first, Mapping):
        joined = {key: default_collate([sample[key] for sample in batch]) for key in first}
        return _like_mapping(first, joined)
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in batch):
            raise RuntimeError("each element in list of batch should be of equal size")
        columns = [default_collate(column) for column in zip(*batch, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else columns
    raise TypeError(
        "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; "
        f"found {type(first)}"
    )


def _of_arrays(batch: Sequence[Any], first: Any) -> Tensor:
    if first.dtype.kind not in "biuf" and first.dtype.name != "bfloat16":
        raise TypeError(
            f"default_collate: arrays must contain numbers or booleans; found {first.dtype}"
        )
    shapes = {array.shape for array in batch}
    if len(shapes) > 1:
        raise RuntimeError(f"default_collate: arrays of different shapes {sorted(shapes)}")
    return from_numpy(np.stack([np.asarray(array) for array in batch]))
