"""Where an error arose, and what probably has to change, for a layer that refused its input.

In: the layer and the arguments of the call that failed. Out: a sentence, or None where nothing
about them looks wrong. It looks at sizes that layers have under PyTorch's names, at dtypes and at
devices, so it serves every layer that follows those names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flamec.errors import OperationError, OperationTypeError, OutOfRangeError
from flamec.ir.shape import Dim
from flamec.tensor import Tensor

__all__ = ["likely_fix", "tell_where"]

# attribute that says how large a dimension of the input must be -> the dimension
_SIZES: Mapping[str, int] = {
    "in_features": -1,
    "embed_dim": -1,
    "input_size": -1,
    "num_features": 1,
    "num_channels": 1,
    "in1_features": -1,
}


def tell_where(error: Exception, layer: Any, path: str, arguments: Sequence[Any]) -> None:
    """Add to an error in which module it arose, and what probably has to change there."""
    if any(note.startswith("in module ") for note in getattr(error, "__notes__", ())):
        return
    name, path = type(layer).__name__, path.removeprefix("_orig_mod").lstrip(".")
    error.add_note(f"in module {path} ({name})" if path else f"in module {name}")
    if isinstance(error, (OperationError, OperationTypeError, OutOfRangeError)):
        fix = likely_fix(layer, arguments)
        if fix is not None:
            error.add_note(f"likely fix: {fix}")


def likely_fix(layer: Any, arguments: Sequence[Any]) -> str | None:
    """How to make ``layer`` and its first tensor argument fit."""
    inputs = [a for a in arguments if isinstance(a, Tensor)]
    if not inputs:
        return None
    x = inputs[0]
    own = [p for p in layer._parameters.values() if p is not None]
    return _size(layer, x) or _index(layer, x) or (_kind(x, own[0]) if own else None)


def _size(layer: Any, x: Tensor) -> str | None:
    shape = x._type.shape
    for attribute, dimension, wanted in _expected(layer, len(shape)):
        if not -len(shape) <= dimension < len(shape):
            return (
                f"the input has {len(shape)} dimensions, {list(shape)}, and dimension {dimension} "
                f"is to be {attribute}={wanted}: add what is missing with unsqueeze() or reshape()"
            )
        have = shape[dimension]
        if have == wanted:
            continue
        name = type(layer).__name__
        text = (
            f"dimension {dimension} of the input is {have}, but {attribute}={wanted}: make the "
            f"layer as {name}({attribute}={have}, ...), or let what comes before it give {wanted}"
        )
        places = [i for i, d in enumerate(shape) if d == wanted]
        if len(places) == 1:
            text += (
                f"; if dimension {places[0]} is meant, move it there: "
                f"x.movedim({places[0]}, {dimension})"
            )
        return text
    return None


def _expected(layer: Any, rank: int) -> list[tuple[str, int, Dim]]:
    """(attribute, dimension, size) of what the layer asks of its input."""
    found = [
        (name, axis, getattr(layer, name))
        for name, axis in _SIZES.items()
        if isinstance(getattr(layer, name, None), int)
    ]
    channels, kernel = getattr(layer, "in_channels", None), getattr(layer, "kernel_size", None)
    if isinstance(channels, int) and isinstance(kernel, tuple):
        found.append(("in_channels", -1 - len(kernel), channels))
    normalized = getattr(layer, "normalized_shape", None)
    if isinstance(normalized, tuple):
        found += [
            ("normalized_shape", i - len(normalized), size) for i, size in enumerate(normalized)
        ]
    return found


def _kind(x: Tensor, parameter: Tensor) -> str | None:
    if x.device != parameter.device:
        return (
            f"the input is on {x.device}, the layer on {parameter.device}: move one, "
            f"x.to('{parameter.device}') or model.to('{x.device}')"
        )
    if x.dtype is parameter.dtype or not parameter.dtype.is_floating_point:
        return None
    if not x.dtype.is_floating_point:
        return f"convert the input: x.to({parameter.dtype})"
    return (
        f"the input is {x.dtype.name}, the layer {parameter.dtype.name}: convert one, "
        f"x.to({parameter.dtype}) or model.to({x.dtype})"
    )


def _index(layer: Any, x: Tensor) -> str | None:
    rows = getattr(layer, "num_embeddings", None)
    if not isinstance(rows, int) or x.dtype.is_floating_point:
        return None
    return f"indices go from 0 to {rows - 1}: make the table larger, or check the input"
