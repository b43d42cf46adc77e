"""Positions of extremes, and running extremes, of rows that are lanes: along both axes, of all
kinds of elements, in programs over fixed and over symbolic sizes.

The oracle is a loop over elements in Python. What is counted are the kinds of numbers in the text.
"""

from __future__ import annotations

import numpy as np
import pytest

import flamec
from tests.symbolic_programs import symbolic_program

SHAPES = ((1, 1), (2, 3), (16, 5), (17, 6), (31, 40), (33, 17), (40, 33), (3, 140), (140, 20))
DTYPES = (
    np.float32, np.uint8,
    *(pytest.param(d, marks=pytest.mark.slow) for d in (np.float64, np.float16, np.int8, np.int64)),
)  # fmt: skip


def extremes(x):
    return (
        *x.cummax(1), x.cummin(1)[0], x.cummax(0)[0], x.cummin(0)[1],
        x.argmax(0), x.argmin(0), x.argmax(1),
    )  # fmt: skip


def running(x: np.ndarray, axis: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Extremes so far and the latest places of them; NaN counts as the most extreme."""
    x = np.moveaxis(x, axis, 0)
    values, places = x.copy(), np.zeros(x.shape, np.int64)
    for n in range(1, len(x)):
        beats = x[n] >= values[n - 1] if largest else x[n] <= values[n - 1]
        beats |= x[n] != x[n]
        values[n] = np.where(beats, x[n], values[n - 1])
        places[n] = np.where(beats, n, places[n - 1])
    return np.moveaxis(values, 0, axis), np.moveaxis(places, 0, axis)


def exact_extremes(x: np.ndarray) -> list[np.ndarray]:
    return [
        *running(x, 1, True), running(x, 1, False)[0], running(x, 0, True)[0],
        running(x, 0, False)[1], x.argmax(0), x.argmin(0), x.argmax(1),
    ]  # fmt: skip


def values(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Few different ones, among them the least and the greatest that there are."""
    rng = np.random.default_rng(sum(shape))
    kind = np.dtype(dtype)
    if kind.kind == "f":
        ends = [-np.inf, np.inf, np.nan]
    else:
        ends = [np.iinfo(kind).min, np.iinfo(kind).max, 3]
    common = np.array([0, 1, 2, 5, *ends]).astype(kind)
    chances = [0.4, 0.3, 0.1, 0.05, 0.1, 0.03, 0.02]
    x = rng.choice(common, shape, p=chances)
    x[:, 0], x[0] = common[4], common[4]  # no place is better than what folds begin with
    return x


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(dtype: type) -> None:
    function = flamec.compile(extremes, backend="c", fullgraph=True)
    for shape in ((3, 5), (4, 7)):
        function(flamec.from_numpy(values(shape, dtype)))
    for shape in SHAPES:
        x = values(shape, dtype)
        runs = [function]
        if shape == SHAPES[-1]:
            runs.append(flamec.compile(extremes, backend="c", dynamic=False))
        for run in runs:
            found = run(flamec.from_numpy(x))
            for number, (a, b) in enumerate(zip(found, exact_extremes(x), strict=True)):
                np.testing.assert_array_equal(a.numpy(), b, f"{number} {shape}")
    assert function.stats.traces == 2


def test_rows_without_elements_have_no_running_extremes() -> None:
    function = symbolic_program(lambda x: (*x.cummax(1), x.cummin(0)[0]))
    for shape in ((0, 4), (4, 0)):
        assert [y.shape for y in function(flamec.ones(*shape))] == [shape] * 3


def test_positions_that_nobody_reads_are_not_kept() -> None:
    """And those that are kept have 32 bits in registers; folds begin with what no element beats."""
    values = symbolic_program(lambda x: x.cummax(1)[0]).programs[0].stages["source"]
    assert "vsel_f32(better" in values and "vsel_i" not in values[values.index("loop_0(") :]
    both = symbolic_program(lambda x: x.cummax(1)).programs[0].stages["source"]
    assert "vsel_i32(better" in both and "vlt_i" not in both[both.index("loop_0(") :]


def test_columns_of_known_number_are_folded_in_registers() -> None:
    """Side by side and not along each, and no more at once than there are."""
    function = flamec.compile(lambda x: x.argmax(0), backend="c", dynamic=False)
    function(flamec.ones(1000, 100))
    (kernel,) = function.programs[0].prepared.compiled.kernels
    assert [p.program.kind for p in kernel.parts] == ["along rows"]
    source = function.programs[0].stages["source"]
    assert "now_v3_6_at" in source and "now_v3_8_at" not in source
