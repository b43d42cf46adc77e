"""GradScaler: what each method does, misuse, and whole steps compiled; see also the parity test."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Tensor, nn, optim
from flamec.amp import GradScaler
from flamec.errors import CompileError


def scaler(**options: Any) -> GradScaler:
    return GradScaler("cpu", **{"init_scale": 8.0, "growth_interval": 2, **options})


def problem(kind: Any = optim.SGD, **options: Any) -> tuple[nn.Parameter, Any]:
    p = nn.Parameter(flamec.tensor([1.0, 2.0]))
    return p, kind([p], **{"lr": 0.5, **options})


def gradient(p: nn.Parameter, scale: GradScaler, values: list[float]) -> None:
    p.grad = None
    scale.scale((p * flamec.tensor(values)).sum()).backward()


def test_a_good_step_is_the_plain_step() -> None:
    p, optimizer = problem()
    scale = scaler()
    gradient(p, scale, [3.0, -1.0])
    np.testing.assert_array_equal(p.grad.numpy(), [24.0, -8.0])
    scale.step(optimizer)
    np.testing.assert_array_equal(p.grad.numpy(), [3.0, -1.0])
    np.testing.assert_array_equal(p.detach().numpy(), [-0.5, 2.5])
    scale.update()
    assert scale.get_scale() == 8.0
    assert scale.state_dict()["_growth_tracker"] == 1


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_bad_step_is_skipped_and_lowers_the_scale(bad: float) -> None:
    p, optimizer = problem(optim.SGD, momentum=0.9)
    scale = scaler()
    for values in ([1.0, bad], [bad, 1.0]):
        gradient(p, scale, values)
        assert scale.step(optimizer) is None
        scale.update()
        np.testing.assert_array_equal(p.detach().numpy(), [1.0, 2.0])
        assert not optimizer.state[p]
    assert scale.get_scale() == 2.0


def test_the_scale_grows_after_good_steps_in_a_row_until_it_would_be_infinite() -> None:
    p, optimizer = problem()
    scale = scaler(init_scale=2.0**126)
    seen = []
    for _ in range(8):
        p.grad = flamec.ones(2)
        scale.step(optimizer)
        scale.update()
        seen.append(scale.get_scale())
    assert seen[0] == 2.0**126
    assert set(seen[1:]) == {2.0**127}


def test_gradients_can_be_unscaled_and_clipped() -> None:
    p, optimizer = problem()
    scale = scaler()
    gradient(p, scale, [3.0, 4.0])
    scale.unscale_(optimizer)
    assert float(nn.utils.clip_grad_norm_([p], 1.0)) == pytest.approx(5.0)
    scale.step(optimizer)
    np.testing.assert_allclose(p.detach().numpy(), [1 - 0.3, 2 - 0.4], rtol=1e-6)


def test_one_bad_optimizer_of_two_lowers_the_scale_and_skips_alone() -> None:
    (p, first), (q, second) = problem(), problem()
    scale = scaler()
    gradient(p, scale, [1.0, 1.0])
    gradient(q, scale, [np.inf, 1.0])
    scale.step(first)
    scale.step(second)
    scale.update()
    np.testing.assert_array_equal(p.detach().numpy(), [0.5, 1.5])
    np.testing.assert_array_equal(q.detach().numpy(), [1.0, 2.0])
    assert scale.get_scale() == 4.0


def test_structures_of_losses_are_scaled() -> None:
    scale = scaler()
    a, (b, c) = scale.scale((flamec.ones(()), [flamec.ones(2), flamec.ones(2).bfloat16()]))
    assert (float(a), b.tolist(), c.tolist()) == (8.0, [8.0, 8.0], [8.0, 8.0])
    assert [float(x) for x in scale.scale(iter([flamec.ones(())]))] == [8.0]
    with pytest.raises(ValueError, match="Tensor or an iterable"):
        scale.scale(3)


def test_misuse() -> None:
    p, optimizer = problem()
    scale = scaler()
    with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
        scale.step(optimizer)
    with pytest.raises(AssertionError, match="prior to update"):
        scale.update()
    scale = scaler()
    gradient(p, scale, [1.0, 1.0])
    scale.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scale.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="Closure"):
        scale.step(optimizer, closure=lambda: None)
    scale.step(optimizer)
    with pytest.raises(RuntimeError, match="being called after step"):
        scale.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="already been called since the last update"):
        scale.step(optimizer)
    half = nn.Parameter(flamec.ones(2).half())
    half.grad = flamec.ones(2).half()
    with pytest.raises(ValueError, match="FP16"):
        scale.unscale_(optim.SGD([half], lr=0.1))
    with pytest.raises(AssertionError, match="growth factor"):
        scaler(growth_factor=1.0)
    with pytest.raises(AssertionError, match="backoff factor"):
        scaler(backoff_factor=1.0)


def test_disabled() -> None:
    p, optimizer = problem()
    scale = scaler(enabled=False)
    gradient(p, scale, [1.0, 1.0])
    scale.unscale_(optimizer)
    scale.step(optimizer)
    scale.update()
    np.testing.assert_array_equal(p.detach().numpy(), [0.5, 1.5])
    assert (scale.is_enabled(), scale.get_scale(), scale.state_dict()) == (False, 1.0, {})
    scale.load_state_dict({})


def test_cuda_where_there_is_none_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flamec.cuda, "is_available", lambda: False)
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not GradScaler().is_enabled()


def test_saving_and_settings() -> None:
    scale = scaler()
    p, optimizer = problem()
    gradient(p, scale, [1.0, 1.0])
    scale.step(optimizer)
    scale.update()
    saved = scale.state_dict()
    assert saved == {
        "scale": 8.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2,
        "_growth_tracker": 1,
    }
    other = GradScaler("cpu")
    other.load_state_dict(copy.deepcopy(saved))
    assert other.state_dict() == saved
    with pytest.raises(RuntimeError, match="source state dict is empty"):
        other.load_state_dict({})
    other.set_growth_factor(3.0)
    other.set_backoff_factor(0.1)
    other.set_growth_interval(7)
    settings = other.get_growth_factor(), other.get_backoff_factor(), other.get_growth_interval()
    assert settings == (3.0, 0.1, 7)
    other.update(64.0)
    assert other.get_scale() == 64.0
    other.update(flamec.tensor([32.0]))
    assert other.get_scale() == 32.0
    with pytest.raises(AssertionError, match="1-element"):
        other.update(flamec.ones(2))


# compiled --------------------------------------------------------------------------------


def training(kind: Any, compiled: bool, **options: Any) -> list[Any]:
    """Losses, scales and parameters over steps of which some overflow."""
    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    optimizer = kind(model.parameters(), **options)
    scale = scaler(init_scale=2.0**10, growth_interval=3)

    def step(x: Tensor, y: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        scale.scale(loss * factor).backward()
        scale.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale.step(optimizer)
        scale.update()
        return loss.detach(), norm

    call = flamec.compile(step) if compiled else step
    generator = np.random.default_rng(1)
    found: list[Any] = []
    for number in range(15):
        x = flamec.from_numpy(generator.standard_normal((6, 5)).astype(np.float32))
        y = flamec.from_numpy(generator.integers(0, 3, 6))
        factor = flamec.tensor(float("inf") if number in (0, 5, 6, 11) else 1.0)
        loss, _ = call(x, y, factor)
        if number == 8:
            scale.set_backoff_factor(0.25)
            scale.set_growth_interval(2)
        found.append((float(loss), scale.get_scale(), scale.state_dict()["_growth_tracker"]))
    if compiled:
        assert call.stats.traces == 1
    found.append([p.detach().numpy().copy() for p in model.parameters()])
    steps = [s["step"] for s in optimizer.state.values() if "step" in s]
    assert all(float(s) == 11 for s in steps)
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}),
        (optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    ],
)
def test_a_compiled_step_follows_the_eager_one(kind: Any, options: dict[str, Any]) -> None:
    eager, compiled = (training(kind, c, **options) for c in (False, True))
    for mine, other in zip(compiled[:-1], eager[:-1], strict=True):
        assert mine[1:] == other[1:]
        np.testing.assert_allclose(mine[0], other[0], rtol=1e-5)
    assert len({scale for _, scale, _ in eager[:-1]}) > 4
    for p, q in zip(compiled[-1], eager[-1], strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*run at each call")
def test_update_may_stand_outside_the_compiled_function() -> None:
    results = []
    for compiled in (False, True):
        p, optimizer = problem()
        scale = scaler()

        def step(x: Tensor, p: Any = p, optimizer: Any = optimizer, scale: Any = scale) -> None:
            optimizer.zero_grad()
            scale.scale((p * x).sum()).backward()
            scale.step(optimizer)

        run = flamec.compile(step) if compiled else step
        for value in (1.0, np.inf, 2.0, 3.0):
            run(flamec.full((2,), value))
            scale.update()
        results.append((p.detach().tolist(), scale.get_scale()))
    assert results[0] == results[1]
    p, optimizer = problem()
    scale = scaler()

    @flamec.compile(fullgraph=True)
    def refused(x: Tensor) -> None:
        scale.scale((p * x).sum()).backward()
        scale.step(optimizer)

    with pytest.raises(CompileError, match=r"stored outside|changed the state"):
        refused(flamec.ones(2))


def test_scaling_alone_can_be_compiled() -> None:
    p, optimizer = problem()
    scale = scaler()

    @flamec.compile
    def backward(x: Tensor) -> None:
        optimizer.zero_grad()
        scale.scale((p * x).sum()).backward()

    for values in ([1.0, 1.0], [np.inf, 1.0], [1.0, 1.0]):
        backward(flamec.tensor(values))
        scale.step(optimizer)
        scale.update()
    np.testing.assert_array_equal(p.detach().numpy(), [0.0, 1.0])
    assert scale.get_scale() == 4.0
    assert backward.stats.traces == 1
