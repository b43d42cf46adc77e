"""NumPy's arrays and buffers in Python's state, beside the tensors of a trace.

In: the arrays whose content a trace guards. What a tensor is made of is copied while it is traced,
because the traced function may change the array before the program runs. Of a tensor that shares
an array's memory the program reads what is there when it runs. So if the traced function has
changed the array by NumPy's means, or a buffer by Python's, the order of the two is lost, and the
function is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flamec.common_memory import memory_of, share_memory
from flamec.errors import CompileError
from flamec.guarded_values import Guard
from flamec.sources import InputSource


class StateArrays:
    """Of one trace."""

    def __init__(self) -> None:
        self._owners: set[int] = set()  # ids of the arrays that have the memory

    def met(self, array: np.ndarray) -> None:
        """The content of an array is guarded."""
        self._owners.add(id(_with_memory(array)))

    def know(self, array: np.ndarray) -> bool:
        """Whether the content of an array, or of what it is a view of, is guarded."""
        return id(_with_memory(array)) in self._owners

    def refuse_changes(
        self, name: str, guards: Iterable[Guard], sources: Sequence[InputSource]
    ) -> None:
        """CompileError if an array has changed whose memory inputs of the program have."""
        changed = [guard for guard in guards if guard.kind == "content" and not guard.holds()]
        inputs = [array for s in sources if isinstance(array := _array_of(s), np.ndarray)]
        for guard in changed:
            memory = memory_of(guard.owner)
            if memory is not None and any(share_memory(memory, array) for array in inputs):
                raise CompileError(
                    f"{name}: {guard.name} changes by other means than a tensor's, and tensors "
                    "that the function uses share its memory: a program cannot tell what they held "
                    "when. Change the tensor instead, or use a copy (flamec.tensor)"
                )


def _with_memory(array: np.ndarray) -> np.ndarray:
    """The array that has the memory which an array is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _array_of(source: InputSource) -> Any:
    if source.kind == "base":
        return None if source.storage is None else source.storage.base
    return source.tensor._array if source.kind == "captured" and source.tensor is not None else None
