"""Numbers and tensors stored in tensors on a GPU, where nothing is recorded, by one launch or copy.

In: a tensor and what is to be stored. Out: whether it is; if not, nothing has happened, and
``dispatch.write`` does it, with all checks and errors. A number is stored by a fill of the driver
where elements lie side by side; what has another dtype is converted where it is stored.
"""

from __future__ import annotations

from typing import Any

from flamec.arithmetic_in_place import may_be_tracked, note_write
from flamec.device_array import DeviceArray
from flamec.dispatch import apply_named, write
from flamec.functional.promotion import constant, scalar_of
from flamec.fusing import InPlace
from flamec.gpu import broadcast, filling_word, gpu_of
from flamec.state import process, thread
from flamec.tensor import Tensor

_words: dict[Any, tuple[int, int] | None] = {}  # None: the driver repeats no words so wide
_MOST_WORDS = 4096
_NUMBERS = frozenset((bool, int, float))


def filled(target: Tensor, value: Any) -> bool:
    """Store a number; RuntimeError if the dtype has no such number."""
    array, kind = target._array, value.__class__
    if array.__class__ is not DeviceArray or kind not in _NUMBERS or _is_seen(target):
        return False
    dtype = target._type.dtype
    if array.c_contiguous:
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
    elif 0 in array.strides:
        return False
    else:
        number = scalar_of(value, target)._array
        gpu_of(array).copy(array, broadcast(number, array.shape))
    note_write(target)
    return True


def copied(target: Tensor, source: Tensor) -> bool:
    """Store a tensor of the same shape."""
    array, data = target._array, source._array
    if array.__class__ is not DeviceArray or data.__class__ is not DeviceArray:
        return False
    if array.shape != data.shape or array.device != data.device:
        return False
    if _is_seen(target) or (thread.grad_enabled and may_be_tracked(source)):
        return False
    if array.dtype is not data.dtype:
        return _converted(target, source)
    if array.address != data.address or array.strides != data.strides:
        if 0 in array.strides:
            return False
        gpu_of(array).copy(array, data)
    note_write(target)
    return True


def _convert(target: Tensor, source: Tensor) -> None:
    write(target, apply_named("convert", source, dtype=target._type.dtype))


_converted = InPlace(_convert)


def _is_seen(target: Tensor) -> bool:
    """Whether somebody is to know of the change but who reads the tensor."""
    if thread.trace is not None or process.recorder is not None:
        return True
    return thread.grad_enabled and may_be_tracked(target)
