"""NumPy's numbers and arrays of numbers in pickles: their parts checked, then put together.

In: what a pickle names and the plain values it gives. Out: arrays, and numbers of NumPy, of the
types below. A checkpoint's best score is often one. Other dtypes (objects, text, records) and
bytes in another order than this machine's are refused.

The forms are those of ``numpy.generic.__reduce__``, ``numpy.dtype.__reduce__`` and
``numpy.ndarray.__reduce__``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.saving.errors import FileFormatError

__all__ = ["CALLS", "STATES"]

_NUMBERS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)")
_NATIVE = ("<" if sys.byteorder == "little" else ">", "|", "=")


def _dtype(text: Any, align: Any = False, copy: Any = True) -> np.dtype[Any]:
    if type(text) is not str or not _NUMBERS.fullmatch(text):
        raise FileFormatError(f"arrays of dtype {text!r:.80} are not supported")
    _check_order(text[0] if text[0] in "<>|=" else "=")
    return np.dtype(text)


def _set_order(dtype: np.dtype[Any], state: Any) -> None:
    """The rest of a dtype: a version, the order of bytes; of numbers there is nothing else."""
    if not isinstance(state, tuple) or len(state) < 5 or any(state[2:5]):
        raise FileFormatError(f"a dtype of numbers has the state {state!r:.80}")
    _check_order(state[1])


def _check_order(order: Any) -> None:
    if order not in _NATIVE:
        raise FileFormatError("an array of NumPy has its bytes in another order than this machine")


def _number(dtype: Any, content: Any) -> Any:
    return _filled(dtype, (), content, "C")[()]


def _empty(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What is there of an array before its state."""
    return np.empty(0, np.int8)


def _set_elements(array: np.ndarray, state: Any) -> None:
    _, shape, dtype, is_fortran, content = state
    filled = _filled(dtype, shape, content, "F" if is_fortran is True else "C")
    plain: Any = (1, filled.shape, dtype, is_fortran is True, bytes(content))
    array.__setstate__(plain)


def _filled(dtype: Any, shape: Any, content: Any, order: Any, axes: Any = None) -> np.ndarray:
    """An array over ``content``, whose length is that of ``shape`` and ``dtype``."""
    if not isinstance(dtype, np.dtype) or not isinstance(content, (bytes, bytearray)):
        raise FileFormatError("an array of NumPy without a dtype or without bytes")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(n) is int and n >= 0 for n in sizes) or order not in ("C", "F") or axes:
        raise FileFormatError(f"an array of NumPy of shape {shape!r:.80}, order {order!r:.80}")
    needed = math.prod(sizes) * dtype.itemsize
    if len(content) != needed:
        raise FileFormatError(
            f"an array of NumPy of shape {list(sizes)} and dtype {dtype} has {len(content)} bytes, "
            f"not {needed}"
        )
    return np.frombuffer(bytearray(content), dtype).reshape(sizes, order=order)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    return _filled(dtype, shape, content, order, axes)


def _only_named(*_: Any) -> Any:
    raise FileFormatError("numpy.ndarray is called")


CALLS: dict[str, Callable[..., Any]] = {"numpy.dtype": _dtype, "numpy.ndarray": _only_named}
for _module in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    CALLS[f"{_module}.multiarray.scalar"] = _number
    CALLS[f"{_module}.multiarray._reconstruct"] = _empty
    CALLS[f"{_module}.numeric._frombuffer"] = _from_buffer

STATES: dict[type, Callable[[Any, Any], None]] = {
    np.dtype: _set_order,
    np.ndarray: _set_elements,
}
