"""Windows of signals: ``hann_window`` and its like, and the formulas of all windows.

They are computed by NumPy in float64, whole, and rounded once: a window is a constant.

F. J. Harris, "On the use of windows for harmonic analysis with the discrete Fourier transform",
Proceedings of the IEEE 66 (1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from flamec.conversion import tensor
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.creation import Options
from flamec.tensor import Tensor

__all__ = ["bartlett_window", "blackman_window", "hamming_window", "hann_window", "kaiser_window"]

BLACKMAN = (0.42, 0.5, 0.08)


# formulas: a window of ``length``, the first part of a symmetric one of ``whole`` elements --------
def triangle(length: int, whole: int) -> np.ndarray:
    """From 0 up to 1 in the middle, and down again."""
    return np.bartlett(whole)[:length]


def cosines(length: int, whole: int, weights: Iterable[float]) -> np.ndarray:
    """The sum of cosines of 0, 1, 2, ... periods with alternating signs."""
    if whole == 1:
        return np.ones(length)
    angle = 2 * math.pi * np.arange(length) / (whole - 1)
    terms = [(-1) ** i * weight * np.cos(i * angle) for i, weight in enumerate(weights)]
    return np.sum(terms, axis=0)


def kaiser(length: int, whole: int, beta: float) -> np.ndarray:
    """The modified Bessel function of a semicircle, 1 in the middle."""
    return np.kaiser(whole, beta)[:length]


def window_tensor(values: np.ndarray, options: Options) -> Tensor:
    """A window as a tensor of the dtype and on the device that were asked for."""
    rounded = values.astype(options.dtype.numpy)
    return options.finished(tensor(rounded, dtype=options.dtype, device=options.device))


# functions of the package ---------------------------------------------------------------------
def _checked(name: str, window_length: Any, periodic: bool, options: dict[str, Any]) -> Any:
    """The options, and the lengths of the window and of the symmetric one that it begins."""
    if not isinstance(window_length, int) or isinstance(window_length, bool):
        raise OperationTypeError(
            f"{name}(): window_length must be int, not {type(window_length).__name__} "
            f"(at {user_location()})"
        )
    settings = Options(name, **options)
    if not settings.dtype.is_floating_point:
        raise OperationError(
            f"{name} expects floating point dtypes, got: {settings.dtype.name} "
            f"(at {user_location()})"
        )
    if window_length < 0:
        raise OperationError(
            f"{name} requires non-negative window_length, got window_length={window_length} "
            f"(at {user_location()})"
        )
    return settings, window_length, whole_length(window_length, not periodic)


def whole_length(length: int, symmetric: bool) -> int:
    """How many elements the symmetric window has that one of ``length`` is the beginning of."""
    return length if symmetric or length <= 1 else length + 1


def bartlett_window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
    """A triangle: [window_length], of a floating-point dtype.

    ``periodic``: without the last element of the symmetric window that is one longer.
    RuntimeError for a negative length and for other dtypes.
    """
    settings, length, whole = _checked("bartlett_window", window_length, periodic, options)
    return window_tensor(triangle(length, whole), settings)


def blackman_window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
    """0.42 - 0.5 cos + 0.08 cos of twice the angle; see ``bartlett_window``."""
    settings, length, whole = _checked("blackman_window", window_length, periodic, options)
    return window_tensor(cosines(length, whole, BLACKMAN), settings)


def hamming_window(
    window_length: int,
    periodic: bool = True,
    alpha: float = 0.54,
    beta: float = 0.46,
    **options: Any,
) -> Tensor:
    """alpha - beta cos; see ``bartlett_window``."""
    settings, length, whole = _checked("hamming_window", window_length, periodic, options)
    return window_tensor(cosines(length, whole, (alpha, beta)), settings)


def hann_window(window_length: int, periodic: bool = True, **options: Any) -> Tensor:
    """0.5 - 0.5 cos; see ``bartlett_window``."""
    settings, length, whole = _checked("hann_window", window_length, periodic, options)
    return window_tensor(cosines(length, whole, (0.5, 0.5)), settings)


def kaiser_window(
    window_length: int, periodic: bool = True, beta: float = 12.0, **options: Any
) -> Tensor:
    """I0(beta sqrt(1 - t**2)) / I0(beta) for t from -1 to 1; see ``bartlett_window``."""
    settings, length, whole = _checked("kaiser_window", window_length, periodic, options)
    return window_tensor(kaiser(length, whole, beta), settings)
