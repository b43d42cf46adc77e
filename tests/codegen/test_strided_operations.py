"""Eager operations on a GPU read and write arrays with gaps and at odd addresses where they lie."""

from __future__ import annotations

import pytest
from interpreted import run_interpreted

from flamec.symbolic_sizes import Operand, operand


def test_kernels_of_strided_operations() -> None:
    assert run_interpreted("triton_eager.py", []) == [{"differing": [], "outside": []}]


def test_kernels_without_elements() -> None:
    """Nothing is looked up, divided or reported for elements that do not exist."""
    assert run_interpreted("triton_empty.py", []) == [{"wrong": {}}]


def test_how_arrays_with_gaps_lie() -> None:
    assert operand((4, 3), (5, 1)) == Operand((0, 1), (4, 3), (4, 5))
    assert operand((4, 2), (6, 2)) == Operand((0, 1), (4, 2), (4, 3, 2))
    assert operand((4, 2), (5, 3)) == Operand((0, 1), (4, 2), (4, 5), 3)
    assert operand((4,), (6,)) == Operand((0,), (4,), (4, 6))
    assert operand((3, 4), (1, 5)) == Operand((1, 0), (3, 4), (4, 5))
    assert operand((3, 2, 4), (5, 0, 1)) == Operand((0, 2), (3, 2, 4), (3, 5))
    for strides in ((1, 1), (3, 2), (-4, 1), (2, 1)):
        with pytest.raises(ValueError, match="strides"):
            operand((3, 3), strides)
