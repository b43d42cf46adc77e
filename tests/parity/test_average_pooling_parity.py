"""Average pooling over windows that overlap: values and gradients of PyTorch, second gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

# kernel, stride, padding, shape, ceil_mode
CASES: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]] = [
    ((3, 3), (2, 2), (1, 1), (2, 3, 9, 8), False),
    ((3, 2), (1, 2), (1, 0), (2, 3, 9, 8), False),
    ((5, 3), (2, 1), (2, 1), (1, 2, 11, 7), True),
    ((4,), (3,), (1,), (2, 2, 17), True),
    ((3, 3, 2), (2, 1, 2), (1, 1, 0), (1, 2, 6, 5, 4), False),
]


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_overlapping_windows(case: Any, count_include_pad: bool) -> None:
    kernel, stride, padding, shape, ceil_mode = case
    array = np.random.default_rng(0).standard_normal(shape)

    def pooled(framework: Any, x: Any) -> Any:
        function = getattr(framework.nn.functional, f"avg_pool{len(kernel)}d")
        result = function(x, kernel, stride, padding, ceil_mode, count_include_pad)
        numbers = framework.arange(float(result.numel()), dtype=result.dtype)
        return (result * result * numbers.reshape(result.shape).cos()).sum()

    x = flamec.tensor(array, requires_grad=True)
    compiled = flamec.tensor(array, requires_grad=True)
    y = torch.tensor(array, requires_grad=True)
    value = pooled(flamec, x)
    value.backward()
    flamec.compile(lambda x: pooled(flamec, x).backward())(compiled)
    wanted = pooled(torch, y)
    wanted.backward()
    np.testing.assert_allclose(value.item(), wanted.item(), atol=1e-12)
    for found in (x, compiled):
        assert found.grad is not None
        np.testing.assert_allclose(found.grad.numpy(), y.grad.numpy(), atol=1e-12)
    assert flamec.autograd.gradgradcheck(lambda x: pooled(flamec, x), (x,))


@pytest.mark.parametrize("dynamic", [None, True])
def test_adaptive_means_keep_what_is_not_finite_in_its_windows(dynamic: bool | None) -> None:
    array = np.random.default_rng(1).standard_normal((2, 2, 7, 5))
    array[0, 0, 3, 1], array[0, 1, 6, 4], array[1, 0, 0, 0] = np.nan, np.inf, -np.inf
    weights = np.random.default_rng(2).standard_normal((2, 2, 3, 4))
    weights[1, 1, 0, 0], weights[1, 1, 2, 3] = np.inf, np.nan

    def pooled(framework: Any, x: Any, weights: Any) -> Any:
        y = framework.nn.functional.adaptive_avg_pool2d(x, (3, 4))
        (gradient,) = framework.autograd.grad(y, x, weights)
        return y, gradient

    arguments = flamec.tensor(array, requires_grad=True), flamec.tensor(weights)
    wanted = pooled(torch, torch.tensor(array, requires_grad=True), torch.tensor(weights))
    compiled = flamec.compile(lambda *given: pooled(flamec, *given), dynamic=dynamic)
    for found in (pooled(flamec, *arguments), compiled(*arguments)):
        for mine, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(mine.detach().numpy(), theirs.detach(), atol=1e-12)
