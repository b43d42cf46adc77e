"""Optimizers against NumPy formulas; groups, saving, errors; numbers read anew when compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.optim.optimizer import Optimizer, skipping

RNG = np.random.default_rng(0)


def parameter(array: Any) -> nn.Parameter:
    return nn.Parameter(flamec.from_numpy(np.array(array, np.float64)))


def run(optimizer: Any, p: nn.Parameter, gradients: Any) -> np.ndarray:
    for gradient in gradients:
        p.grad = flamec.from_numpy(np.array(gradient))
        optimizer.step()
    return p.detach().numpy()


def test_sgd_by_hand() -> None:
    x = start = RNG.standard_normal(4)
    gradients = RNG.standard_normal((5, 4))
    p = parameter(start)
    result = run(optim.SGD([p], 0.1, 0.9, weight_decay=0.01, nesterov=True), p, gradients)
    buffer = np.zeros(4)
    for g in gradients:
        g = g + 0.01 * x
        buffer = 0.9 * buffer + g
        x = x - 0.1 * (g + 0.9 * buffer)
    np.testing.assert_allclose(result, x, rtol=1e-14)


def test_first_step_is_not_dampened() -> None:
    gradients = RNG.standard_normal((4, 3))
    p = parameter(np.zeros(3))
    result = run(optim.SGD([p], 1.0, 0.5, dampening=0.25), p, gradients)
    buffer, x = None, np.zeros(3)
    for g in gradients:
        buffer = g if buffer is None else 0.5 * buffer + 0.75 * g
        x = x - buffer
    np.testing.assert_allclose(result, x, rtol=1e-14)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_by_hand(decoupled: bool) -> None:
    x = start = RNG.standard_normal(4)
    gradients = RNG.standard_normal((6, 4))
    p = parameter(start)
    kind = optim.AdamW if decoupled else optim.Adam
    result = run(kind([p], 0.02, (0.8, 0.9), weight_decay=0.1), p, gradients)
    mean, square = np.zeros(4), np.zeros(4)
    for t, g in enumerate(gradients, 1):
        if decoupled:
            x = x * (1 - 0.02 * 0.1)
        else:
            g = g + 0.1 * x
        mean = 0.8 * mean + 0.2 * g
        square = 0.9 * square + 0.1 * g * g
        x = x - 0.02 * (mean / (1 - 0.8**t)) / (np.sqrt(square / (1 - 0.9**t)) + 1e-8)
    np.testing.assert_allclose(result, x, rtol=1e-12)


def test_lion_by_hand() -> None:
    x = start = RNG.standard_normal(4)
    gradients = RNG.standard_normal((6, 4))
    p = parameter(start)
    result = run(optim.Lion([p], 0.02, (0.8, 0.9), weight_decay=0.1, maximize=True), p, gradients)
    mean = np.zeros(4)
    for g in -gradients:
        direction = np.sign(0.8 * mean + 0.2 * g)
        x = x * (1 - 0.02 * 0.1) - 0.02 * direction
        mean = 0.9 * mean + 0.1 * g
    np.testing.assert_allclose(result, x, rtol=1e-13)


def test_half_precision_parameters() -> None:
    p = nn.Parameter(flamec.ones(3, dtype=flamec.bfloat16))
    optimizer = optim.Adam([p], lr=0.1)
    p.grad = flamec.ones(3, dtype=flamec.bfloat16)
    optimizer.step()
    assert p.dtype is flamec.bfloat16
    np.testing.assert_allclose(p.detach().float().numpy(), 0.9, rtol=2**-8)
    assert optimizer.state[p]["step"].dtype is flamec.float32


# hooks --------------------------------------------------------------------------------------


def test_step_hooks() -> None:
    p = parameter([1.0])
    p.grad = flamec.from_numpy(np.ones(1))
    seen: list[str] = []

    class Own(optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append("step")
            return super().step(closure)

    def change(optimizer: optim.Optimizer, args: Any, kwargs: Any) -> Any:
        assert args == (optimizer, None) and kwargs == {}
        seen.append("before")
        return (optimizer, lambda: 5.0), {}

    optimizer = Own([p], lr=0.1)
    handles = [
        optimizer.register_step_pre_hook(change),
        optimizer.register_step_post_hook(lambda o, a, k: seen.append("after")),
        optim.register_optimizer_step_pre_hook(lambda o, a, k: seen.append("before all")),
        optim.register_optimizer_step_post_hook(lambda o, a, k: seen.append("after all")),
    ]
    assert optimizer.step(None) == 5.0
    assert seen == ["before all", "before", "step", "after", "after all"]
    for handle in handles:
        handle.remove()
    seen.clear()
    optimizer.step()
    assert seen == ["step"]
    optimizer.register_step_pre_hook(lambda o, a, k: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()


def test_state_dict_hooks() -> None:
    optimizer = optim.SGD([parameter([1.0])], lr=0.1)
    seen: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, s: {**s, "version": 3})
    state = optimizer.state_dict()
    assert seen == ["saving"] and state["version"] == 3

    def change(optimizer: optim.Optimizer, state: dict[str, Any]) -> None:
        assert state.pop("version") == 3
        state["param_groups"] = [{**state["param_groups"][0], "lr": 0.7}]

    optimizer.register_load_state_dict_pre_hook(change)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.7 and seen[-1] == "loaded"
    assert state["version"] == 3


# groups and state ---------------------------------------------------------------------------


def test_groups() -> None:
    a, b, c = parameter([1.0]), parameter([1.0]), parameter([1.0])
    optimizer = optim.SGD([{"params": a, "lr": 0.5}, {"params": [b]}], lr=0.1)
    optimizer.add_param_group({"params": [c], "momentum": 0.9})
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1, 0.1]
    for p in (a, b, c):
        p.grad = flamec.from_numpy(np.ones(1))
    optimizer.step()
    assert [p.item() for p in (a, b, c)] == [0.5, 0.9, 0.9]
    assert list(optimizer.state) == [c]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [a]})
    with pytest.raises(TypeError, match="must be a dict"):
        optimizer.add_param_group([a])  # type: ignore[arg-type]
    assert "Parameter Group 2" in repr(optimizer)


def test_named_parameters() -> None:
    net = nn.Linear(2, 1)
    optimizer = optim.SGD(net.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"][0] is net.weight
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


def test_bad_parameters() -> None:
    p = parameter([1.0])
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.SGD([])
    with pytest.raises(TypeError, match="iterable of Tensors"):
        optim.SGD(p)
    with pytest.raises(TypeError, match="one of the params is int"):
        optim.SGD([3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="non-leaf"):
        optim.SGD([p * 2])
    with pytest.raises(TypeError, match="ordered collections"):
        optim.SGD([{"params": {p}}])
    with pytest.raises(ValueError, match="with/without names"):
        optim.SGD([("a", p), parameter([2.0])])  # type: ignore[list-item]
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optim.SGD([p, p])


def test_zero_grad() -> None:
    p = parameter([1.0])
    optimizer = optim.SGD([p], lr=0.1)
    p.grad = flamec.from_numpy(np.ones(1))
    gradient = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is gradient and gradient.item() == 0
    optimizer.zero_grad()
    assert p.grad is None


def test_closure_runs_with_gradients() -> None:
    p = parameter([3.0])
    optimizer = optim.SGD([p], lr=0.1)

    def closure() -> flamec.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert p.item() == pytest.approx(2.4)


@pytest.mark.parametrize("kind", [optim.Adam, optim.SGD])
def test_saving_and_loading_continues(kind: Any) -> None:
    gradients = RNG.standard_normal((6, 3))
    options = {"momentum": 0.9, "dampening": 0.2} if kind is optim.SGD else {"amsgrad": True}
    whole, part = parameter(np.ones(3)), parameter(np.ones(3))
    expected = run(kind([whole], 0.1, **options), whole, gradients)
    first = kind([part], 0.1, **options)
    run(first, part, gradients[:3])
    state = first.state_dict()
    assert list(state) == ["state", "param_groups"]
    assert state["param_groups"][0]["params"] == [0]
    second = kind([part], 0.7, **options)
    second.load_state_dict(state)
    assert second.param_groups[0]["lr"] == 0.1
    np.testing.assert_allclose(run(second, part, gradients[3:]), expected, rtol=1e-14)
    first.state[part].clear()
    assert second.state[part]
    with pytest.raises(ValueError, match="doesn't match the size"):
        kind([part, parameter([1.0])], 0.1).load_state_dict(state)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        kind([{"params": [part]}, {"params": [parameter([1.0])]}]).load_state_dict(state)


# compiled ------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "momentum": lambda p: optim.SGD(p, 0.1, 0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, 0.1, 0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, 0.01),
    "adamw": lambda p: optim.AdamW(p, 0.01, amsgrad=True),
    "lion": lambda p: optim.Lion(p, 1e-3, weight_decay=0.1),
    "tensor lr": lambda p: optim.Adam(p, flamec.tensor(0.01)),
}


def _network() -> nn.Module:
    flamec.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def _training(net: nn.Module, optimizer: optim.Optimizer) -> Any:
    def step(x: flamec.Tensor, y: flamec.Tensor) -> flamec.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_step_follows_eager_and_reads_numbers_anew(name: str) -> None:
    x = flamec.from_numpy(RNG.standard_normal((10, 6)).astype(np.float32))
    y = flamec.from_numpy(RNG.integers(0, 3, 10))
    losses = []
    for compiled in (False, True):
        net = _network()
        optimizer = OPTIMIZERS[name](net.parameters())
        schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        step = _training(net, optimizer)
        if compiled:
            step = flamec.compile(step)
        found = []
        for epoch in range(12):
            found.append(step(x, y).item())
            schedule.step()
            group = optimizer.param_groups[0]
            if "betas" in group:
                group["betas"] = (0.9 - 0.01 * epoch, 0.999)
            if "eps" in group:
                group["eps"] = 1e-8 * (1 + epoch)
            if group.get("momentum"):
                group["momentum"] = 0.9 - 0.01 * epoch
        losses.append(found)
        if compiled:
            assert step.stats.traces == 1, step.stats.guard_failures
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)


def test_turning_weight_decay_on_gives_the_right_answer() -> None:
    results = []
    for compiled in (False, True):
        p = parameter(np.ones(3))
        optimizer = optim.SGD([p], lr=0.1)

        def step(g: flamec.Tensor, p: Any = p, optimizer: Any = optimizer) -> None:
            p.grad = g * 1.0
            optimizer.step()

        run_step = flamec.compile(step) if compiled else step
        for decay in (0, 0, 0.1, 0.2, 0):
            optimizer.param_groups[0]["weight_decay"] = decay
            run_step(flamec.from_numpy(np.full(3, 0.5)))
        results.append(p.detach().numpy().copy())
    np.testing.assert_allclose(results[1], results[0], rtol=1e-14)


def test_state_loaded_between_compiled_steps() -> None:
    x = flamec.from_numpy(RNG.standard_normal((10, 6)).astype(np.float32))
    y = flamec.from_numpy(RNG.integers(0, 3, 10))
    net = _network()
    optimizer = optim.Adam(net.parameters(), 0.01)
    step = flamec.compile(_training(net, optimizer))
    weights = {k: v.clone() for k, v in net.state_dict().items()}
    step(x, y)
    saved = optimizer.state_dict()
    saved = {"state": {k: {n: v.clone() for n, v in e.items()} for k, e in saved["state"].items()},
             "param_groups": saved["param_groups"]}  # fmt: skip
    after = {k: v.clone() for k, v in net.state_dict().items()}
    expected = step(x, y).item()
    third = step(x, y).item()
    net.load_state_dict(after)
    optimizer.load_state_dict(saved)
    assert step(x, y).item() == pytest.approx(expected, rel=1e-6)
    assert step(x, y).item() == pytest.approx(third, rel=1e-6)
    assert weights.keys() == after.keys()


STEPPING = [
    kind
    for kind in vars(optim).values()
    if isinstance(kind, type) and kind is not Optimizer and kind.step is Optimizer.step
]


@pytest.mark.parametrize("kind", STEPPING)
def test_a_skipped_step_changes_neither_parameters_nor_state(kind: Any) -> None:
    def make() -> tuple[nn.Parameter, Any]:
        p = nn.Parameter(flamec.from_numpy(np.arange(6.0).reshape(2, 3)))
        return p, kind([p], lr=0.1)

    def contents(p: nn.Parameter, optimizer: Any) -> list[np.ndarray]:
        state = [v for v in optimizer.state[p].values() if isinstance(v, flamec.Tensor)]
        return [t.detach().numpy().copy() for t in (p, *state)]

    p, optimizer = make()

    @flamec.compile
    def step(gradient: flamec.Tensor, skip: flamec.Tensor) -> None:
        p.grad = gradient * 1.0
        with skipping(skip):
            optimizer.step()

    q, plain = make()
    for skip, gradient in zip(
        (True, False, True, False), RNG.standard_normal((4, 2, 3)), strict=True
    ):
        before = contents(p, optimizer)
        step(flamec.from_numpy(gradient), flamec.tensor(skip))
        if skip:
            for old, new in zip(before, contents(p, optimizer), strict=False):
                np.testing.assert_array_equal(new, old)
        else:
            run(plain, q, [gradient])
        limits = (5e-3, 5e-3) if kind is optim.Muon else (1e-6, 1e-7)  # Muon: bfloat16
        wanted = contents(q, plain) if plain.state[q] else [q.detach().numpy()]
        for mine, other in zip(contents(p, optimizer), wanted, strict=False):
            np.testing.assert_allclose(mine, other, *limits)
    assert step.stats.traces == 1


def test_schedule_of_a_tensor_learning_rate() -> None:
    lr = flamec.tensor(0.5)
    optimizer = optim.SGD([parameter([1.0])], lr=lr)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.25
    assert schedule.get_last_lr() == [0.25]


def test_schedule_errors() -> None:
    optimizer = optim.SGD([parameter([1.0])], lr=0.1)
    with pytest.raises(TypeError, match="not an Optimizer"):
        optim.lr_scheduler.StepLR(3, 1)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="initial_lr"):
        optim.lr_scheduler.StepLR(optimizer, 1, last_epoch=4)
    with pytest.raises(ValueError, match="momentum or beta1"):
        kind = type("Plain", (optim.Optimizer,), {})
        plain = kind([parameter([1.0])], {"lr": 0.1})
        optim.lr_scheduler.OneCycleLR(plain, 0.1, total_steps=5)
    with pytest.raises(ValueError, match="total_steps"):
        optim.lr_scheduler.OneCycleLR(optimizer, 0.1)
    cycle = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2)
    cycle.step()
    cycle.step()
    with pytest.raises(ValueError, match="Tried to step 3 times"):
        cycle.step()


def test_groups_that_get_their_state_in_a_compiled_step() -> None:
    """The first step makes the state of all groups; the trace relies on its keys."""
    curves = []
    for compiled in (False, True):
        flamec.manual_seed(0)
        layer = nn.Linear(3, 2)
        groups = [{"params": [layer.weight], "weight_decay": 0.1}, {"params": [layer.bias]}]
        optimizer = optim.AdamW(groups, lr=0.1, weight_decay=0.0)

        def step(x: Any, layer: Any = layer, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = layer(x).square().sum()
            loss.backward()
            optimizer.step()
            return loss

        chosen = flamec.compile(step) if compiled else step
        curves.append([chosen(flamec.ones(4, 3)).item() for _ in range(3)])
        if compiled:
            assert chosen.stats.traces == 1
    np.testing.assert_allclose(*curves, rtol=1e-5)
