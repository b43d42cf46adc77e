"""A number stored everywhere in a tensor on a GPU, by one fill of the driver.

In: the tensor and a Python number. Out: whether it is stored; if not, nothing has happened, and the
caller writes it in another way (``dispatch.write``), with all checks and errors. Invariant: the
tensor's elements lie side by side, and nothing of it is recorded.
"""

from __future__ import annotations

from typing import Any

from flamec.arithmetic_in_place import may_be_tracked, note_write
from flamec.device_array import DeviceArray
from flamec.functional.promotion import constant, scalar_of
from flamec.gpu import filling_word, gpu_of
from flamec.state import process, thread
from flamec.tensor import Tensor

_words: dict[Any, tuple[int, int] | None] = {}  # None: the driver repeats no words so wide
_MOST_WORDS = 4096
_NUMBERS = frozenset((bool, int, float))


def filled(target: Tensor, value: Any) -> bool:
    """Store a number if that is one fill; RuntimeError if the dtype has no such number."""
    array, kind = target._array, value.__class__
    if array.__class__ is not DeviceArray or kind not in _NUMBERS or not array.c_contiguous:
        return False
    if thread.trace is not None or process.recorder is not None:
        return False
    if thread.grad_enabled and may_be_tracked(target):
        return False
    dtype = target._type.dtype
    key = value or repr(value), kind, dtype  # 0.0 and -0.0 are equal
    if key not in _words:
        scalar_of(value, target)
        if len(_words) >= _MOST_WORDS:
            _words.clear()
        _words[key] = filling_word(constant(value, dtype)._array)
    word = _words[key]
    if word is None or array.address % word[1]:
        return False
    nbytes = array.nbytes
    if nbytes:
        gpu_of(array).runtime.fill(array.address, word[0], nbytes, word[1])
    note_write(target)
    return True
