"""``compile(memory_budget=...)``: less memory, the same step."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_process import run_python
from residual_network import residual_network

import flamec
from flamec import optim
from flamec.cli.memory_text import memory_data, memory_lines
from flamec.ir.passes.plan_memory import plan_memory
from flamec.nn import functional as F
from flamec.runtime.allocator import current_arena

WIDTH, LAYERS, ROWS = 48, 6, 512
BUDGETS = (1.0, 0.5, 0.0)


def trained(budget: float | None, steps: int = 2) -> tuple[list[np.ndarray], Any]:
    """Parameters and the generator's state after some steps, and the compiled function."""
    flamec.manual_seed(3)
    model = residual_network(WIDTH, LAYERS, outputs=5, dropout=0.2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = flamec.randn(ROWS, WIDTH), flamec.randint(0, 5, (ROWS,))

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    compiled = step if budget is None else flamec.compile(step, memory_budget=budget)
    losses = [compiled(x, y).item() for _ in range(steps)]
    found = [*(p.detach().numpy().copy() for p in model.parameters())]
    return [*found, np.array(losses), flamec.get_rng_state().numpy()], compiled


def test_a_training_step_with_less_memory() -> None:
    eager, _ = trained(None)
    peaks, results = [], []
    for budget in BUDGETS:
        found, compiled = trained(budget)
        for a, b in zip(found, eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
        results.append(found)
        plan = compiled.programs[0].prepared.plan
        layout = plan_memory(plan, {})
        peaks.append(layout.peak_bytes)
        bound = compiled.programs[0].prepared.runner.program.bind(())
        arena = current_arena().view()
        touched = _touched(arena, lambda step=compiled: trained_again(step))
        assert touched <= bound.peak_bytes and touched >= 0.95 * layout.peak_bytes
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < 0.6 * peaks[0]
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_what_a_program_says_about_its_memory() -> None:
    """Prediction, what is computed again and what is kept, each with its reason and its line."""
    _, plain = trained(1.0, steps=1)
    _, small = trained(0.0, steps=1)
    use, less = plain.memory_use(), small.memory_use()
    assert use.total == use.inputs + use.outputs + use.arena
    assert (less.inputs, less.outputs) == (use.inputs, use.outputs) and less.arena < use.arena
    model = residual_network(WIDTH, LAYERS, outputs=5, dropout=0.2)
    parameters = sum(p.numel() * 4 for p in model.parameters())
    assert use.outputs > parameters  # gradients
    (only,) = memory_lines(plain.programs[0].prepared.plan, {})
    assert "arena" in only
    lines = memory_lines(small.programs[0].prepared.plan, {})
    assert any(line.startswith("computed again:") for line in lines)
    kept = [line for line in lines if line.startswith("kept at the peak:")]
    assert kept and all("  # " in line and ": " in line for line in kept)
    data = memory_data(small.programs[0].prepared.plan, {})
    assert (
        data["peaks"][data["chosen"]] == plan_memory(small.programs[0].prepared.plan, {}).peak_bytes
    )
    with pytest.raises(RuntimeError, match="no compiled program"):
        flamec.compile(lambda x: x).memory_use()


def trained_again(step: Any) -> None:
    step(flamec.randn(ROWS, WIDTH), flamec.randint(0, 5, (ROWS,)))


def _touched(arena: np.ndarray, run: Any) -> int:
    """How far into the arena a call writes."""
    arena[:] = 0xAB
    run()
    return int(np.flatnonzero(arena != 0xAB)[-1]) + 1


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_what_is_no_budget_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="memory_budget"):
        flamec.compile(lambda x: x, memory_budget=value)


def test_what_a_program_captured_is_freed_with_it() -> None:
    """The generator, which the program drew from, outlives it and must not hold it."""

    def train() -> list[weakref.ref[Any]]:
        model = residual_network(8, 1, outputs=2, dropout=0.2)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        @flamec.compile
        def step(x: Any) -> None:
            optimizer.zero_grad()
            model(x).sum().backward()
            optimizer.step()

        step(flamec.ones(4, 8))
        return [weakref.ref(found) for found in (model, step, *model.parameters())]

    alive = train()
    gc.collect()
    assert not any(found() is not None for found in alive)


SEARCHING = """
import sys, flamec
w = flamec.ones(16, 16, requires_grad=True)
@flamec.compile(memory_budget={budget})
def step(x):
    for _ in range(3):
        x = (x @ w).tanh()
    x.sum().backward()
step(flamec.ones(64, 16))
print("networkx" in sys.modules, step.stats.kernels_compiled > 0)
"""


@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_nothing_is_searched_for_without_a_budget(budget: float, tmp_path: Path) -> None:
    """The package that finds minimum cuts is not even loaded."""
    finished = run_python("-c", SEARCHING.format(budget=budget), cache=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [str(budget < 1), "True"]


def test_gradients_lend_their_memory() -> None:
    """Temporaries are in the memory of gradients until these are written, wherever that is."""
    flamec.manual_seed(0)
    width = 256  # so that a gradient has 256 KiB
    model = residual_network(width, 3, outputs=width, dropout=0.0)
    twin = residual_network(width, 3, outputs=width, dropout=0.0)
    twin.load_state_dict(model.state_dict())
    parameters, twins = list(model.parameters()), list(twin.parameters())

    def step(model: Any, x: Any) -> None:
        model.zero_grad()
        (model(x) ** 2).mean().backward()

    compiled = flamec.compile(lambda x: step(model, x))
    kept = []
    for turn in range(4):
        x = flamec.randn(250, width)
        compiled(x)
        step(twin, x)
        for p, t in zip(parameters, twins, strict=True):
            np.testing.assert_allclose(p.grad.numpy(), t.grad.numpy(), rtol=1e-3, atol=1e-6)
        if turn == 1:  # from now on gradients are elsewhere
            kept = [(p.grad, p.grad.numpy().copy()) for p in parameters]
    for gradient, contents in kept:
        np.testing.assert_array_equal(gradient.numpy(), contents)
    prepared = compiled.programs[0].prepared
    layout = plan_memory(prepared.plan, {})
    lent = sum(prepared.plan.buffers[b].bytes for b in layout.guests)
    assert lent > 4 << 18
    alone = plan_memory(replace(prepared.plan, outputs=()), {})
    assert layout.peak_bytes <= 0.7 * alone.peak_bytes
