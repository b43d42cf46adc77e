"""What ``numerics=`` promises: strict functions have eager bits, casts are never dropped."""

from __future__ import annotations

import random

import numpy as np
import pytest
from same_bits import same_bits

import flamec
from flamec import optim

FLOATS = (flamec.float64, flamec.float32, flamec.float16, flamec.bfloat16)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_strict_training_step_has_eager_bits(dtype: flamec.dtype) -> None:
    """Without matrix products: parameters, optimizer state and losses after several steps."""

    def run(wrap) -> list[np.ndarray]:
        flamec.manual_seed(0)
        w, b = (flamec.randn(300, dtype=dtype).requires_grad_() for _ in range(2))
        adam = optim.AdamW([w, b], lr=0.01)

        def step(x, y):
            adam.zero_grad()
            h = flamec.tanh(x * w + b)
            p = flamec.softmax(h * w, -1)
            loss = ((p - y).exp() * (h + 1.5).log()).sum()
            loss.backward()
            adam.step()
            return loss

        step = wrap(step)
        losses = [step(flamec.randn(20, 300, dtype=dtype), flamec.rand(20, 300, dtype=dtype))
                  for _ in range(4)]  # fmt: skip
        state = [s for p in (w, b) for s in adam.state[p].values() if isinstance(s, flamec.Tensor)]
        return [t.detach().numpy() for t in (*losses, w, b, *state)]

    eager = run(lambda f: f)
    strict = run(flamec.compile(numerics="strict", backend="c"))
    for position, (found, wanted) in enumerate(zip(strict, eager, strict=True)):
        assert same_bits(found, wanted), position


def test_strict_functions_follow_sizes_and_strides() -> None:
    def function(x, y):
        return (x.exp() * y + x) / (1 + y.abs()), flamec.atan2(x, y), x**1.7

    compiled = flamec.compile(function, numerics="strict", backend="c")
    for rows in (3, 5, 1, 0, 8):
        base = flamec.rand(rows, 14)
        for x, y in ((base[:, ::2], base[:, 1::2]), (base.flip(0)[:, :7], base[:1, 7:])):
            for found, wanted in zip(compiled(x, y), function(x, y), strict=True):
                assert same_bits(found.numpy(), wanted.numpy())


def test_unknown_numerics_are_refused() -> None:
    with pytest.raises(ValueError, match="numerics must be 'default' or 'strict', not 'fast'"):
        flamec.compile(lambda x: x, numerics="fast")


CASTS = 60


@pytest.mark.parametrize("backend", ["c", "evaluate"])
def test_casts_of_the_user_are_never_dropped(backend: str) -> None:
    """Chains of casts between operations that lose nothing by themselves."""
    rng = random.Random(0)
    dtypes = [*FLOATS, flamec.int32, flamec.int64, flamec.int8, flamec.uint8, flamec.bool]
    chains = [[rng.choice(dtypes) for _ in range(rng.randint(2, 6))] for _ in range(CASTS)]
    exact = [flamec.neg, flamec.abs, lambda t: t.clone(), lambda t: t.reshape(-1).reshape(t.shape)]
    moves = [[rng.choice(exact) for _ in chain] for chain in chains]

    def function(x):
        results = []
        for chain, steps in zip(chains, moves, strict=True):
            y = x
            for dtype, move in zip(chain, steps, strict=True):
                y = y.to(dtype)
                if dtype is not flamec.bool:
                    y = move(y)
            results.append(y)
        return results

    x = flamec.randn(3, 70, dtype=flamec.float64) * 20
    eager = function(x)
    for numerics in ("default", "strict"):
        compiled = flamec.compile(function, numerics=numerics, backend=backend)(x)
        for chain, found, wanted in zip(chains, compiled, eager, strict=True):
            assert same_bits(found.numpy(), wanted.numpy()), (numerics, chain)


@pytest.mark.parametrize("dtype", FLOATS[:2], ids=str)
def test_an_infinite_exponential_less_infinity_is_nan(dtype: flamec.dtype) -> None:
    """Also where the product that gives it and the subtraction are one operation."""
    x = flamec.full((40,), float("inf"), dtype=dtype)
    assert flamec.compile(lambda x: x.exp() - x)(x).isnan().all()
    large = flamec.full((40,), 800.0, dtype=dtype)
    assert flamec.compile(lambda x, y: x.exp() - y)(large, x).isnan().all()
