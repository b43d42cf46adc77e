"""Reverse mode of ``while_loop`` without ``max_steps`` in compiled functions.

The oracle is eager mode, whose tape grows with the loop, and finite differences in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simulated_gpu

import flamec
from flamec import nn, optim
from flamec.autograd import grad
from flamec.errors import StageError

T = flamec.Tensor
STARTS = (0.1, 3.0, 20.0, 1.9, 0.26, 1000.0, 3.5)  # from 14 steps to none


def doubled(x: T, weight: T) -> T:
    """Multiplied until the sum is large: how often depends on x, smoothly between the jumps."""
    return flamec.while_loop(
        lambda y: y.sum() < 30, lambda y: (y * weight + y.sin() * 0.01,), (x,)
    )[0]


def gradients(function: Any, x: T, weight: T) -> tuple[T, ...]:
    y = function(x, weight)
    return (y, *grad((y * y).sum(), (x, weight), materialize_grads=True))


def operands(start: float, dtype: flamec.dtype = flamec.float32, size: int = 3) -> tuple[T, T]:
    x = flamec.full((size,), start, dtype=dtype, requires_grad=True)
    weight = flamec.linspace(1.5, 2.0, size, dtype=dtype).requires_grad_()
    return x, weight


def same(found: Any, wanted: Any, **tolerance: float) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), **tolerance)


@pytest.mark.parametrize("backend", ["c", "evaluate"])
def test_gradients_inside(backend: str) -> None:
    compiled = flamec.compile(lambda x, w: gradients(doubled, x, w), backend=backend)
    for start in (*STARTS, *STARTS):
        same(compiled(*operands(start)), gradients(doubled, *operands(start)), rtol=2e-5)
    # 4, 8 and 16 steps at most, one where there is none
    assert len(compiled.programs) == 4 and compiled.stats.python_runs == 0


def test_gradients_outside() -> None:
    compiled = flamec.compile(doubled, backend="c")
    for start in (*STARTS, *STARTS):
        same(gradients(compiled, *operands(start)), gradients(doubled, *operands(start)), rtol=2e-5)
    assert len(compiled.programs) == 4


def test_against_finite_differences() -> None:
    compiled = flamec.compile(lambda x, w: gradients(doubled, x, w), backend="c")
    x, weight = operands(0.7, flamec.float64)
    found = compiled(x, weight)[1:]
    for position in (0, 1):
        for i in range(3):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [t.detach().clone() for t in (x, weight)]
                moved[position][i] += step
                ends.append((doubled(*moved) ** 2).sum().item())
            assert found[position][i].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)


def test_second_gradients() -> None:
    def twice(x: T, weight: T) -> tuple[T, ...]:
        (first,) = grad((doubled(x, weight) ** 2).sum(), (x,), create_graph=True)
        return (first, *grad(first.sum(), (x, weight), materialize_grads=True))

    compiled = flamec.compile(twice, backend="c")
    for start in (1.0, 30.0, 0.2):
        args = operands(start, flamec.float64)
        same(compiled(*args), twice(*operands(start, flamec.float64)), rtol=1e-10)


def test_sizes_that_vary() -> None:
    compiled = flamec.compile(lambda x, w: gradients(doubled, x, w), backend="c")
    for size in (2, 3, 5, 9, 4, 1):
        args = operands(1.0, size=size)
        same(compiled(*args), gradients(doubled, *operands(1.0, size=size)), rtol=2e-5)
    assert compiled.stats.traces <= 8


class Settling(nn.Module):
    """Steps of a layer until little changes; it counts them, and drops values at random."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("steps", flamec.zeros((), dtype=flamec.int64))

    def forward(self, x: T) -> T:
        def settled(state: T, change: T) -> tuple[T, T]:
            self.steps += 1
            new = flamec.tanh(self.layer(state)) * 0.5 + nn.functional.dropout(x, 0.3) * 0.1
            return new, (new - state).abs().amax()

        first = flamec.ones((), dtype=x.dtype)
        return flamec.while_loop(lambda state, change: change > 0.25, settled, (x, first))[0]


def test_a_training_step_draws_and_counts_what_eager_mode_does() -> None:
    def made() -> tuple[Settling, Any]:
        flamec.manual_seed(3)
        model = Settling()
        optimizer = optim.SGD(model.parameters(), lr=0.3)

        def step(x: T) -> T:
            optimizer.zero_grad()
            loss = (model(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        return model, step

    results = []
    for compile in (lambda f: f, lambda f: flamec.compile(f, backend="c")):
        model, step = made()
        run = compile(step)
        flamec.manual_seed(5)
        losses = [run(flamec.full((2, 4), v)).item() for v in (1.0, -2.0, 5.0, 1.0, 0.5, 3.0)]
        results.append((losses, model.steps.item(), model.layer.weight.detach().numpy().copy()))
    (losses, steps, weight), (found, counted, learned) = results
    assert counted == steps > 6
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    np.testing.assert_allclose(learned, weight, rtol=1e-4, atol=1e-6)


def test_a_loop_without_gradients_is_not_split() -> None:
    compiled = flamec.compile(doubled, backend="c")
    x, weight = (t.detach() for t in operands(1.0))
    same([compiled(x, weight)], [doubled(x, weight)], rtol=1e-6)
    with flamec.no_grad():
        same([compiled(*operands(1.0))], [doubled(x, weight)], rtol=1e-6)
    assert not any(program.splits for program in compiled.programs)


def test_in_one_piece_a_bound_is_asked_for() -> None:
    compiled = flamec.compile(lambda x, w: gradients(doubled, x, w), backend="c", fullgraph=True)
    with pytest.raises(StageError, match="max_steps"):
        compiled(*operands(1.0))


def test_tensors_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated_gpu.install(monkeypatch)
    compiled = flamec.compile(lambda x, w: gradients(doubled, x, w))
    for start in (1.0, 100.0, 0.2):
        args = [t.detach().to("cuda").requires_grad_() for t in operands(start)]
        found = [t.cpu() for t in compiled(*args)]
        same(found, gradients(doubled, *operands(start)), rtol=2e-5)
