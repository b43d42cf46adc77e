"""Windows of signals, as in ``torch.signal.windows``.

Each gives a tensor [M] of float32 or float64. With ``sym`` it is symmetric; without, it is the
beginning of the symmetric window that is one longer, and so periodic. ValueError for a negative
length, other dtypes, and parameters that make no window; the formulas are in
``flamec/functional/windows.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flamec.functional.creation import Options
from flamec.functional.windows import (
    BLACKMAN,
    cosines,
    triangle,
    whole_length,
    window_tensor,
)
from flamec.functional.windows import kaiser as kaiser_values
from flamec.ir.types import Device, DType, float32, float64
from flamec.memory_format import strided
from flamec.tensor import Tensor

__all__ = [
    "bartlett", "blackman", "cosine", "exponential", "gaussian", "general_cosine",
    "general_hamming", "hamming", "hann", "kaiser", "nuttall",
]  # fmt: skip


def _window(
    name: str,
    M: int,
    sym: bool,
    formula: Callable[[int, int], np.ndarray],
    dtype: DType | None,
    layout: Any,
    device: Device | str | None,
    requires_grad: bool,
) -> Tensor:
    """``formula`` of the length and the length of the symmetric window, as a tensor."""
    if not isinstance(M, int) or isinstance(M, bool):
        raise TypeError(f"{name}: the window length must be int, not {type(M).__name__}")
    if M < 0:
        raise ValueError(f"{name} requires non-negative window length, got M={M}")
    if layout is not strided:
        raise ValueError(f"{name} is implemented for strided tensors only, got: {layout}")
    options = Options(name, dtype=dtype, device=device, requires_grad=requires_grad)
    if options.dtype not in (float32, float64):
        raise ValueError(f"{name} expects float32 or float64 dtypes, got: {options.dtype}")
    return window_tensor(formula(M, whole_length(M, sym)), options)


def bartlett(
    M: int,
    *,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A triangle from 0 up to 1 and down again."""
    return _window("bartlett", M, sym, triangle, dtype, layout, device, requires_grad)


def blackman(
    M: int,
    *,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """0.42 - 0.5 cos + 0.08 cos of twice the angle."""

    def formula(length: int, whole: int) -> np.ndarray:
        return cosines(length, whole, BLACKMAN)

    return _window("blackman", M, sym, formula, dtype, layout, device, requires_grad)


def cosine(
    M: int,
    *,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Half a period of the sine."""

    def formula(length: int, whole: int) -> np.ndarray:
        return np.sin(math.pi * (np.arange(length) + 0.5) / max(whole, 1))

    return _window("cosine", M, sym, formula, dtype, layout, device, requires_grad)


def exponential(
    M: int,
    *,
    center: float | None = None,
    tau: float = 1.0,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``exp(-|n - center| / tau)``; the center of a symmetric window is its middle."""
    if tau <= 0:
        raise ValueError(f"Tau must be positive, got: {tau} instead.")
    if sym and center is not None:
        raise ValueError("Center must be None for symmetric windows")

    def formula(length: int, whole: int) -> np.ndarray:
        middle = (whole - 1) / 2 if center is None else center
        return np.exp(-np.abs(np.arange(length) - middle) / tau)

    return _window("exponential", M, sym, formula, dtype, layout, device, requires_grad)


def gaussian(
    M: int,
    *,
    std: float = 1.0,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``exp(-(n / std)**2 / 2)``, n from the middle."""
    if std <= 0:
        raise ValueError(f"Standard deviation must be positive, got: {std} instead.")

    def formula(length: int, whole: int) -> np.ndarray:
        return np.exp(-(((np.arange(length) - (whole - 1) / 2) / std) ** 2) / 2)

    return _window("gaussian", M, sym, formula, dtype, layout, device, requires_grad)


def general_cosine(
    M: int,
    *,
    a: Iterable[float],
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """The sum of ``(-1)**i * a[i] * cos(2 pi i n / (N - 1))``."""
    if not isinstance(a, Iterable):
        raise TypeError("Coefficients must be a list/tuple")
    weights = tuple(a)
    if not weights:
        raise ValueError("Coefficients cannot be empty")

    def formula(length: int, whole: int) -> np.ndarray:
        return cosines(length, whole, weights)

    return _window("general_cosine", M, sym, formula, dtype, layout, device, requires_grad)


def general_hamming(
    M: int,
    *,
    alpha: float = 0.54,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``alpha - (1 - alpha) * cos``."""

    def formula(length: int, whole: int) -> np.ndarray:
        return cosines(length, whole, (alpha, 1.0 - alpha))

    return _window("general_hamming", M, sym, formula, dtype, layout, device, requires_grad)


def hamming(
    M: int,
    *,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """0.54 - 0.46 cos."""

    def formula(length: int, whole: int) -> np.ndarray:
        return cosines(length, whole, (0.54, 0.46))

    return _window("hamming", M, sym, formula, dtype, layout, device, requires_grad)


def hann(
    M: int,
    *,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """0.5 - 0.5 cos."""

    def formula(length: int, whole: int) -> np.ndarray:
        return cosines(length, whole, (0.5, 0.5))

    return _window("hann", M, sym, formula, dtype, layout, device, requires_grad)


def kaiser(
    M: int,
    *,
    beta: float = 12.0,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """I0(beta sqrt(1 - t**2)) / I0(beta) for t from -1 to 1."""
    if beta < 0:
        raise ValueError(f"beta must be non-negative, got: {beta} instead.")

    def formula(length: int, whole: int) -> np.ndarray:
        return kaiser_values(length, whole, beta)

    return _window("kaiser", M, sym, formula, dtype, layout, device, requires_grad)


def nuttall(
    M: int,
    *,
    sym: bool = True,
    dtype: DType | None = None,
    layout: Any = strided,
    device: Device | str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Four cosines with low side lobes."""

    def formula(length: int, whole: int) -> np.ndarray:
        return cosines(length, whole, (0.3635819, 0.4891775, 0.1365995, 0.0106411))

    return _window("nuttall", M, sym, formula, dtype, layout, device, requires_grad)
