"""Rows of symbolic length have loops for each form of row: values at and around every border.

The oracle is NumPy in float64; a program made for the length gives the same bits.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import flamec
from flamec.dispatch import apply_named
from flamec.nn import functional as F
from tests.symbolic_programs import symbolic_program

LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 100, 255, 256, 257, 512, 1023, 1024, 1025, 3001)


def folded(x):
    """Passes with one and with several accumulators, sums and folds that lose nothing."""
    scaled = (x * 2 + 1).abs()
    return (
        F.softmax(x * 2, -1), x.sum(-1), x.amax(-1), F.layer_norm(x, x.shape[-1:]),
        (scaled.sqrt() * scaled + scaled.exp().log() - x).sum(-1), x.argmin(-1), x.sum(0),
    )  # fmt: skip


def expected(x: np.ndarray) -> tuple[np.ndarray, ...]:
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        e = np.exp(2 * x - 2 * x.max(-1, keepdims=True))
        centred = x - x.mean(-1, keepdims=True)
        scaled = np.abs(x * 2 + 1)
        return (
            e / e.sum(-1, keepdims=True), x.sum(-1), x.max(-1),
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5),
            (scaled**1.5 + scaled - x).sum(-1), x.argmin(-1), x.sum(0),
        )  # fmt: skip


@pytest.fixture(scope="module")
def program():
    return symbolic_program(folded)


def numbers(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).standard_normal((rows, length), np.float32)


@pytest.mark.parametrize("length", LENGTHS)
def test_values_at_every_length(program, length: int) -> None:
    for rows in (1, 6):
        x = numbers(rows, length)
        for found, exact in zip(program(flamec.from_numpy(x)), expected(x), strict=True):
            np.testing.assert_allclose(found.numpy(), exact, rtol=3e-5, atol=3e-5)
    assert program.stats.traces == 2


@pytest.mark.parametrize("length", [3, 17, 1000, 3001])
def test_bits_are_those_of_a_program_for_the_length(program, length: int) -> None:
    x = flamec.from_numpy(numbers(6, length))
    alone = flamec.compile(folded, backend="c", dynamic=False)(x)
    for position, (found, wanted) in enumerate(zip(program(x), alone, strict=True)):
        if position < 6:  # a sum over rows may have other loops, so another order
            np.testing.assert_array_equal(found.numpy(), wanted.numpy(), str(position))


@pytest.mark.parametrize("length", [3, 20, 100, 300, 2000])
def test_nan_and_infinity_in_any_place(program, length: int) -> None:
    for value in (np.nan, np.inf, -np.inf):
        for at in (0, length // 2, length - 1):
            x = numbers(3, length)
            x[1, at] = value
            for found, wanted in zip(program(flamec.from_numpy(x)), expected(x), strict=True):
                np.testing.assert_allclose(found.numpy(), wanted, rtol=3e-5, atol=3e-5)


def test_lengths_that_are_sums_of_sizes() -> None:
    function = flamec.compile(lambda x: (F.softmax(x[:, 3:], -1), x[:, 3:].sum(-1)), backend="c")
    for length in (5, 7, 3, 4, 18, 19, 20, 34, 35, 100, 259, 300, 2000):
        x = numbers(4, length)
        shares, total = function(flamec.from_numpy(x))
        np.testing.assert_allclose(total.numpy(), x[:, 3:].sum(-1), rtol=1e-4, atol=1e-4)
        if length > 3:
            exact, *_ = expected(x[:, 3:] / 2)
            np.testing.assert_allclose(shares.numpy(), exact, rtol=3e-5, atol=3e-6)
    assert function.stats.traces == 2


def test_rows_without_elements() -> None:
    function = flamec.compile(lambda x: (x.sum(-1), F.softmax(x, -1)), backend="c")
    for shape in ((3, 5), (4, 7), (2, 0), (0, 4), (0, 0), (5, 1)):
        total, shares = function(flamec.ones(*shape))
        np.testing.assert_array_equal(total.numpy(), np.full(shape[0], shape[1], np.float32))
        assert shares.shape == shape
    assert function.stats.traces == 2


def moved(x):
    """Rows that are only moved: after one another, transposed, and along short rows."""
    return flamec.cat([x, x * 2], 1), x.t() + 1, x.cumsum(1), x[:, ::2] + 1


def test_rows_without_folds_have_a_loop_for_those_shorter_than_a_vector() -> None:
    twice = symbolic_program(lambda x: flamec.cat([x, x * 2], 1))
    assert twice.programs[0].stages["source"].count("if (s1 < FLAMEC_LANES) {") == 1
    function = symbolic_program(moved)
    for shape in itertools.product((1, 3, 7, 15, 16, 17, 40, 600), (1, 2, 3, 4, 5, 13, 16, 33)):
        x = numbers(*shape)
        found = [y.numpy() for y in function(flamec.from_numpy(x))]
        np.testing.assert_array_equal(found[0], np.concatenate([x, x * 2], 1))
        np.testing.assert_array_equal(found[1], x.T + 1)
        np.testing.assert_allclose(found[2], x.astype(np.float64).cumsum(1), 1e-5, 1e-5)
        np.testing.assert_array_equal(found[3], x[:, ::2] + 1)
    assert function.stats.traces == 2


def test_rows_along_which_an_array_lies_are_blocks_transposed_in_registers() -> None:
    """Elements of each size, rows shorter than a quarter of a vector and longer than a block."""
    dtypes = (np.float32, np.float64, np.int16, np.int8)

    def transposed(pieces, mask, *arrays):
        return pieces.permute(0, 2, 1) * 2, ~mask.t(), *(a.t() + 1 for a in arrays)

    function = flamec.compile(transposed, backend="c", fullgraph=True)
    shapes = itertools.product((1, 2, 3, 5, 8, 9, 16, 17, 31, 33, 70), (1, 15, 16, 33, 300))
    for shape in ((4, 7), (3, 5), (0, 3), *shapes):
        x = np.random.default_rng(shape[1]).integers(0, 3, (2, *shape))
        arrays = [x.astype(np.float32), x[0] > 0, *(x[1].astype(dtype) for dtype in dtypes)]
        given = [flamec.from_numpy(a) for a in arrays]
        wide = np.repeat(np.repeat(arrays[2], 2, 0), 3, 1)
        given[2] = flamec.from_numpy(wide)[1::2, 2::3]  # with gaps, the same numbers
        found = [y.numpy() for y in function(*given)]
        wanted = [x.transpose(0, 2, 1) * 2, ~(x[0] > 0).T, *(a.T + 1 for a in arrays[2:])]
        for position, (result, exact) in enumerate(zip(found, wanted, strict=True)):
            np.testing.assert_array_equal(result, exact, f"{position} {shape}")
    source = function.programs[0].stages["source"]
    loops = [f for f in source.split("static void loop_") if "flamec_transpose_" in f]
    assert {*re.findall(r"flamec_transpose_(\d+)", str(loops))} == {"8", "16", "32", "64"}
    assert not any("vloads" in f for f in loops)
    assert function.stats.traces == 2


def running(x, y):
    """Scans along rows of arrays that lie along rows and along columns, and of two matrices."""
    pair = flamec.stack([x, x + 1])
    return (
        x.cumsum(1), (x * 2).cumsum(1) + x, (x + y.t()).cumsum(1), pair.cumsum(2), x.cumprod(1),
        *x.cummax(1), x.to(flamec.int32).cumsum(1), x.double().cumsum(1), x.t().cumsum(1),
        x.cumsum(0), apply_named("recurrence", x, (y.t() > 0).float(), axis=1),
    )  # fmt: skip


def recurrent(x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    result = x.copy()
    for n in range(1, x.shape[1]):
        result[:, n] += factors[:, n] * result[:, n - 1]
    return result


def exact_running(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    pair = np.stack([x, x + 1])
    greatest = np.maximum.accumulate(x, 1)
    latest = np.where(x == greatest, np.arange(x.shape[1]), 0)
    return [
        x.cumsum(1), (x * 2).cumsum(1) + x, (x + y.T).cumsum(1), pair.cumsum(2), x.cumprod(1),
        greatest, np.maximum.accumulate(latest, 1), x.cumsum(1), x.cumsum(1), x.T.cumsum(1),
        x.cumsum(0), recurrent(x, y.T > 0),
    ]  # fmt: skip


def test_scans_along_rows_take_transposed_blocks() -> None:
    """Each row and element of a block may be the last one; what lies behind is not written."""
    function = flamec.compile(running, backend="c", fullgraph=True)
    shapes = itertools.product((1, 3, 8, 15, 16, 17, 33), (*range(1, 10), 15, 16, 17, 40))
    for shape in ((4, 7), (3, 5), (0, 3), (70, 17), *shapes):
        x = np.random.default_rng(shape[1]).choice([-1.0, 1.0, 2.0], shape, p=[0.5, 0.45, 0.05])
        y = np.random.default_rng(shape[0]).integers(-3, 3, shape[::-1]).astype(np.float64)
        given = [flamec.from_numpy(a.astype(np.float32)) for a in (x, y)]
        runs = [function]
        if shape in ((17, 40), (33, 7)):
            runs.append(flamec.compile(running, backend="c", dynamic=False))
        for run in runs:
            for position, (found, exact) in enumerate(
                zip(run(*given), exact_running(x, y), strict=True)
            ):
                np.testing.assert_array_equal(found.numpy(), exact, f"{position} {shape}")
    assert function.stats.traces == 2
    source = function.programs[0].stages["source"]
    assert {*re.findall(r"flamec_transpose_back_(\d+)", source)} == {"32", "64"}
    assert "high - low <= FLAMEC_LANES * " in source, "few columns keep sums in registers"
    assert "flamec_is_dense(32, s1, s1)" in source, "few elements are looked up"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_positions_of_equal_elements_and_of_nan(dtype: type) -> None:
    """The first of the greatest, or the first NaN: in fixed and changing lengths."""
    function = symbolic_program(lambda x: (x.argmax(-1), x.argmin(-1)))
    for length in (1, 5, 16, 17, 31, 32, 100, 700):
        x = np.random.default_rng(length).integers(0, 3, (5, length)).astype(dtype)
        if dtype != np.int8:
            x[1], x[2, -1], x[3, length // 2 :] = -np.inf, np.nan, np.nan
        alone = flamec.compile(lambda x: (x.argmax(-1), x.argmin(-1)), backend="c", dynamic=False)
        for run in (function, alone):
            greatest, least = run(flamec.from_numpy(x))
            np.testing.assert_array_equal(greatest.numpy(), x.argmax(-1), str(length))
            np.testing.assert_array_equal(least.numpy(), x.argmin(-1), str(length))


def test_positions_are_64_bit_numbers_only_in_rows_that_need_them() -> None:
    def positions(x):
        return x.argmax(-1)

    symbolic = symbolic_program(positions).programs[0].stages["source"]
    assert symbolic.count("< 2147483648) {") == 1 and "v_i64 acc_" in symbolic
    fixed = flamec.compile(positions, backend="c", dynamic=False)
    fixed(flamec.ones(4, 100))
    assert "v_i64 acc_" not in fixed.programs[0].stages["source"]


def test_truths_are_folded_beside_sums() -> None:
    """Accumulators of truths have no parts that fit registers."""
    u = flamec.tensor([1, 250, 0, 7], dtype=flamec.uint8)
    sums, every, some = flamec.compile(lambda u: (u.cumsum(0), u.all(), u.any()))(u)
    assert sums.tolist() == [1, 251, 251, 258]
    assert not every and some


@pytest.mark.parametrize("backend", ["c", "evaluate"])
def test_a_group_whose_widest_result_another_group_stores(backend: str) -> None:
    """Viterbi's decoding with masks: scores are stored beside their sums with transitions, whose
    own order the loops had when the group was made."""
    random = np.random.default_rng(0)
    steps, labels = 5, 3
    moves = flamec.tensor(random.standard_normal((labels, labels)))

    def decode(logits: flamec.Tensor, lengths: flamec.Tensor) -> flamec.Tensor:
        score, back = logits[:, 0], []
        for t in range(1, steps):
            best, where = (score[:, :, None] + moves).max(1)
            score = flamec.where((t < lengths)[:, None], best + logits[:, t], score)
            back.append(where)
        path = [score.argmax(-1)]
        for t in range(steps - 1, 0, -1):
            before = back[t - 1].gather(1, path[-1][:, None]).squeeze(1)
            path.append(flamec.where(t < lengths, before, path[-1]))
        return flamec.stack(path[::-1], 1)

    logits = random.standard_normal((4, steps, labels))
    lengths = [5, 2, 3, 1]
    found = flamec.compile(decode, backend=backend)(flamec.tensor(logits), flamec.tensor(lengths))
    for row, length, result in zip(logits, lengths, found.tolist(), strict=True):
        every = itertools.product(range(labels), repeat=length)
        best = max(every, key=lambda path: _score(row, moves.numpy(), path))
        assert result[:length] == list(best)


def _score(row: np.ndarray, moves: np.ndarray, path: tuple[int, ...]) -> float:
    steps = sum(row[t, label] for t, label in enumerate(path))
    return steps + sum(moves[a, b] for a, b in itertools.pairwise(path))


def test_windows_of_images_of_any_size_are_pooled_without_a_copy() -> None:
    """Windows inside of an image need no border; sums of windows stay in registers."""

    def pooled(x):
        return F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 2), F.max_pool2d(x, 3, 2, ceil_mode=True)

    function = flamec.compile(pooled, backend="c", fullgraph=True)
    for size in (6, 9, 4, 5, 7, 17, 33, 40):
        for batch in (1, 3, 0):
            shape = (batch, 2, size, size + 1)
            x = np.random.default_rng(size).standard_normal(shape, np.float32)
            largest, means, beyond = function(flamec.from_numpy(x))
            padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (0, 2)), constant_values=-np.inf)
            views = [
                np.lib.stride_tricks.sliding_window_view(a, (k, k), (2, 3))[:, :, ::2, ::2]
                for a, k in ((x, 2), (x, 3), (padded, 3))
            ]
            np.testing.assert_array_equal(largest.numpy(), views[0].max((4, 5)))
            np.testing.assert_allclose(means.numpy(), views[1].mean((4, 5)), 1e-5, 1e-6)
            wanted = views[2][:, :, : size // 2, : (size + 1) // 2].max((4, 5))
            np.testing.assert_array_equal(beyond.numpy(), wanted)
    plain = flamec.compile(lambda x: F.max_pool2d(x, 2), backend="c", dynamic=True)
    plain(flamec.ones(3, 2, 6, 7))
    assert len(plain.programs[0].prepared.plan.steps) == 1
    means = flamec.compile(lambda x: F.avg_pool2d(x, 2), backend="c", dynamic=True)
    means(flamec.ones(3, 2, 6, 7))
    assert len(means.programs[0].prepared.plan.steps) == 1
    sums = flamec.compile(lambda x: F.avg_pool2d(x, 3, 1), backend="c", dynamic=True)
    sums(flamec.ones(3, 2, 60, 70))
    assert "now_" in sums.programs[0].stages["source"]


def test_few_columns_are_folded_together_in_registers() -> None:
    """As many vectors of columns as there are, with those that are left, and one more."""

    def folded(x):
        places = x.argmax(0), x.where(x != 4, float("nan")).argmax(0)
        return x.var(0), F.softmax(x, 0), x.amin(0), x.double().sum(0), x.cumsum(0), *places

    function, alone = symbolic_program(folded), symbolic_program(lambda x: x.var(0))
    columns = (1, 15, 16, 17, 31, 33, 48, 63, 64, 65, 80, 100, 113, 127, 128, 129, 145)
    columns += (161, 193, 225, 256, 257, 300, 1030)
    for shape in itertools.product((2, 40), columns):
        x = np.random.default_rng(shape[1]).integers(-4, 5, shape).astype(np.float32)
        powers = np.exp(x.astype(np.float64))
        wanted = [
            x.var(0, ddof=1, dtype=np.float64), powers / powers.sum(0), x.min(0), x.sum(0),
            x.cumsum(0), x.argmax(0), np.where(x != 4, x, np.nan).argmax(0),
        ]  # fmt: skip
        given = flamec.from_numpy(x)
        for found, exact in zip((alone(given), *function(given)), wanted[:1] + wanted, strict=True):
            np.testing.assert_allclose(found.numpy(), exact, 1e-5, 1e-6, err_msg=str(shape))
    assert function.stats.traces == alone.stats.traces == 2
    source = alone.programs[0].stages["source"]
    assert re.search(r"now_v\d+_15\b", source), "sixteen vectors have a sum each"
