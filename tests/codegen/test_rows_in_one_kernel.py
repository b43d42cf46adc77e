"""Functions of rows are one kernel that reads the row's memory once, however they are spelled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import flamec
from flamec.nn import functional

ROWS, COLUMNS = 64, 1000
BYTES = ROWS * COLUMNS * 4


def spelled_out(x: flamec.Tensor) -> flamec.Tensor:
    weights = (x - x.amax(1, keepdim=True)).exp()
    return weights / weights.sum(1, keepdim=True)


FUNCTIONS: dict[str, Callable[[flamec.Tensor], flamec.Tensor]] = {
    "softmax": lambda x: functional.softmax(x, 1),
    "softmax spelled out": spelled_out,
    "softmax of something": lambda x: functional.softmax(x * 2 + 1, 1),
    "log_softmax": lambda x: functional.log_softmax(x, 1),
    "layer_norm": lambda x: functional.layer_norm(x, (COLUMNS,)),
    "rms_norm": lambda x: functional.rms_norm(x, (COLUMNS,)),
    "standardized": lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_kernel_reads_and_writes_each_element_once(name: str) -> None:
    compiled = flamec.compile(FUNCTIONS[name])
    x = flamec.randn(ROWS, COLUMNS)
    np.testing.assert_allclose(compiled(x).numpy(), FUNCTIONS[name](x).numpy(), 1e-5, 1e-6)
    plan = compiled.programs[0].prepared.plan
    assert plan is not None
    assert plan.kernel_count == 1
    assert plan.bytes_moved() == 2 * BYTES


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("classes", [1, 2, 5, 300])
def test_one_element_is_picked_from_each_row(rows: int, classes: int) -> None:
    """Also where there is one row only, and so one index for all rows."""
    logits = np.random.default_rng(0).standard_normal((rows, classes))
    labels = np.arange(rows)[::-1] % classes
    x = flamec.tensor(logits, requires_grad=True)

    @flamec.compile
    def loss_of(y: flamec.Tensor) -> flamec.Tensor:
        loss = functional.cross_entropy(x * 2, y)
        loss.backward()
        return loss

    chances = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
    expected = -np.log(chances[np.arange(rows), labels]).mean()
    np.testing.assert_allclose(loss_of(flamec.tensor(labels)).item(), expected, 1e-12, 1e-12)
    chances[np.arange(rows), labels] -= 1
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), 2 * chances / rows, 1e-11, 1e-12)
    without_gradient = flamec.compile(lambda x, y: functional.cross_entropy(x, y))
    np.testing.assert_allclose(
        without_gradient(x.detach() * 2, flamec.tensor(labels)).item(), expected, 1e-12, 1e-12
    )


def test_loads_over_different_columns_of_one_row_stay_apart() -> None:
    """Linking the two loads of x would make both dimensions of the sum one."""

    def pairs(x: flamec.Tensor) -> flamec.Tensor:
        return (x.exp()[:, :, None] + x.sin()[:, None, :]).sum(2)

    x = flamec.randn(5, 30)
    np.testing.assert_allclose(flamec.compile(pairs)(x).numpy(), pairs(x).numpy(), 1e-5, 1e-4)
