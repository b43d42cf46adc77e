"""Results and states as plain values, and whether those of two runs agree: what tests share."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

import flamec


def plain(value: Any) -> Any:
    """The value with containers as lists that begin with their type's name, tensors as numbers."""
    if isinstance(value, (list, tuple, deque)):
        return [type(value).__name__, *map(plain, value)]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return ["tensor", value.tolist()] if isinstance(value, flamec.Tensor) else value


def same(one: Any, other: Any) -> None:
    """Assert that plain values agree: floats to ten digits, all else exactly."""
    assert type(one) is type(other)
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            same(a, b)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        same(list(one.values()), list(other.values()))
    elif isinstance(one, float):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    else:
        assert one == other
