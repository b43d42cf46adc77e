"""Programs of branches and loops that a value decides, and what their tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

import flamec

W = np.random.default_rng(23).normal(size=(3, 3))


def wrapped(compiled: bool, function: Any, **options: Any) -> Any:
    return flamec.compile(function, fullgraph=True, **options) if compiled else function


def close(found: Any, wanted: Any, rtol: float = 1e-11) -> None:
    found = found.detach().numpy() if isinstance(found, flamec.Tensor) else found
    wanted = wanted.detach().numpy() if isinstance(wanted, flamec.Tensor) else wanted
    np.testing.assert_allclose(found, wanted, rtol, atol=1e-12)


def chosen(x: Any, w: Any) -> Any:
    """sin(W x) where the sum is positive, else x^2."""
    return flamec.cond(x.sum() > 0, lambda x: (w @ x).sin(), lambda x: x * x, (x,))


def grown(x: Any, w: Any, max_steps: Any = 12) -> Any:
    """x <- 1.5 x + sin(W x) / 10 until the squares are 40 or more; the steps and the last x."""

    def unfinished(n: Any, x: Any) -> Any:
        return (x * x).sum() < 40

    def step(n: Any, x: Any) -> Any:
        return n + 1, 1.5 * x + 0.1 * (w @ x).sin()

    return flamec.while_loop(unfinished, step, (0, x), max_steps=max_steps)


def grown_by_hand(x: np.ndarray, w: np.ndarray, max_steps: int = 12) -> tuple[int, np.ndarray]:
    n = 0
    while (x * x).sum() < 40 and n < max_steps:
        n, x = n + 1, 1.5 * x + 0.1 * np.sin(w @ x)
    return n, x
