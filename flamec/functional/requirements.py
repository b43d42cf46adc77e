"""What operations ask of values: looked at before an operation runs, or by the program.

In: a tensor and a condition. Out: the tensor, to be used in its place: while a function is
compiled it is one that a program looks at, with the same error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flamec.dispatch import apply_named
from flamec.functional.primitives import require
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import all_true


def required(
    x: Tensor, condition: Callable[[Any], Any], message: str, waits: bool = False
) -> Tensor:
    """``x``, for whose elements (as an array or a tensor) ``condition`` holds.

    The error, whose ``message`` begins with the operation's name, is an OperationError at once, or
    a RuntimeError and ValueError of the program. Values on a GPU are looked at in eager mode if
    the caller ``waits`` for them.
    """
    array = x._array
    if thread.trace is not None or array is None:
        result: Tensor = apply_named(
            "require", condition(x), x, message=message, error="ValueError"
        )
        return result
    if isinstance(array, np.ndarray):
        require(bool(np.all(condition(array))), message)
    elif waits:
        require(all_true(condition(x), message), message)
    return x


def within(low: float, high: float) -> Callable[[Any], Any]:
    """The condition that elements lie between two numbers, which they may be."""
    return lambda x: (x >= low) & (x <= high)
