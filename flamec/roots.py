"""A trace's view of memory: what each storage holds while the function is traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamec.ir.evaluate import concrete_attributes
from flamec.ir.graph import Location, Value
from flamec.ir.shape import evaluate_dim
from flamec.ir.types import TensorType
from flamec.tensor import Storage, Tensor, ViewStep


class AliasDiscovered(Exception):
    """Two views of one storage are used; the trace must start again from the storage's base."""

    def __init__(self, storage: Storage) -> None:
        super().__init__("two views of one storage are used")
        self.storage = storage


@dataclass
class Root:
    """The graph's view of one storage: how its input was reached, and its present value.

    ``questions``: what the function asked of the layout of the input (``layout.ask``);
    ``returned``: whether a view of it is among the results.
    """

    steps: tuple[ViewStep, ...]
    value: Value
    type: TensorType
    version: int = 0
    input_position: int | None = None
    written: bool = False
    writer: Location | None = None
    questions: frozenset[str] = frozenset()
    returned: bool = False


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether several elements of a tensor share one place in memory, as in an expanded one."""
    return _overlaps(tensor._array)


def view_overlaps_itself(tensor: Tensor, sizes: Mapping[str, int]) -> bool:
    """As ``overlaps_itself``, for a tensor of a trace, where symbols have these ``sizes``."""
    if tensor._array is not None:
        return overlaps_itself(tensor)
    base = tensor._storage.base
    if not isinstance(base, np.ndarray):
        base = None
    if not any(op.name == "expand" for op, _ in tensor._steps) and (
        base is None or 0 not in base.strides
    ):
        return False
    array = base
    if array is None:  # of which only the strides count
        shape = tensor._storage.base_type.shape
        array = np.empty([evaluate_dim(d, sizes) for d in shape], np.int8)
    for op, attributes in tensor._steps:
        array = op.evaluate(concrete_attributes(attributes, sizes), array)
    return _overlaps(array)


def _overlaps(array: Any) -> bool:
    if not array.size or 0 not in array.strides:
        return False
    return any(s == 0 and d > 1 for s, d in zip(array.strides, array.shape, strict=True))
