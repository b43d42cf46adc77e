"""A trace's view of memory: what each storage holds while the function is traced."""

from __future__ import annotations

from dataclasses import dataclass

from flamec.ir.graph import Location, Value
from flamec.ir.types import TensorType
from flamec.tensor import Storage, Tensor, ViewStep


class AliasDiscovered(Exception):
    """Two views of one storage are used; the trace must start again from the storage's base."""

    def __init__(self, storage: Storage) -> None:
        super().__init__("two views of one storage are used")
        self.storage = storage


@dataclass
class Root:
    """The graph's view of one storage: how its input was reached, and its present value."""

    steps: tuple[ViewStep, ...]
    value: Value
    type: TensorType
    version: int = 0
    input_position: int | None = None
    written: bool = False
    writer: Location | None = None


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether several elements of a tensor share one place in memory, as in an expanded one."""
    array = tensor._array
    if not array.size or 0 not in array.strides:
        return False
    return any(s == 0 and d > 1 for s, d in zip(array.strides, array.shape, strict=True))
