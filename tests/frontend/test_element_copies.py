"""Copies whose order in memory changes: the same elements, in strips where that is quicker."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import element_copies
from flamec.element_copies import copy_elements, row_major


@pytest.mark.parametrize("shape", [(1024, 70), (3, 600, 40), (4, 64, 16, 64), (40000, 3)])
def test_copies_in_another_order_have_the_same_elements(shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for order in itertools.permutations(range(len(shape))):
        turned = x.transpose(order)
        made = row_major(turned)
        assert made.flags.c_contiguous
        assert made.tobytes() == turned.tobytes()
        target = np.zeros(shape, np.float64)
        copy_elements(target.transpose(order), turned)
        np.testing.assert_array_equal(target, x)


def test_a_transposed_copy_goes_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    strips = []
    copyto = np.copyto

    def counting(target: Any, source: Any) -> None:
        strips.append(target.shape)
        copyto(target, source)

    monkeypatch.setattr(element_copies.np, "copyto", counting)
    x = flamec.arange(1024 * 1024).reshape(1024, 1024)
    assert x.t().contiguous()[5, 7] == 7 * 1024 + 5
    assert strips == [(1024, 16)] * 64


def test_a_transposed_copy_into_the_same_memory() -> None:
    x = flamec.arange(1024 * 1024).reshape(1024, 1024)
    expected = x.numpy().T.copy()
    x.copy_(x.t())
    np.testing.assert_array_equal(x.numpy(), expected)
    x.fill_(3)
    assert (x == 3).all()
