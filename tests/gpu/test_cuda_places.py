"""Where values stand among others, and where a mask is True, on a GPU beside NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

pytestmark = pytest.mark.gpu


def ordered(*shape: int) -> np.ndarray:
    x = np.round(np.random.default_rng(3).standard_normal(shape), 2).astype(np.float32)
    return np.sort(x, -1)


def on_gpu(x: np.ndarray) -> flamec.Tensor:
    return flamec.from_numpy(x).to("cuda")


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("how", ["eager", "compiled", "dynamic"])
@pytest.mark.parametrize("size", [1, 2, 3, 100, 4095, 65536])
def test_places_in_an_order(size: int, how: str, right: bool) -> None:
    table = ordered(size)
    values = np.concatenate([ordered(1000), table[:50], [np.inf, -np.inf, np.nan]])
    values = np.random.default_rng(4).permutation(values.astype(np.float32))

    def call(t: Any, x: Any) -> Any:
        return flamec.searchsorted(t, x, right=right)

    run = call if how == "eager" else flamec.compile(call, dynamic=how == "dynamic")
    found = run(on_gpu(table), on_gpu(values)).cpu().numpy()
    wanted = np.searchsorted(table, values, "right" if right else "left")
    np.testing.assert_array_equal(found, wanted)


def test_places_in_an_order_of_each_row() -> None:
    table, values = ordered(7, 33), np.random.default_rng(5).standard_normal((7, 200))
    found = flamec.searchsorted(on_gpu(table), on_gpu(values.astype(np.float32))).cpu().numpy()
    for row, (t, v) in enumerate(zip(table, values.astype(np.float32), strict=True)):
        np.testing.assert_array_equal(found[row], np.searchsorted(t, v))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(131072,), (300001,), (513, 1000), (1 << 20,)])
def test_where_a_mask_is_true(shape: tuple[int, ...], share: float) -> None:
    mask = np.random.default_rng(6).random(shape) < share
    x = np.arange(mask.size, dtype=np.float32).reshape(shape)
    places = on_gpu(mask).nonzero()
    np.testing.assert_array_equal(places.cpu().numpy(), np.argwhere(mask))
    found = on_gpu(x).masked_select(on_gpu(mask)).cpu().numpy()
    np.testing.assert_array_equal(found, x[mask])
    np.testing.assert_array_equal(on_gpu(x)[on_gpu(mask)].cpu().numpy(), x[mask])
