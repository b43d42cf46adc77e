"""One program for all sizes: each function is traced for its first sizes, and once for all others.

Sizes come in random order, 0 and 1 among them. Where the number of results, or their rank, follows
from sizes, there is a program for each (docs/COMPILE.md), and the table says how many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

F = nn.functional
FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
SIZES = range(50) if FULL else (0, 1, 2, 3, 5, 6, 8, 16)


def _alignments(x: Any) -> Any:
    """Of n steps with two targets."""
    labels, steps = flamec.tensor([[1, 2], [2, 0]]), flamec.full((2,), x.shape[2])
    return F.ctc_loss(
        x.permute(2, 0, 1).log_softmax(2), labels, steps, flamec.tensor([2, 1]), zero_infinity=True
    )


def _alignments_of_targets(x: Any) -> Any:
    """Of twelve steps with targets of n labels."""
    scores = flamec.arange(12 * 2 * 4).reshape(12, 2, 4).double().sin()
    labels = 1 + (x[:, 0] * 3).long() % 3
    return F.ctc_loss(scores, labels, [12, 11], flamec.full((2,), x.shape[2]), zero_infinity=True)


# name -> function of a tensor [2, 3, n], and how many programs there may be
def _windows_put_back(x: Any) -> Any:
    """Parts of two times two as a batch, and images of them, whose number floats are asked for."""
    height, width = x.shape[2] // 2 * 2, 6
    image = x[:, 0, :height, None].expand(-1, -1, width)
    parts = image.reshape(2, height // 2, 2, 3, 2).transpose(2, 3).reshape(-1, 2, 2)
    count = int(parts.shape[0] / (height * width / 2 / 2))
    back = parts.reshape(count, height // 2, 3, 2, 2).transpose(2, 3)
    return back.reshape(count, height, width)


CASES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "adaptive means": (lambda x: F.adaptive_avg_pool1d(x, 3), 2),
    "adaptive means of more places": (lambda x: F.adaptive_avg_pool2d(x, (2, 9)), 2),
    "adaptive means of half as many": (lambda x: F.adaptive_avg_pool1d(x, x.shape[2] // 2), 2),
    "adaptive maxima": (lambda x: F.adaptive_max_pool1d(x, 3, return_indices=True), 2),
    "adaptive maxima of planes": (lambda x: F.adaptive_max_pool2d(x, (2, 5)), 2),
    "area": (lambda x: F.interpolate(x, size=4, mode="area"), 2),
    "maxima of whole planes": (
        lambda x: F.max_pool2d(x, x.shape[1:], return_indices=True),
        2,
    ),
    "means of whole planes": (lambda x: F.avg_pool2d(x, x.size()[1:]), 2),
    "means of windows as wide as lines": (lambda x: F.avg_pool2d(x, (2, x.shape[2]), (1, 2)), 2),
    "maxima of windows as wide as lines": (
        lambda x: F.max_pool2d(x, (2, x.shape[2]), (1, 2), return_indices=True),
        2,
    ),
    "norms of whole lines": (lambda x: F.lp_pool1d(x, 2, x.shape[2]), 2),
    "half as large": (lambda x: F.interpolate(x, scale_factor=0.5), 2),
    "half as large again": (lambda x: F.interpolate(x, scale_factor=1.5, mode="linear"), 2),
    # as many as values say
    "those above 0": (lambda x: (x[x > 0], flamec.nonzero(x > 1)), 2),
    "classes": (lambda x: F.one_hot((x[0] * 3).long() % 5), 2),
    "packed sequences": (
        lambda x: nn.utils.rnn.pack_sequence([x[0].t(), x[1, :, ::2].t()]).data,
        2,
    ),
    "packed and padded": (
        lambda x: nn.utils.rnn.pad_packed_sequence(
            nn.utils.rnn.pack_padded_sequence(x[0], flamec.full((x.shape[1],), 2))
        )[0],
        2,
    ),
    "padded to a multiple": (
        lambda x: F.pad(x, (0, -x.shape[2] % 4)).reshape(2, 3, -1, 4).sum(2),
        2,
    ),
    "padded to a length": (lambda x: F.pad(x, (0, max(0, 12 - x.shape[2])))[..., :12], 2),
    "all but the first": (lambda x: x[..., 1:] * 2, 2),
    "all but ends": (lambda x: x[..., 2:-3].cumsum(2), 2),
    "every other one from the second on": (lambda x: x[:, 1::2, 1::2] + 1, 2),
    "neighbours": (lambda x: x[..., 1:] - x[..., :-1], 2),
    "shifted": (lambda x: F.pad(x, (1, 0))[..., :-1] * x, 2),
    "differences of differences": (lambda x: flamec.diff(x, n=2), 2),
    "integral": (lambda x: flamec.trapezoid(x), 2),
    "rolled": (lambda x: (x.roll(1, 2), x.roll(-3, 2), x.roll((1, 2), (1, 2))), 2),
    "rolled as a line": (lambda x: x.roll(2), 2),
    "diagonals": (lambda x: (x[0].diagonal(), x[0].diagonal(1), x[0].diagonal(-1)), 2),
    "next tokens": (
        lambda x: F.cross_entropy(x[..., :-1], x[:, 0, 1:].long().abs() % 3, reduction="sum"),
        2,
    ),
    "alignments": (_alignments, 2),
    "alignments of targets": (_alignments_of_targets, 2),
    "triangles": (
        lambda x: (
            flamec.triu_indices(x.shape[2], 4, -2),
            flamec.triu_indices(5, x.shape[2], 1),
            flamec.tril_indices(x.shape[2], x.shape[2], 1),
            flamec.tril_indices(x.shape[2], 3, -1),
        ),
        2,
    ),
    "pairs": (
        lambda x: (flamec.combinations(x[0, 0]), flamec.combinations(x[0, 0], 2, True)),
        2,
    ),
    "distances": (lambda x: F.pdist(x[0].t()), 2),
    "windows put back": (_windows_put_back, 3),  # an error for a size below 2
    "places of a plane": (
        lambda x: (
            F.affine_grid(flamec.ones(2, 2, 3).double(), (2, 1, 3, x.shape[2])),
            F.affine_grid(flamec.ones(2, 2, 3).double(), (2, 1, 1, x.shape[2]), True),
        ),
        2,
    ),
    "parts between places": (lambda x: x.tensor_split([-3, 2, -1], 2), 2),
    "padded sequences": (
        lambda x: nn.utils.rnn.pad_sequence([x[0].t(), x[1, :, : x.shape[2] // 2].t()]),
        2,
    ),
    "parts as many as given": (lambda x: x.tensor_split(3, 2), 2),
    # as many results as the size says
    "halves": (lambda x: x.chunk(2, 2), 4),
    "parts of four": (lambda x: x[..., :9].split(4, 2), 5),
    # empty batches have no element from which distances are taken
    "batch normalization": (lambda x: F.batch_norm(x, None, None, training=True), 3),
}

WITH_GRADIENTS = (
    "adaptive means", "adaptive maxima", "area", "parts as many as given", "all but ends",
    "every other one from the second on", "neighbours", "rolled", "diagonals", "next tokens",
    "maxima of whole planes", "half as large again", "alignments", "distances", "pairs",
    "means of windows as wide as lines", "maxima of windows as wide as lines",
)  # fmt: skip
IN_C = ("adaptive maxima", "neighbours", "rolled", "diagonals", "alignments")


def _operand(size: int) -> flamec.Tensor:
    values = np.random.default_rng(size).standard_normal((2, 3, size))
    return flamec.from_numpy(values)


def _outcome(function: Callable[..., Any], x: flamec.Tensor) -> Any:
    try:
        return function(x)
    except (RuntimeError, IndexError, ValueError, ZeroDivisionError) as error:
        return type(error)


def _assert_same(found: Any, wanted: Any, size: int) -> None:
    if isinstance(wanted, flamec.Tensor):
        assert isinstance(found, flamec.Tensor), f"{found} for size {size}"
        assert found.shape == wanted.shape and found.dtype is wanted.dtype
        np.testing.assert_allclose(
            found.numpy(), wanted.numpy(), rtol=1e-12, atol=1e-14, err_msg=f"size {size}"
        )
    elif isinstance(wanted, (tuple, list)):
        assert len(found) == len(wanted)
        for a, b in zip(found, wanted, strict=True):
            _assert_same(a, b, size)
    else:
        assert found == wanted, f"size {size}"


def _check(name: str, function: Callable[[Any], Any], most: int, backend: str = "evaluate") -> None:
    compiled = flamec.compile(function, backend=backend)
    order = random.Random(name).sample(list(SIZES), len(SIZES))
    for size in order:
        _assert_same(_outcome(compiled, _operand(size)), _outcome(function, _operand(size)), size)
    reasons = [failure.reason for failure in compiled.stats.guard_failures]
    assert len(compiled.programs) <= most and not compiled.stats.evictions, reasons
    assert not compiled.stats.python_runs


@pytest.mark.parametrize("name", CASES)
def test_sizes(name: str) -> None:
    _check(name, *CASES[name])


def test_in_c() -> None:
    functions = [CASES[name][0] for name in IN_C]
    _check("in C", lambda x: _one_level([f(x) for f in functions]), 2, "c")


def _one_level(results: list[Any]) -> list[Any]:
    return [y for r in results for y in (r if isinstance(r, tuple) else (r,))]


@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_gradients(name: str) -> None:
    function, most = CASES[name]

    def gradient(x: Any) -> Any:
        x = x.requires_grad_()
        y = function(x)
        parts = y if isinstance(y, (tuple, list)) else [y]
        total = sum(
            (p.square().sum() for p in parts if p.dtype.is_floating_point), flamec.zeros(())
        )
        return flamec.autograd.grad(total + 0 * x.sum(), x)

    _check(name, gradient, most)
