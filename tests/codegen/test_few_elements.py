"""Rows of few elements, windows and borders, of sizes that are known and of others.

The oracle is NumPy in float64. Sizes lie at and around those of one vector and of two.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F
from tests.symbolic_programs import symbolic_program

SIZES = (5, 6, 7, 15, 16, 17, 18, 31, 32, 33, 34, 50)
SHAPES = [(5, 5), *itertools.pairwise(SIZES), (33, 33), (70, 17)]


def pooled(x):
    """Windows that overlap, touch and leave gaps; sums, positions and doubles."""
    image = x[None, None]
    views = x.unfold(0, 3, 2).unfold(1, 2, 1)
    return (
        F.avg_pool2d(image, 3, 1, 1)[0, 0], F.avg_pool2d(image, 2)[0, 0],
        F.avg_pool2d(image, (2, 5), (1, 3))[0, 0], F.max_pool2d(image, 3, 2, 1)[0, 0],
        views.amax((-1, -2)), views.double().sum((-1, -2)), views.int().prod(-1),
        views.argmax(-1), views.var(-1, correction=0),
    )  # fmt: skip


def windows(x: np.ndarray, kernel, steps) -> np.ndarray:
    view = np.lib.stride_tricks.sliding_window_view(x, kernel)
    return view[:: steps[0], :: steps[1]]


def exactly_pooled(x: np.ndarray) -> list[np.ndarray]:
    x = x.astype(np.float64)
    zeros, least = np.pad(x, 1), np.pad(x, 1, constant_values=-np.inf)
    views = windows(x, (3, 2), (2, 1))
    return [
        windows(zeros, (3, 3), (1, 1)).mean((-1, -2)), windows(x, (2, 2), (2, 2)).mean((-1, -2)),
        windows(x, (2, 5), (1, 3)).mean((-1, -2)), windows(least, (3, 3), (2, 2)).max((-1, -2)),
        views.max((-1, -2)), views.sum((-1, -2)), np.nan_to_num(views).astype(int).prod(-1),
        views.argmax(-1), views.var(-1),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pools():
    function = flamec.compile(pooled, backend="c", fullgraph=True)
    for shape in ((9, 11), (10, 13)):
        function(flamec.ones(*shape))
    return function


@pytest.mark.parametrize("shape", SHAPES)
def test_windows(pools, shape: tuple[int, int]) -> None:
    x = np.random.default_rng(shape[1]).integers(-4, 5, shape).astype(np.float32)
    for found, exact in zip(pools(flamec.from_numpy(x)), exactly_pooled(x), strict=True):
        np.testing.assert_allclose(found.numpy(), exact, 1e-6, 1e-6)
    assert pools.stats.traces == 2


def test_known_sizes_have_the_same_loops_and_bits(pools) -> None:
    for shape in ((17, 20), (18, 33)):
        x = flamec.from_numpy(np.random.default_rng(1).standard_normal(shape, np.float32))
        fixed = flamec.compile(pooled, backend="c", dynamic=False)
        for found, wanted in zip(pools(x), fixed(x), strict=True):
            np.testing.assert_array_equal(found.numpy(), wanted.numpy())
        for program in (pools.programs[0], fixed.programs[0]):
            loops = program.stages["source"].split("static void loop_")
            few = [loop for loop in loops if "now_" in loop]
            assert len(few) >= 6, "each kind of windows has such loops"
            assert not any("acc_" in loop for loop in few), "sums of windows stay in registers"
            assert any("#pragma GCC unroll 3\n" in loop for loop in few)
        assert "a vector of each" in _source(pools), "short rows of symbolic length have no strips"


def test_nan_in_any_place_of_a_window(pools) -> None:
    for at in (0, 16, 32):
        x = np.random.default_rng(2).integers(-4, 5, (33, 33)).astype(np.float32)
        x[at, at] = np.nan
        found = pools(flamec.from_numpy(x))
        for position in (0, 1, 2, 3, 4, 5):
            exact = exactly_pooled(x)[position]
            np.testing.assert_array_equal(np.isnan(found[position].numpy()), np.isnan(exact))


def folded(x):
    """Few rows, or few columns, of a matrix of other size than it."""
    rows, columns = x[:5], x[:, :5]
    return (
        rows.sum(0), rows.amin(0), rows.argmax(0), rows.var(0), F.softmax(rows, 0),
        columns.sum(1), columns.amin(1), columns[:, :3].argmin(1), rows.t()[:, :3].sum(1),
    )  # fmt: skip


def exactly_folded(x: np.ndarray) -> list[np.ndarray]:
    x = x.astype(np.float64)
    rows, columns = x[:5], x[:, :5]
    powers = np.exp(rows)
    return [
        rows.sum(0), rows.min(0), rows.argmax(0), rows.var(0, ddof=1), powers / powers.sum(0),
        columns.sum(1), columns.min(1), columns[:, :3].argmin(1), rows[:3].sum(0),
    ]  # fmt: skip


def test_few_rows_and_few_columns() -> None:
    function = flamec.compile(folded, backend="c", fullgraph=True)
    for shape in ((6, 7), (8, 9), *SHAPES, (9, 1025), (1030, 6)):
        x = np.random.default_rng(shape[0]).standard_normal(shape, np.float32)
        for found, exact in zip(function(flamec.from_numpy(x)), exactly_folded(x), strict=True):
            np.testing.assert_allclose(found.numpy(), exact, 1e-5, 1e-6)
    assert function.stats.traces == 2


def test_rows_in_lines_that_share_a_cache_set_are_taken_in_strips() -> None:
    """Sixteen lines of memory at once are as many as a cache keeps."""
    for count, few in ((16, True), (17, False)):
        function = flamec.compile(lambda x: x.sum(0), backend="c", dynamic=False)
        x = np.random.default_rng(count).integers(-9, 9, (count, 40)).astype(np.float32)
        np.testing.assert_array_equal(function(flamec.from_numpy(x)).numpy(), x.sum(0))
        assert ("#pragma GCC unroll 16\n" in function.programs[0].stages["source"]) is few


def bordered(x, half, whole, mask):
    return (
        F.pad(x, (1, 1, 1, 1)), F.pad(x, (3, 0, 0, 2), value=7.0), F.pad(x, (20, 37)),
        F.pad(half, (1, 2)), F.pad(whole, (2, 1)), F.pad(mask, (1, 1), value=True),
        F.pad(x[::2, 1:], (1, 2)) * 2 + 1, F.pad(x.t(), (2, 1)), F.pad(x, (-1, 2)),
    )  # fmt: skip


def exactly_bordered(x, half, whole, mask) -> list[np.ndarray]:
    def line(a, low, high, value=0):
        return np.pad(a, ((0, 0), (low, high)), constant_values=value)

    return [
        np.pad(x, 1), np.pad(x, ((0, 2), (3, 0)), constant_values=7), line(x, 20, 37),
        line(half, 1, 2), line(whole, 2, 1), line(mask, 1, 1, True),
        line(x[::2, 1:], 1, 2) * 2 + 1, line(x.T, 2, 1), line(x[:, 1:], 0, 2),
    ]  # fmt: skip


def test_borders() -> None:
    """The vectors inside of an image are loaded whole, others lane by lane."""
    function = flamec.compile(bordered, backend="c", fullgraph=True)
    for shape in ((4, 7), (3, 5), *itertools.product((1, 5), (2, 13, 14, 15, 16, 29, 31, 32, 66))):
        x = np.random.default_rng(shape[1]).integers(-9, 9, shape)
        arrays = [x.astype(np.float32), x.astype(np.float16), x, x > 0]
        found = function(*map(flamec.from_numpy, arrays))
        for position, (y, exact) in enumerate(zip(found, exactly_bordered(*arrays), strict=True)):
            np.testing.assert_array_equal(y.numpy(), exact, f"{position} {shape}")
    assert function.stats.traces == 2


def test_the_inside_of_an_image_has_a_loop_of_its_own() -> None:
    function = symbolic_program(lambda x: F.pad(x, (1, 1)))
    loops = re.findall(r"const int64_t inside = .*\n *const v_f32 v1 = (\w+)\(", _source(function))
    assert loops == ["vload_f32"]
    assert "at0 +=" not in _source(function), "rows along one dimension are numbers times a size"
    image = flamec.compile(lambda x: F.pad(x, (1, 1, 1, 1)), backend="c", fullgraph=True)
    for shape in ((2, 3, 5), (3, 4, 7)):
        image(flamec.ones(*shape))
    assert "{ at0 += s2; at1 += s2 + 2; }" in _source(image), "where rows begin is counted"


def test_which_lanes_of_a_border_exist_is_found_once_for_each_place() -> None:
    """Rows of at most one whole vector have a loop in which that is the same for all of them."""
    taken = symbolic_program(lambda x: F.pad(x, (1, 0)) + F.pad(x, (0, 1)))
    source = _source(taken)
    assert "s1 + 1 < 2 * FLAMEC_LANES" in source
    assert "vload_lanes_f32" in source and "vwindow_f32(p" not in source
    for length in (1, 2, 14, 15, 16, 17, 30, 31, 32, 47, 65):
        x = np.random.default_rng(length).integers(-9, 9, (3, length)).astype(np.float32)
        exact = np.pad(x, ((0, 0), (1, 0))) + np.pad(x, ((0, 0), (0, 1)))
        np.testing.assert_array_equal(taken(flamec.from_numpy(x)).numpy(), exact)


def test_rows_of_every_second_element_have_a_loop_for_one_vector() -> None:
    function = symbolic_program(lambda x: F.max_pool2d(x[None], 2)[0])
    assert "flamec_floor(s1, 2) < 2 * FLAMEC_LANES" in _source(function)
    for rows, columns in ((2, 2), (4, 9), (6, 31), (3, 32), (2, 40), (8, 62), (5, 64), (4, 101)):
        x = np.random.default_rng(columns).standard_normal((rows, columns)).astype(np.float32)
        parts = x[: rows // 2 * 2, : columns // 2 * 2].reshape(rows // 2, 2, columns // 2, 2)
        np.testing.assert_array_equal(function(flamec.from_numpy(x)).numpy(), parts.max((1, 3)))
    assert function.stats.traces == 2


def doubled(x):
    """Each element at two places of two rows: rows of two elements, which are stored."""
    rows, columns = x.shape
    return (x[:, None, :, None].expand(-1, 2, -1, 2) * 2).reshape(2 * rows, 2 * columns)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
def test_few_elements_that_are_stored(dtype: type) -> None:
    """Lanes are rows where neighbouring ones have each element at every second place."""
    function = flamec.compile(doubled, backend="c", fullgraph=True)
    fixed = flamec.compile(doubled, backend="c", dynamic=False)
    for shape in ((4, 7), (3, 5), (0, 3), *itertools.product((1, 5), SIZES), (3, 40)):
        x = np.random.default_rng(shape[1]).integers(0, 9, shape).astype(dtype)
        for run in (function, fixed) if shape == (3, 40) else (function,):
            exact = (2 * x).repeat(2, 0).repeat(2, 1)
            np.testing.assert_array_equal(run(flamec.from_numpy(x)).numpy(), exact, f"{shape}")
    assert function.stats.traces == 2
    (kernel,) = fixed.programs[0].prepared.compiled.kernels
    assert [part.program.kind for part in kernel.parts] == ["along rows"]


def pool_gradients(x):
    x = x.detach().requires_grad_()
    image = x[None, None]
    weights = flamec.arange(1, 1 + (x.shape[0] // 2) * (x.shape[1] // 2)).float()
    pooled = F.max_pool2d(image, 2), F.avg_pool2d(image, 2)
    totals = [(y.flatten() * weights).sum() for y in pooled]
    return tuple(flamec.autograd.grad(total, x)[0] for total in totals)


def test_gradients_of_windows_that_touch() -> None:
    """Elements behind the last whole window get nothing."""
    function = flamec.compile(pool_gradients, backend="c", fullgraph=True)
    for shape in ((6, 9), (4, 7), (2, 2), (3, 3), (2, 33), (5, 32), (17, 66), (8, 67)):
        x = np.random.default_rng(sum(shape)).permutation(shape[0] * shape[1]).reshape(shape)
        rows, columns = (n // 2 for n in shape)
        g = np.arange(1, 1 + rows * columns).reshape(rows, 1, columns, 1)
        parts = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2)
        largest = (parts == parts.max((1, 3), keepdims=True)) * g
        gradients = function(flamec.from_numpy(x).float())
        for found, inside in zip(gradients, (largest, g / 4), strict=True):
            exact = np.zeros(shape)
            inside = np.broadcast_to(inside, parts.shape).reshape(2 * rows, 2 * columns)
            exact[: 2 * rows, : 2 * columns] = inside
            np.testing.assert_array_equal(found.numpy(), exact, f"{shape}")
    assert function.stats.traces == 2
    plan = str(function.programs[0].stages["plan"])
    assert "temporary" not in plan, "they are written where they stay"


def test_gradients_of_windows_that_reach_beyond_the_array() -> None:
    x = flamec.arange(25).reshape(1, 1, 5, 5).float().requires_grad_()
    (found,) = flamec.autograd.grad(F.max_pool2d(x, 2, ceil_mode=True).sum(), x)
    exact = np.zeros((5, 5))
    exact[np.ix_((1, 3, 4), (1, 3, 4))] = 1
    np.testing.assert_array_equal(found.numpy()[0, 0], exact)


def _source(function) -> str:
    return function.programs[0].stages["source"]


@pytest.mark.parametrize("size, step", [(3, 1), (3, 2), (2, 3), (9, 1), (1, 1), (20, 1)])
def test_windows_of_a_dimension(size: int, step: int) -> None:
    """They are read where they lie, are no view of what they were taken from, and each element
    gets the gradients of all windows that it is in."""

    def taken(x, g):
        windows = x.unfold(1, size, step)
        (gradient,) = flamec.autograd.grad((windows * g).sum(), x)
        windows += 1
        return windows, gradient, x * 1

    x = np.random.default_rng(size).integers(-4, 5, (3, 21)).astype(np.float32)
    view = np.lib.stride_tricks.sliding_window_view(x, size, 1)[:, ::step]
    g = np.random.default_rng(step).integers(-4, 5, view.shape).astype(np.float32)
    wanted = np.zeros_like(x)
    for number in range(view.shape[1]):
        wanted[:, number * step : number * step + size] += g[:, number]
    for run in (taken, flamec.compile(taken, backend="c")):
        found = run(flamec.tensor(x, requires_grad=True), flamec.tensor(g))
        for y, exact in zip(found, (view + 1, wanted, x), strict=True):
            np.testing.assert_array_equal(y.detach().numpy(), exact)
    means = flamec.compile(lambda x: x.unfold(1, size, step).mean(-1), backend="c", dynamic=False)
    means(flamec.tensor(x))
    assert ("vgather_f32(p0" in _source(means)) is (size == 20)
