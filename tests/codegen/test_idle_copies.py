"""Changes of few elements of an input: the rest stays where it is, and no kernel copies it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec.codegen.triton.compile_graph import compile_graph


def _put(x: Any, rows: Any, values: Any) -> None:
    x[rows] = values


def _added(x: Any, rows: Any, values: Any) -> None:
    x.index_add_(0, rows, values)


def _put_and_kept(x: Any, rows: Any, values: Any) -> Any:
    old = x * 2
    x[rows] = values
    return old


def _put_and_old(x: Any, rows: Any, values: Any) -> Any:
    old = x.clone()
    x[rows] = values
    return old


@pytest.mark.parametrize(
    ("change", "steps"), [(_put, 1), (_added, 1), (_put_and_kept, 2), (_put_and_old, 2)]
)
def test_only_what_changes_is_written(change: Any, steps: int) -> None:
    x, values = flamec.arange(20.0).reshape(5, 4), flamec.ones(2, 4)
    rows, wanted = flamec.tensor([3, 1]), x.numpy().copy()
    compiled = flamec.compile(change)
    old = compiled(x, rows, values)
    if old is not None:
        factor = 2 if change is _put_and_kept else 1
        np.testing.assert_array_equal(old.numpy(), factor * wanted)
    wanted[[3, 1]] = 1 + (wanted[[3, 1]] if change is _added else 0)
    np.testing.assert_array_equal(x.numpy(), wanted)
    program = compiled.programs[0].prepared
    assert program.plan is not None and len(program.plan.steps) == steps
    assert len(program.compiled.kernels) == steps
    plan = compile_graph(program.optimized).plan
    assert [s.kind for s in plan.steps].count("scatter") == 1 and len(plan.steps) == steps
    assert len(plan.kernels) == len(plan.actions) == steps


def _scaled(x: Any) -> None:
    x[:, ::2] *= 2


def _column(x: Any) -> None:
    x[:, 1].sqrt_()


def _shifted(x: Any) -> None:
    x[1:] += x[:-1]


@pytest.mark.parametrize(("change", "steps"), [(_scaled, 1), (_column, 1), (_shifted, 3)])
def test_a_part_is_computed_from_itself_in_place(change: Any, steps: int) -> None:
    """One pass over the part; what other elements are computed from is computed apart."""
    x = flamec.arange(20.0).reshape(5, 4)
    eager = x.clone()
    compiled = flamec.compile(change)
    compiled(x)
    change(eager)
    np.testing.assert_array_equal(x.numpy(), eager.numpy())
    program = compiled.programs[0].prepared
    assert program.plan is not None and len(program.plan.steps) == steps
    assert len(compile_graph(program.optimized).plan.actions) == steps
