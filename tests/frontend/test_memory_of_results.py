"""Functions whose results are copies in PyTorch may be written to: their inputs stay what they are,
also where the function moves nothing, or is views and reshapes inside."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import flamec
from flamec.nn import functional as F

Call = Callable[[flamec.Tensor], flamec.Tensor]
COPIES: dict[str, tuple[Call, tuple[int, ...]]] = {
    "adaptive_avg_pool1d, as many": (lambda x: F.adaptive_avg_pool1d(x, 4), (2, 3, 4)),
    "adaptive_avg_pool2d, as many": (lambda x: F.adaptive_avg_pool2d(x, (None, 4)), (3, 2, 4)),
    "adaptive_avg_pool3d, as many": (lambda x: F.adaptive_avg_pool3d(x, 2), (1, 2, 2, 2, 2)),
    "interpolate, as many": (lambda x: F.interpolate(x, size=3), (1, 2, 3)),
    "interpolate, bilinear": (lambda x: F.interpolate(x, size=2, mode="bilinear"), (1, 2, 2, 2)),
    "interpolate, area": (lambda x: F.interpolate(x, size=2, mode="area"), (1, 2, 2, 2)),
    "interpolate, twice as many": (lambda x: F.interpolate(x, scale_factor=2), (1, 2, 2, 2)),
    "pad by nothing, reflect": (lambda x: F.pad(x, (0, 0), mode="reflect"), (1, 2, 3)),
    "pad by nothing, circular": (lambda x: F.pad(x, (0, 0), mode="circular"), (1, 2, 3)),
    "pad by less, replicate": (lambda x: F.pad(x, (0, -1), mode="replicate"), (1, 2, 4)),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), (1, 4, 2, 2)),
    "pixel_shuffle by 1": (lambda x: F.pixel_shuffle(x, 1), (1, 4, 2, 2)),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), (1, 1, 4, 4)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 2), (1, 4, 2, 2)),
    "channel_shuffle by 1": (lambda x: F.channel_shuffle(x, 1), (1, 4, 2, 2)),
    "unfold": (lambda x: F.unfold(x, 2, stride=2), (1, 2, 4, 4)),
    "unfold, overlapping": (lambda x: F.unfold(x, 2), (1, 2, 3, 3)),
    "unfold by 1": (lambda x: F.unfold(x, 1), (1, 2, 3, 3)),
    "fold": (lambda x: F.fold(x, (4, 4), 2, stride=2), (1, 8, 4)),
    "fold by 1": (lambda x: F.fold(x, (3, 3), 1), (1, 2, 9)),
}


def _written(function: Call, x: flamec.Tensor) -> tuple[flamec.Tensor, flamec.Tensor]:
    result = function(x)
    before = result + 0
    result.mul_(-2.0)
    return before, result


def _input(shape: tuple[int, ...]) -> flamec.Tensor:
    return flamec.arange(float(np.prod(shape))).reshape(shape) + 1


@pytest.mark.parametrize("name", COPIES)
def test_a_result_that_is_written_to_leaves_the_input_as_it_is(name: str) -> None:
    function, shape = COPIES[name]
    x = _input(shape)
    before, result = _written(function, x)
    assert result.data_ptr() != x.data_ptr()
    np.testing.assert_array_equal(x.numpy(), _input(shape).numpy())
    np.testing.assert_array_equal(result.numpy(), -2 * before.numpy())


def test_compiled_results_that_are_written_to_leave_the_inputs_as_they_are() -> None:
    def all_of_them(*xs: flamec.Tensor) -> list[tuple[flamec.Tensor, flamec.Tensor]]:
        return [_written(f, x) for (f, _), x in zip(COPIES.values(), xs, strict=True)]

    xs = [_input(shape) for _, shape in COPIES.values()]
    found = flamec.compile(all_of_them, fullgraph=True)(*xs)
    for (name, (function, shape)), x, (before, result) in zip(
        COPIES.items(), xs, found, strict=True
    ):
        np.testing.assert_array_equal(x.numpy(), _input(shape).numpy(), err_msg=name)
        np.testing.assert_array_equal(before.numpy(), function(x).numpy(), err_msg=name)
        np.testing.assert_array_equal(result.numpy(), -2 * before.numpy(), err_msg=name)
