"""Derivatives that share no code with flamec: central differences in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_STEP = 1e-5


def differences(
    function: Callable[[list[np.ndarray]], float], arrays: list[np.ndarray]
) -> list[np.ndarray]:
    """The gradient of a scalar function of float64 arrays, element by element."""
    results = []
    for position, array in enumerate(arrays):
        gradient = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[position][place] += sign * _STEP
                ends.append(function(moved))
            gradient[place] = (ends[0] - ends[1]) / (2 * _STEP)
        results.append(gradient)
    return results
