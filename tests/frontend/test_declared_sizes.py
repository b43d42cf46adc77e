"""``mark_dynamic`` and ``dynamic=``: what programs take from declarations, and bad ones."""

from __future__ import annotations

from typing import Any

import pytest

import flamec

T = flamec.Tensor


def marked(rows: int, **bounds: Any) -> T:
    x = flamec.ones(rows, 3)
    flamec.mark_dynamic(x, 0, **bounds)
    return x


def test_bounds_decide_branches_without_guards() -> None:
    def f(x: T) -> T:
        if x.shape[0] > 2 and x.shape[0] * 3 < 1000 and x.shape[0] != 1:
            return x * 2
        return x - 1

    compiled = flamec.compile(f)
    for rows in (4, 3, 64, 17):
        assert compiled(marked(rows, min=3, max=64)).tolist() == [[2.0] * 3] * rows
    assert compiled.stats.traces == 1
    graph = compiled.programs[0].captured
    assert [str(g) for g in graph.shape_guards] == ["3 <= s0", "s0 <= 64"]
    assert compiled(flamec.ones(2, 3)).tolist() == [[0.0] * 3] * 2, "outside of the bounds"
    assert compiled(flamec.ones(65, 3)).tolist() == [[2.0] * 3] * 65
    assert compiled.stats.traces == 3


def test_multiples_are_known_to_the_program() -> None:
    def f(x: T) -> T:
        return x.reshape(x.shape[0] // 8, 8, 3).sum(1) if x.shape[0] % 8 == 0 else x

    compiled = flamec.compile(f)
    for rows in (16, 8, 64, 0):
        expected = [[8.0] * 3] * (rows // 8)
        assert compiled(marked(rows, multiple_of=8)).tolist() == expected
    assert compiled.stats.traces == 1 and not compiled.programs[0].captured.shape_guards
    assert str(compiled.programs[0].captured.graph.inputs[0].type) == "float32[8*s0, 3]"
    assert compiled(flamec.ones(12, 3)).shape == (12, 3) and compiled.stats.traces == 2


def test_arguments_of_one_declared_size_share_its_symbol() -> None:
    compiled = flamec.compile(lambda x, y: (x @ y.t()).sum(0))
    for rows in (8, 16, 24):
        x, y = marked(rows, multiple_of=8, max=64), marked(rows, multiple_of=8, max=64)
        assert compiled(x, y).tolist() == [3.0 * rows] * rows
    assert compiled.stats.traces == 1 and len(compiled.programs[0].captured.symbols) == 1


def test_declarations_that_cannot_hold() -> None:
    x = flamec.ones(6, 3)
    with pytest.raises(ValueError, match="the size 6 of axis 0 is not at least 0 and at most 4"):
        flamec.mark_dynamic(x, 0, max=4)
    with pytest.raises(ValueError, match="a multiple of 4"):
        flamec.mark_dynamic(x, 0, multiple_of=4)
    with pytest.raises(ValueError, match="no size is"):
        flamec.mark_dynamic(x, 0, min=5, max=2)
    with pytest.raises(ValueError, match="no size is at least 5 and at most 7, a multiple of 4"):
        flamec.mark_dynamic(x, 0, min=5, max=7, multiple_of=4)
    with pytest.raises(IndexError, match="axis 2"):
        flamec.mark_dynamic(x, 2)
    for arguments in ({"min": 1.5}, {"max": "8"}, {"multiple_of": True}):
        with pytest.raises(TypeError, match=f"{next(iter(arguments))} is a whole number"):
            flamec.mark_dynamic(x, 0, **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an axis is a whole number, not 'batch'"):
        flamec.mark_dynamic(x, "batch")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a tensor is marked, not a list"):
        flamec.mark_dynamic([1.0], 0)  # type: ignore[arg-type]
    for dynamic in ({"x": [0]}, "yes", 1):
        with pytest.raises(TypeError, match=r"dynamic is True, False or None.*mark_dynamic"):
            flamec.compile(lambda x: x, dynamic=dynamic)  # type: ignore[call-overload]


def test_several_axes_are_marked_at_once() -> None:
    compiled = flamec.compile(lambda x: x.sum(0))
    for rows, columns in ((3, 4), (5, 6), (1, 0)):
        x = flamec.ones(rows, columns)
        flamec.mark_dynamic(x, [0, 1])
        assert compiled(x).tolist() == [float(rows)] * columns
    assert compiled.stats.traces == 1
