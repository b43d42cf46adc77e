"""Random eager programs with views and in-place changes: compiled and eager agree.

Each program is a list of instructions interpreted over Tensors: arithmetic, views,
writes through views, indexing, reductions, products. It runs eagerly and compiled
from the same inputs; results, changed arguments and gradients must agree. The seed
stands in the test's name.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec.ir.types import CPU, Device

PROGRAMS_PER_SEED = 10
ON_A_GPU = 3
SEEDS = range(2000 if os.environ.get("FLAMEC_TEST_LEVEL") == "full" else 6)

Instruction = tuple[str, tuple[Any, ...]]
Values = list[flamec.Tensor]


def _pick(rng: random.Random, values: Values, matches: Callable[[flamec.Tensor], bool]) -> int:
    return rng.choice([i for i, v in enumerate(values) if matches(v)])


def _view(rng: random.Random, x: flamec.Tensor) -> Instruction | None:
    kind = rng.choice(
        ["slice", "transpose", "reshape", "select", "expand", "flip_slice", "diagonal"]
    )
    if kind == "slice" and x.ndim:
        axis = rng.randrange(x.ndim)
        size = x.shape[axis]
        start = rng.randint(0, size)
        return "slice", (axis, start, rng.randint(start, size), rng.randint(1, 2))
    if kind == "transpose" and x.ndim >= 2:
        return "transpose", tuple(rng.sample(range(x.ndim), 2))
    if kind == "reshape":
        return "reshape", (-1,) if x.numel() else (0,)
    if kind == "select" and x.ndim and x.shape[0]:
        return "select", (rng.randrange(x.shape[0]),)
    if kind == "expand":
        return "expand", (2, *x.shape)
    if kind == "diagonal" and x.ndim == 2:
        return "diagonal", (rng.randint(-1, 1),)
    return None


def apply_instruction(
    values: Values, name: str, target: int, other: int, extra: tuple[Any, ...]
) -> None:
    """Run one instruction; its result, if it has one, is appended to ``values``."""
    x, y = values[target], values[other]
    match name:
        case "slice":
            axis, start, stop, step = extra
            index = [slice(None)] * x.ndim
            index[axis] = slice(start, stop, step)
            values.append(x[tuple(index)])
        case "transpose":
            values.append(x.transpose(*extra))
        case "reshape":
            values.append(x.reshape(extra))
        case "select":
            values.append(x[extra[0]])
        case "expand":
            values.append(x.expand(extra))
        case "diagonal":
            values.append(x.diagonal(extra[0]))
        case "add" | "mul" | "sub" | "maximum":
            values.append(getattr(flamec, name)(x, y))
        case "sin" | "tanh" | "sigmoid" | "abs" | "square":
            values.append(getattr(flamec, name)(x))
        case "where":
            values.append(flamec.where(x > 0, x, y))
        case "sum":
            values.append(x.sum(extra[0], keepdim=extra[1]))
        case "mean":
            values.append(x.mean())
        case "softmax":
            values.append(flamec.softmax(x, -1))
        case "matmul":
            values.append(x @ x.transpose(-1, -2))
        case "cat":
            values.append(flamec.cat([x, y], 0))
        case "gather":
            values.append(x[flamec.tensor(extra)])
        case "add_":
            x.add_(y)
        case "mul_":
            x.mul_(0.5)
        case "fill_":
            x.fill_(extra[0])
        case "copy_":
            x.copy_(y)
        case "index_write":
            x[extra[0]] = y.sum()
        case _:
            raise AssertionError(name)


def random_instruction(rng: random.Random, values: Values) -> tuple[str, int, int, tuple[Any, ...]]:
    """An instruction that is legal for the values at hand."""
    while True:
        target = rng.randrange(len(values))
        x = values[target]
        same = _pick(rng, values, lambda v, shape=x.shape: v.shape == shape)
        kind = rng.randrange(10)
        if kind < 3:
            found = _view(rng, x)
            if found is not None and x.numel() <= 64:
                return found[0], target, same, found[1]
        elif kind < 5:
            name = rng.choice(["add", "mul", "sub", "maximum", "where"])
            return name, target, same, ()
        elif kind < 6:
            return rng.choice(["sin", "tanh", "sigmoid", "abs", "square"]), target, same, ()
        elif kind < 7 and x.ndim:
            name = rng.choice(["sum", "mean", "softmax", "matmul", "cat", "gather"])
            if name == "sum":
                return name, target, same, (rng.randrange(x.ndim), rng.random() < 0.5)
            if (name == "matmul" and x.ndim < 2) or (name == "softmax" and not x.shape[-1]):
                continue
            if name == "gather":
                if not x.shape[0]:
                    continue
                return name, target, same, tuple(rng.randrange(x.shape[0]) for _ in range(3))
            return name, target, same, ()
        elif _writable(x):
            name = rng.choice(["add_", "mul_", "fill_", "copy_", "index_write"])
            if name == "index_write":
                if not x.ndim or not x.shape[0]:
                    continue
                return name, target, same, (rng.randrange(x.shape[0]),)
            return name, target, same, (rng.choice([0.0, 1.5]),) if name == "fill_" else ()


def _writable(x: flamec.Tensor) -> bool:
    array = x.detach().numpy()
    return all(s != 0 or d <= 1 for s, d in zip(array.strides, array.shape, strict=True))


def make_inputs(seed: int, device: Device = CPU) -> Values:
    generator = np.random.default_rng(seed)
    shapes = [(3, 4), (4,), (2, 3, 4), ()]
    return [flamec.tensor(generator.standard_normal(s), device=device) for s in shapes]


def make_program(seed: int, length: int = 12) -> list[tuple[str, int, int, tuple[Any, ...]]]:
    rng = random.Random(seed)
    values = make_inputs(seed)
    program = []
    for _ in range(length):
        instruction = random_instruction(rng, values)
        apply_instruction(values, *instruction)
        program.append(instruction)
    return program


@pytest.mark.parametrize("seed", SEEDS)
def test_views_and_writes(seed: int) -> None:
    for number in range(seed * PROGRAMS_PER_SEED, (seed + 1) * PROGRAMS_PER_SEED):
        program = make_program(number)

        def run(*arguments: flamec.Tensor, program: Any = program) -> tuple[flamec.Tensor, ...]:
            values = list(arguments)
            for instruction in program:
                apply_instruction(values, *instruction)
            return tuple(values[len(arguments) :])

        expected_inputs, inputs = make_inputs(number), make_inputs(number)
        expected = run(*expected_inputs)
        got = flamec.compile(run)(*inputs)
        for label, a, b in (
            *(("result", a, b) for a, b in zip(got, expected, strict=True)),
            *(("argument", a, b) for a, b in zip(inputs, expected_inputs, strict=True)),
        ):
            np.testing.assert_allclose(
                a.numpy(),
                b.numpy(),
                rtol=1e-9,
                atol=1e-9,
                err_msg=f"{label} of seed {number}: {program}",
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_views_and_writes_on_a_gpu(seed: int, gpu: Device) -> None:
    for number in range(seed * ON_A_GPU + 20_000_000, (seed + 1) * ON_A_GPU + 20_000_000):
        program = make_program(number)

        def run(*arguments: flamec.Tensor, program: Any = program) -> tuple[flamec.Tensor, ...]:
            values = list(arguments)
            for instruction in program:
                apply_instruction(values, *instruction)
            return tuple(values[len(arguments) :])

        expected_inputs = make_inputs(number)
        expected = run(*expected_inputs)
        for mode, function in (("eager", run), ("compiled", flamec.compile(run))):
            inputs = make_inputs(number, gpu)
            got = function(*inputs)
            pairs = zip((*got, *inputs), (*expected, *expected_inputs), strict=True)
            for position, (a, b) in enumerate(pairs):
                assert a.device == gpu
                np.testing.assert_allclose(
                    a.cpu().numpy(),
                    b.numpy(),
                    rtol=1e-9,
                    atol=1e-9,
                    err_msg=f"{mode}, value {position} of seed {number}: {program}",
                )


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_through_views_and_writes(seed: int) -> None:
    for number in range(seed * PROGRAMS_PER_SEED, (seed + 1) * PROGRAMS_PER_SEED):
        program = make_program(number + 10_000_000)

        def run(*arguments: flamec.Tensor, program: Any = program) -> tuple[flamec.Tensor, ...]:
            values = [a * 1.0 for a in arguments]
            for instruction in program:
                apply_instruction(values, *instruction)
            total = sum((v * v).sum() for v in values)
            return flamec.autograd.grad(total, arguments, allow_unused=True, materialize_grads=True)

        def inputs(number: int = number) -> Values:
            return [x.requires_grad_() for x in make_inputs(number + 10_000_000)]

        try:
            expected = run(*inputs())
        except RuntimeError as error:
            if "changed in place" not in str(error):
                raise
            continue  # the program overwrites what its own gradient needs: refused, as in PyTorch
        got = flamec.compile(run)(*inputs())
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(
                a.numpy(), b.numpy(), rtol=1e-8, atol=1e-8, err_msg=f"seed {number}: {program}"
            )
