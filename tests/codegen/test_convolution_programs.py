"""Convolutions of arrays with channels first as the C back end computes them, each way.

The oracle is the same function in float64, which NumPy evaluates operation by operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec.functional.convolution import conv1d, conv2d, conv3d

CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}
# images, kernels, and what stands beside them
DEPTHWISE = [
    ((2, 3, 9, 21), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
    ((1, 4, 11, 37), (4, 1, 3, 5), {"padding": (1, 2), "stride": 2, "groups": 4}),
    ((2, 2, 8, 18), (4, 1, 3, 2), {"padding": (2, 0), "dilation": (2, 3), "groups": 2}),
    ((2, 3, 5, 3), (3, 1, 3, 3), {"padding": 1, "groups": 3}),
    ((2, 3, 40), (3, 1, 4), {"padding": 3, "stride": 3, "groups": 3}),
    ((1, 2, 4, 5, 19), (2, 1, 2, 2, 3), {"padding": (1, 0, 1), "groups": 2}),
    ((0, 2, 5, 9), (2, 1, 3, 3), {"padding": 1, "groups": 2}),
]

FEW_CHANNELS = [
    ((2, 8, 9, 21), (12, 2, 3, 3), {"padding": 1, "groups": 4}),
    ((2, 3, 13, 35), (10, 3, 5, 3), {"padding": (2, 1), "stride": 2}),
    ((2, 3, 11, 40), (5, 3, 3, 3), {"padding": (0, 2), "dilation": (2, 3)}),
    ((2, 40, 6, 20), (6, 20, 3, 3), {"padding": 1, "groups": 2}),
    ((1, 6, 5, 7), (9, 2, 2, 3), {"padding": (0, 3), "groups": 3}),
    ((2, 3, 50), (4, 3, 5), {"padding": 4, "stride": 3}),
    ((1, 2, 4, 5, 19), (6, 1, 2, 2, 3), {"padding": (1, 0, 1), "groups": 2}),
    ((0, 4, 5, 20), (4, 2, 3, 3), {"padding": 1, "groups": 2}),
]

MANY_CHANNELS = [
    ((2, 5, 7, 9), (70, 5, 3, 3), {"padding": 1}),
    ((2, 40, 6, 11), (37, 40, 3, 2), {"padding": (2, 1), "stride": 2, "dilation": (1, 2)}),
    ((3, 33, 2, 2), (80, 33, 3, 3), {"padding": 1}),
    ((2, 20, 4, 5), (40, 20, 3, 3), {"padding": 4}),
    ((1, 70, 32, 32), (64, 70, 1, 1), {}),
    ((2, 66, 40), (48, 66, 5), {"padding": 2}),
    ((1, 17, 3, 4, 5), (45, 17, 2, 3, 3), {"padding": 1}),
    ((0, 20, 5, 9), (40, 20, 3, 3), {"padding": 1}),
    ((2, 70, 6, 6), (5, 70, 3, 3), {"padding": 1}),
    ((1, 300, 5, 5), (20, 300, 3, 3), {"padding": (1, 2), "stride": (1, 3)}),
]


def all_of(cases: Any, *tensors: flamec.Tensor) -> list[flamec.Tensor]:
    """For each case the result and the gradients of both operands."""
    found = []
    for number, (image, _, options) in enumerate(cases):
        x, w, g = tensors[3 * number : 3 * number + 3]
        y = CONVOLUTIONS[len(image) - 2](x, w, **options)
        found += [y, *flamec.autograd.grad((y * g).sum(), [x, w])]
    return found


def inputs(cases: Any, random: np.random.Generator) -> list[np.ndarray]:
    found = []
    for image, kernel, options in cases:
        x, w = (random.integers(-4, 5, shape).astype(np.float64) for shape in (image, kernel))
        y = CONVOLUTIONS[len(image) - 2](flamec.tensor(x), flamec.tensor(w), **options)
        found += [x, w, random.integers(-4, 5, tuple(y.shape)).astype(np.float64)]
    return found


def check(cases: Any, dtype: Any) -> None:
    """Small integers are summed exactly in every order, so that results have one value."""
    arrays = inputs(cases, np.random.default_rng(3))

    def tensors(of: Any) -> list[flamec.Tensor]:
        return [
            flamec.tensor(a, dtype=of, requires_grad=number % 3 < 2)
            for number, a in enumerate(arrays)
        ]

    wanted = all_of(cases, *tensors(flamec.float64))
    found = flamec.compile(all_of)(cases, *tensors(dtype))
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.dtype is dtype
        a, b = (t.detach().to(dtype).to(flamec.float64).numpy() for t in (a, b))
        np.testing.assert_array_equal(a, b, str(cases[number // 3]))


def test_kernels_of_one_channel() -> None:
    check(DEPTHWISE[:2], flamec.float32)


def test_kernels_of_few_channels() -> None:
    check(FEW_CHANNELS[:2], flamec.float32)


def test_kernels_of_many_channels() -> None:
    check(MANY_CHANNELS[:3], flamec.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [flamec.float32, flamec.float64, flamec.bfloat16])
@pytest.mark.parametrize(
    "cases", [DEPTHWISE[2:], FEW_CHANNELS[2:], MANY_CHANNELS[3:]], ids=["one", "few", "many"]
)
def test_odd_kernels(cases: Any, dtype: Any) -> None:
    check(cases, dtype)
