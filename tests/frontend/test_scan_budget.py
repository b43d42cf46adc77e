"""Loops in a function with a memory budget: their steps are run again in segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_gpu
from flamec.ir.estimates import value_bytes
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.passes.segment_loops import StepBytes, divide
from flamec.ir.plan import Loop

ROWS, WIDTH = 32, 16
BUDGETS = (1.0, 0.5, 0.0)
STEP = ROWS * WIDTH * 4  # bytes of a value of one step


def gated(w: Any, x: Any, reverse: bool) -> Any:
    """A recurrence with stacked results; x: [steps, rows, width]."""

    def step(h: Any, e: Any) -> tuple[Any, Any]:
        z = flamec.tanh(h @ w + e)
        gate = flamec.sigmoid(z * 1.5)
        new = gate * h + (1 - gate) * z
        return new, (new * new).mean(1)

    h, ys = flamec.scan(step, flamec.zeros(ROWS, WIDTH), x, reverse=reverse)
    return (h * h).sum() + (ys * flamec.arange(ys.shape[0]).unsqueeze(1)).mean()


def repeated(w: Any, x: Any, reverse: bool) -> Any:
    """A loop that stacks nothing and draws random numbers."""

    def step(i: Any, h: Any) -> Any:
        kept = flamec.rand(ROWS, WIDTH) < 0.8
        return flamec.where(kept, flamec.tanh(h @ w), h) + i / 100

    return flamec.fori_loop(0, x.shape[0], step, x[0]).square().mean()


def gradients(
    function: Callable[..., Any], budget: float | None, steps: int, reverse: bool
) -> tuple[list[np.ndarray], Any]:
    """The loss, gradients of the weights and of the sequence, and what was compiled."""
    flamec.manual_seed(1)
    w = (flamec.randn(WIDTH, WIDTH) / 4).requires_grad_()
    x = flamec.randn(steps, ROWS, WIDTH).requires_grad_()

    def run() -> Any:
        loss = function(w, x, reverse)
        loss.backward()
        return loss

    compiled = run if budget is None else flamec.compile(run, memory_budget=budget)
    loss = compiled()
    found = [loss.detach().numpy(), w.grad.numpy(), x.grad.numpy()]
    return [*found, flamec.get_rng_state().numpy()], compiled


def arena(compiled: Any) -> int:
    return plan_memory(compiled.programs[0].prepared.plan, {}).peak_bytes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [64, 61])
def test_a_recurrence(steps: int, reverse: bool) -> None:
    """The same gradients with ever less memory: 4 values of each step, then some 8 segments."""
    eager, _ = gradients(gated, None, steps, reverse)
    peaks = []
    for budget in BUDGETS:
        found, compiled = gradients(gated, budget, steps, reverse)
        for a, b in zip(found, eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
        peaks.append(arena(compiled))
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > 3 * steps * STEP
    copies = 0 if steps == 64 else 2 * steps * STEP  # of the sequence, which is cut in two
    assert peaks[-1] < 50 * STEP + copies and peaks[1] < 0.75 * peaks[0]


def test_plans_for_a_gpu() -> None:
    """The same graphs lowered to Triton: the same values wait, loops are loops in loops."""
    plans = []
    for budget in (1.0, 0.0):
        _, compiled = gradients(gated, budget, 64, False)
        plans.append(compile_for_gpu(compiled.programs[0].prepared.optimized).plan)
    most, least = (plan_memory(plan, {}).peak_bytes for plan in plans)
    assert least < 0.5 * most
    depth = [max(_depth(action) for action in plan.actions) for plan in plans]
    assert depth == [1, 2]


def _depth(action: Any) -> int:
    inside = action.actions if isinstance(action, Loop) else ()
    return isinstance(action, Loop) + max(map(_depth, inside), default=0)


def test_what_a_loop_draws_is_drawn_again() -> None:
    eager, _ = gradients(repeated, None, 100, False)
    peaks = []
    for budget in BUDGETS:
        found, compiled = gradients(repeated, budget, 100, False)
        for a, b in zip(found, eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)
        peaks.append(arena(compiled))
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < 0.4 * peaks[0]


def test_an_lstm() -> None:
    def trained(budget: float | None) -> tuple[list[np.ndarray], int]:
        flamec.manual_seed(0)
        model = nn.LSTM(WIDTH, 2 * WIDTH, num_layers=2)
        x = flamec.randn(96, ROWS, WIDTH)

        def step() -> Any:
            output, (h, c) = model(x)
            loss = (output**2).mean() + (h * c).sum()
            loss.backward()
            return loss

        compiled = step if budget is None else flamec.compile(step, memory_budget=budget)
        loss = compiled()
        found = [loss.detach().numpy(), *(p.grad.numpy() for p in model.parameters())]
        return found, 0 if budget is None else arena(compiled)

    eager, _ = trained(None)
    peaks = []
    for budget in BUDGETS:
        found, peak = trained(budget)
        for a, b in zip(found, eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        peaks.append(peak)
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < 0.8 * peaks[0]


def test_backward_outside_of_the_function() -> None:
    """The forward program saves what segments begin with."""
    w = (flamec.randn(WIDTH, WIDTH) / 4).requires_grad_()
    x = flamec.randn(64, ROWS, WIDTH)
    expected = flamec.autograd.grad(gated(w, x, False), w)[0].numpy()
    saved = []
    for budget in (1.0, 0.0):
        compiled = flamec.compile(lambda: gated(w, x, False), memory_budget=budget)
        (found,) = flamec.autograd.grad(compiled(), w)
        np.testing.assert_allclose(found.numpy(), expected, rtol=2e-4, atol=1e-6)
        program = compiled.programs[0]
        kept = program.forward_graph.outputs[len(program.original.graph.outputs) :]
        saved.append(sum(map(value_bytes, kept)))
    assert saved[1] < 0.4 * saved[0]


def test_second_derivatives() -> None:
    x = flamec.randn(40, ROWS, WIDTH)

    def curvature(w: Any) -> Any:
        (first,) = flamec.autograd.grad(gated(w, x, False), w, create_graph=True)
        (second,) = flamec.autograd.grad((first**2).sum(), w)
        return second

    w = (flamec.randn(WIDTH, WIDTH) / 4).requires_grad_()
    expected = curvature(w).numpy()
    for budget in (0.5, 0.0):
        found = flamec.compile(curvature, memory_budget=budget)(w).numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * abs(expected).max())


@pytest.mark.parametrize("steps", [2, 7, 36, 97])
@pytest.mark.parametrize("step", [StepBytes(400, 100, 0), StepBytes(10, 90, 4)])
def test_divisions(steps: int, step: StepBytes) -> None:
    """Never more than the budget allows, at 0 the least that there is; less work for more bytes."""
    whole = steps * step.saved
    every = [
        segments * step.carried
        + length * step.saved
        + (steps - segments * length) * step.saved
        + (steps * step.moved if segments * length < steps else 0)
        for length in range(1, steps)
        for segments in range(1, steps // length + 1)
    ]
    least = divide(steps, step, 0.0)
    if least is None:
        assert whole <= min(every)
        return
    assert least.nbytes(step) == min(every) < whole
    work = steps
    for eighths in range(8):
        division = divide(steps, step, eighths / 8)
        if division is None:
            continue
        again = division.segments * division.length
        assert again + division.rest == steps and again <= work
        assert division.nbytes(step) <= min(every) + eighths / 8 * (whole - min(every))
        work = again
