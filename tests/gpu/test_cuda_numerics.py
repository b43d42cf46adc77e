"""On a GPU: strict programs have the bits of eager mode, default ones its accuracy, all are
deterministic."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from accuracy import FACTOR, FAITHFUL, error, long_samples
from digests import digest
from op_table import OP_TABLE
from same_bits import same_bits

import flamec
from flamec import optim
from flamec.dispatch import apply_named
from flamec.ir.op import OpKind, lookup

pytestmark = pytest.mark.gpu
DTYPES = (flamec.float32, flamec.bfloat16, flamec.float16)
UNARY = ("exp", "tanh", "sigmoid", "sin", "log", "sqrt", "rsqrt", "erf", "neg", "expm1")
BINARY = ("add", "mul", "sub", "div", "pow", "atan2", "remainder")


def chain(seed: int, length: int) -> Callable[..., list[flamec.Tensor]]:
    """A random function of elementwise primitives that returns all that it computes."""
    rng = random.Random(seed)
    steps = [
        (rng.choice(UNARY if rng.random() < 0.4 else BINARY), rng.random(), rng.random())
        for _ in range(length)
    ]

    def function(*arguments: flamec.Tensor) -> list[flamec.Tensor]:
        values = list(arguments)
        for name, first, second in steps:
            x, y = values[int(first * len(values))], values[int(second * len(values))]
            values.append(apply_named(name, x) if name in UNARY else apply_named(name, x, y))
        return values[len(arguments) :]

    return function


def bits(tensors: Any) -> list[np.ndarray]:
    return [t.detach().cpu().numpy() for t in tensors]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strict_programs_have_the_bits_of_eager_mode(dtype: flamec.dtype) -> None:
    late = 0
    for seed in range(4):
        flamec.manual_seed(seed)
        arguments = [flamec.randn(33, 70, device="cuda").to(dtype) for _ in range(3)]
        function = chain(seed, 9)
        eager = bits(function(*arguments))
        strict = bits(flamec.compile(function, numerics="strict")(*arguments))
        for position, (found, wanted) in enumerate(zip(strict, eager, strict=True)):
            assert same_bits(found, wanted), f"seed {seed}, value {position}"
        # without the values in between, which default programs keep unrounded
        last = bits(flamec.compile(lambda *a, f=function: f(*a)[-3:])(*arguments))
        late += any(not same_bits(a, b) for a, b in zip(last, eager[-3:], strict=True))
    assert late, "default programs have the same bits: nothing was tested"


def test_a_strict_step_of_an_optimizer_has_the_bits_of_eager_mode() -> None:
    def run(wrap: Any) -> list[np.ndarray]:
        flamec.manual_seed(0)
        w = flamec.randn(50, 70, device="cuda").requires_grad_()
        adam = optim.AdamW([w], lr=0.01)

        def step(x: flamec.Tensor) -> None:
            adam.zero_grad()
            (flamec.tanh(x * w + x) * w).sum().backward()
            adam.step()

        step = wrap(step)
        for _ in range(3):
            step(flamec.randn(50, 70, device="cuda"))
        return bits([w, *(s for s in adam.state[w].values() if isinstance(s, flamec.Tensor))])

    for found, wanted in zip(run(flamec.compile(numerics="strict")), run(lambda f: f), strict=True):
        assert same_bits(found, wanted)


@pytest.mark.parametrize("dtype", (flamec.float32, flamec.bfloat16), ids=str)
def test_default_programs_are_as_accurate_as_eager_mode(dtype: flamec.dtype) -> None:
    """Elementwise functions that round, over what the op table draws for them."""
    rows, operands, exact = [], [], []
    for row in OP_TABLE:
        op = lookup(row.name)
        if op.kind is not OpKind.ELEMENTWISE or not op.inexact or dtype not in row.dtypes:
            continue
        sample = next(iter(long_samples(row, dtype)))
        wide = [a.astype(np.float64) for a in sample.arrays]
        rows.append(row)
        exact.append(np.asarray(row.oracle(sample, *wide)))
        operands.append([flamec.tensor(a, device="cuda") for a in sample.arrays])
    eager = [apply_named(r.name, *o) for r, o in zip(rows, operands, strict=True)]

    @flamec.compile
    def compiled(given: Any) -> list[flamec.Tensor]:
        return [apply_named(r.name, *o) for r, o in zip(rows, given, strict=True)]

    wrong = {}
    for row, found, one, wanted in zip(rows, compiled(operands), eager, exact, strict=True):
        default = error(row, bits([found]), [wanted], dtype)
        single = error(row, bits([one]), [wanted], dtype)
        if default > max(FAITHFUL, FACTOR * single):
            wrong[row.name] = (default, single)
    assert not wrong


@pytest.mark.parametrize("dtype", (*DTYPES, flamec.float64), ids=str)
def test_zeros_have_the_signs_that_they_have_on_the_cpu(dtype: flamec.dtype) -> None:
    def zeros(x: flamec.Tensor) -> tuple[flamec.Tensor, ...]:
        negative = flamec.full_like(x, -0.0)
        return (
            negative,
            x + -0.0,
            flamec.where(x > 0, x, -0.0),
            flamec.copysign(x, negative),
            -x,
        )

    x = flamec.tensor([0.0, -0.0, 1.5, -2.0], dtype=dtype)
    wanted = [t.float().numpy() for t in zeros(x)]
    for function in (zeros, flamec.compile(zeros)):
        found = [t.cpu().float().numpy() for t in function(x.cuda())]
        for position, (a, b) in enumerate(zip(found, wanted, strict=True)):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(np.signbit(a), np.signbit(b), f"result {position}")


def test_16_bit_values_that_meet_are_added_in_float32() -> None:
    def function(x: flamec.Tensor, index: flamec.Tensor) -> flamec.Tensor:
        return flamec.zeros(3, dtype=x.dtype, device=x.device).index_add(0, index, x)

    x = flamec.full((900,), 0.7, device="cuda").bfloat16()
    index = (flamec.arange(900) % 3).to("cuda")
    wanted = 300 * x[0].item()
    for run in (function, flamec.compile(function)):
        assert np.allclose(run(x, index).float().cpu().numpy(), wanted, rtol=2**-8)


def test_a_training_step_has_the_same_bytes_in_each_process() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(digest, ["cuda"] * 4, (1, 2, 5, 8)))
    assert len(set(found)) == 1
