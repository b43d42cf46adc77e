"""Random programs of branches and loops that nest: compiled, batched and eager agree, in float64.

Each program is a tree of statements over two vectors, run by one function: eager, where ``cond``
and ``while_loop`` are Python's ``if`` and ``while``, and compiled in one piece. Values, gradients,
random numbers and the changes of a tensor from outside must agree. The seed stands in the test's
name.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import func

SEEDS = range(300 if os.environ.get("FLAMEC_TEST_LEVEL") == "full" else 4)
SIZE = 5

Pair = tuple[Any, Any]
Statement = tuple[Any, ...]

OPERATIONS: dict[str, Callable[[Any, Any, Any], Pair]] = {
    "mix": lambda x, y, w: ((w[0] * x + y).sin(), x),
    "product": lambda x, y, w: (x, (w[1:] @ y).tanh() + 0.3 * x),
    "swap": lambda x, y, w: (y + 0.1, x - w[2]),
    "scale": lambda x, y, w: (1.3 * x, y * y.cos()),
    "norm": lambda x, y, w: (x / (1 + (x * x).sum()).sqrt(), y + x.mean()),
    "stop": lambda x, y, w: (x + y.detach(), 0.5 * y),
}


class Program:
    """``hits``: a tensor from outside that some statements count in; ``draws``: whether some draw
    random numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hits = flamec.zeros(2, dtype=flamec.float64)
        self.draws = self.counts = False
        self.block = self.make(3)

    def make(self, depth: int) -> list[Statement]:
        r = self.random
        found: list[Statement] = []
        for _ in range(r.randint(1, 3)):
            kind = r.choice(["op", "op", "cond", "while", "scan", "effect"] if depth else ["op"])
            if kind == "op":
                found.append(("op", r.choice(list(OPERATIONS))))
            elif kind == "cond":
                threshold = r.uniform(-0.8, 0.8)
                found.append(("cond", threshold, self.make(depth - 1), self.make(depth - 1)))
            elif kind == "while":
                bound = r.uniform(1.0, 6.0), r.randint(0, 4), r.choice([3, 6])
                found.append(("while", *bound, self.make(depth - 1)))
            elif kind == "scan":
                found.append(("scan", r.randint(0, 3), r.random() < 0.5, self.make(depth - 1)))
            else:
                found.append((r.choice(["draw", "count"]),))
                self.draws |= found[-1] == ("draw",)
                self.counts |= found[-1] == ("count",)
        return found

    def run(self, x: Any, y: Any, w: Any) -> Any:
        x, y = self.steps(self.block, x, y, w)
        return (x * w[3]).sum() + (y * y).sum()

    def steps(self, block: list[Statement], x: Any, y: Any, w: Any) -> Pair:
        for statement in block:
            x, y = self.step(statement, x, y, w)
        return x, y

    def step(self, statement: Statement, x: Any, y: Any, w: Any) -> Pair:
        match statement:
            case ("op", name):
                return OPERATIONS[name](x, y, w)
            case ("draw",):
                return x + 0.1 * flamec.rand(SIZE, dtype=flamec.float64), y
            case ("count",):
                self.hits[0].add_(1)
                self.hits[1].copy_(y.detach().sum())
                return x, y
            case ("cond", threshold, first, second):
                result: Pair = flamec.cond(
                    x.mean() > threshold,
                    lambda x, y: self.steps(first, x, y, w),
                    lambda x, y: self.steps(second, x, y, w),
                    (x, y),
                )
                return result
            case ("while", bound, turns, most, block):
                _, x, y = flamec.while_loop(
                    lambda n, x, y: (x.abs().sum() < bound) | (n < turns),
                    lambda n, x, y: (n + 1, *self.steps(block, x, y, w)),
                    (0, x, y),
                    max_steps=most,
                )
                return x, y
            case ("scan", length, reverse, block):
                (x, y), z = flamec.scan(
                    lambda c, row: (self.steps(block, *c, w), (c[0] * row).sum()),
                    (x, y),
                    w[:length],
                    reverse=reverse,
                )
                return x, y + z.sum()
        raise AssertionError(statement)


def outcome(program: Program, call: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The value, the gradients, the next random number and the counts."""
    flamec.manual_seed(1)
    with flamec.no_grad():
        program.hits.zero_()
    tensors = [flamec.tensor(a, requires_grad=True) for a in arrays]
    value = call(*tensors)
    found = flamec.autograd.grad(value, tensors, materialize_grads=True, allow_unused=True)
    drawn = flamec.rand(1)
    return [t.detach().numpy().copy() for t in (value, *found, drawn, program.hits)]


def drawn(rng: np.random.Generator) -> list[np.ndarray]:
    scale = rng.choice([0.3, 1.0, 3.0])
    return [scale * rng.normal(size=SIZE), rng.normal(size=SIZE), rng.normal(size=(SIZE + 1, SIZE))]


@pytest.mark.parametrize("seed", SEEDS)
def test_compiled_and_eager_agree(seed: int) -> None:
    program = Program(seed)
    compiled = flamec.compile(program.run, fullgraph=True)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        arrays = drawn(rng)
        found = outcome(program, compiled, arrays)
        wanted = outcome(program, program.run, arrays)
        for f, w in zip(found, wanted, strict=True):
            np.testing.assert_allclose(f, w, rtol=1e-9, atol=1e-10, err_msg=str(program.block))
    assert compiled.stats.traces == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_batched_and_eager_agree(seed: int) -> None:
    """``vmap`` of values and gradients; without effects, of which a batch has one for all."""
    program = next(p for p in map(Program, range(1000 * seed, 10**9)) if not p.draws | p.counts)
    rng = np.random.default_rng(seed)
    batches = [
        flamec.tensor(np.stack(a)) for a in zip(*(drawn(rng) for _ in range(3)), strict=True)
    ]
    call = func.vmap(func.grad_and_value(program.run, (0, 1, 2)))
    for batched in (call, flamec.compile(call)):
        gradients, values = batched(*batches)
        for i in range(3):
            wanted, value = func.grad_and_value(program.run, (0, 1, 2))(*(t[i] for t in batches))
            for f, w in zip((values, *gradients), (value, *wanted), strict=True):
                np.testing.assert_allclose(
                    f[i].numpy(), w.numpy(), rtol=1e-9, atol=1e-10, err_msg=str(program.block)
                )
