"""``x[i]`` where ``i`` is a tensor: a view in eager mode, so changes in place go both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.errors import CompileError

KEPT = flamec.zeros(4, 3)


def _in_place(x: Any, i: Any) -> Any:
    x[i] += 1
    x[:, i] *= 2
    return x.sum()


def _view_is_added_to(x: Any, i: Any) -> Any:
    y = x.clone()
    row = y[i]
    row += 1
    return y


def _part_of_a_view(x: Any, i: Any) -> Any:
    column = x[:, i]
    column[1:] = 5
    return x * 1


def _number(x: Any, i: Any) -> Any:
    x[i.item()].mul_(3)
    return x * 1


def _source_changes(x: Any, i: Any) -> Any:
    row = x[i]
    x.mul_(2)
    return row + 0


def _source_is_set(x: Any, i: Any) -> Any:
    row = x[i]
    x[i] = 5.0
    return row * 2


def _source_changes_too_late(x: Any, i: Any) -> Any:
    total = x[i].sum()
    x.mul_(2)
    return total + x


def _captured(x: Any, i: Any) -> Any:
    KEPT[i].add_(x[0])
    return x * 2


def _put_back_and_changed(x: Any, i: Any) -> Any:
    row = x[i]
    row += 1
    x[i] = row
    row += 1
    return x * 1


# and how often the value of the index is read
CASES: list[tuple[Callable[..., Any], int]] = [
    (_in_place, 0),
    (_view_is_added_to, 1),
    (_part_of_a_view, 1),
    (_number, 1),
    (_source_changes, 1),
    (_source_is_set, 1),
    (_source_changes_too_late, 0),
    (_captured, 1),
    (_put_back_and_changed, 1),
]


@pytest.mark.parametrize(("function", "reads"), CASES)
def test_changes_in_place(function: Callable[..., Any], reads: int) -> None:
    compiled = flamec.compile(function, backend="evaluate")
    for place in (1, 2, 0):
        i = flamec.tensor(place)
        results = []
        for call in (function, compiled):
            KEPT.zero_()
            x = flamec.arange(12).reshape(4, 3) / 7
            results.append([call(x, i).numpy(), x.numpy(), KEPT.numpy().copy()])
        for found, wanted in zip(results[1], results[0], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert len(compiled.programs[0].splits) == reads
    assert compiled.stats.traces <= 2


def test_where_the_index_cannot_be_read() -> None:
    compiled = flamec.compile(_view_is_added_to, fullgraph=True)
    with pytest.raises(CompileError, match=r"is a copy while .*test_picked_elements"):
        compiled(flamec.ones(4, 3), flamec.tensor(1))

    def batched(x: flamec.Tensor, i: flamec.Tensor) -> flamec.Tensor:
        return flamec.vmap(_view_is_added_to)(x, i)

    with pytest.raises(CompileError, match="is a copy while a function is traced here"):
        batched(flamec.ones(2, 4, 3), flamec.tensor([1, 2]))


@pytest.mark.filterwarnings("error")
def test_an_index_that_is_computed_is_not_kept() -> None:
    compiled = flamec.compile(lambda x: x[x.argmax()] + int(x[x.argmin()] * 0), backend="evaluate")
    for k in range(3):
        assert compiled(flamec.arange(4.0) + k).item() == 3.0 + k
    assert compiled.stats.python_runs == 0
