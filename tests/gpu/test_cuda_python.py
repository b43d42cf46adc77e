"""Python around tensors on a GPU: splits, effects, hooks, the array API; the CPU is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import array_api, nn, optim

pytestmark = pytest.mark.gpu

T = flamec.Tensor


def same(got: Any, expected: Any) -> None:
    """Equal structures, tensors close, numbers of one type."""
    assert type(got) is type(expected)
    if isinstance(expected, T):
        assert got.device.type == "cuda"
        found, wanted = got.detach().cpu().numpy(), expected.detach().numpy()
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)
        assert got.dtype is expected.dtype and got.requires_grad == expected.requires_grad
    elif isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            same(a, b)
    elif isinstance(expected, float):
        assert got == pytest.approx(expected, rel=1e-5, nan_ok=True)
    else:
        assert got == expected


def there(value: Any) -> Any:
    """Arguments with tensors on the GPU."""
    if isinstance(value, T):
        return value.detach().clone().cuda()
    return type(value)(map(there, value)) if isinstance(value, (tuple, list)) else value


def follow(function: Callable[..., Any], *calls: tuple[Any, ...]) -> Any:
    """Call a function compiled on the GPU with the arguments of each call."""
    compiled = flamec.compile(function)
    for arguments in calls:
        given, expected = there(arguments), copy.deepcopy(arguments)
        same(compiled(*given), function(*expected))
        same(given, expected)
    return compiled


def filled(value: float) -> T:
    return flamec.full((40,), value)


# splits ------------------------------------------------------------------------------------
def branch(x: T) -> T:
    y = x * 2
    if y.sum() > 3:
        return y - 1
    return y + 1


def grow(x: T) -> tuple[T, int]:
    turns = 0
    while x.sum() < 1000:
        x = x * 2
        turns += 1
    return x, turns


def rows(x: T) -> Any:
    total = 0.0
    for row in x:
        total += row.sum().item()
    best = max(total, 1.0)
    return total, best, best if total != total else -best


def writes(x: T, state: T) -> T:
    state.add_(1)
    x[0] = state.sum()
    view = x[1:]
    if state.sum() > 30:
        view.mul_(2)
        return x.sum()
    state.mul_(3)
    return view * 1


def test_splits() -> None:
    compiled = follow(branch, *((filled(v),) for v in (1.0, 0.0, 2.0, 0.01, 5.0)))
    assert compiled.stats.traces == 2 and compiled.stats.python_runs == 0
    compiled = follow(grow, *((filled(v),) for v in (1.0, 3.0, 1.0, 7.0, 3.0)))
    assert compiled.stats.traces == 3
    follow(rows, *((flamec.full((2, 40), v),) for v in (1.0, -1.0, 2.0)))
    follow(lambda x: (x.sum().item(), x * x.amax().item()), (filled(0.5),), (filled(-2.0),))
    follow(lambda x: x[: int(x[0])], (filled(3.0),), (filled(5.0),), (filled(3.0),))


def test_writes_around_a_split() -> None:
    compiled, mine, other = flamec.compile(writes), flamec.zeros(4).cuda(), flamec.zeros(4)
    for _ in range(5):
        a, b = flamec.ones(30).cuda(), flamec.ones(30)
        same(compiled(a, mine), writes(b, other))
        same((a, mine), (b, other))
    assert compiled.stats.traces == 2


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = (nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.BatchNorm1d(4)
        self.calls = 0
        self.seen: list[Any] = []

    def forward(self, x: T) -> T:
        self.calls += 1
        hidden = self.norm(flamec.tanh(self.first(x)))
        self.seen.append(hidden.detach().mean())
        if hidden[0].sum() > 0:
            return self.second(hidden)
        return self.other(hidden * 2)


def test_training_with_splits_and_effects() -> None:
    flamec.manual_seed(1)
    here = Branching()
    model = copy.deepcopy(here).cuda()

    def trainer(model: nn.Module) -> Callable[[T, T], Any]:
        optimizer = optim.AdamW(model.parameters(), lr=0.05)

        def step(x: T, y: T) -> Any:
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            if loss > 0.5:
                loss = loss * 2
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if norm < 3:
                optimizer.step()
            return loss.item()

        return step

    compiled, eager = flamec.compile(trainer(model)), trainer(here)
    random = np.random.default_rng(4)
    for number in range(8):
        x, y = (flamec.tensor(random.standard_normal((8, 4)).astype(np.float32)) for _ in range(2))
        assert compiled(x.cuda(), y.cuda()) == pytest.approx(eager(x, y), rel=1e-3)
        assert model.calls == here.calls == number + 1
    for p, q in zip(model.parameters(), here.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().cpu().numpy(), q.detach().numpy(), 2e-2, 2e-3)
    assert len(model.seen) == 8 and all(s.device.type == "cuda" for s in model.seen)


def test_gradients_through_splits() -> None:
    def f(x: T, w: T) -> T:
        y = (x * w).tanh()
        if y.sum() > 0:
            return (y * y).sum()
        return (y * w).sum()

    compiled = flamec.compile(f)
    for sign in (1.0, -1.0, 2.0, -0.5):
        gradients = []
        for function, device in ((compiled, "cuda"), (f, "cpu")):
            w = flamec.tensor([0.5, 1.0, -0.25], device=device, requires_grad=True)
            function(flamec.tensor([1.0, 2.0, 1.0], device=device) * sign, w).backward()
            assert w.grad is not None
            gradients.append(w.grad.cpu().numpy())
        np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


# effects -----------------------------------------------------------------------------------
class State:
    def __init__(self) -> None:
        self.count, self.last, self.items, self.table = 0, None, [], {}


@pytest.mark.parametrize("compiled", [False, True])
def test_effects_at_each_call(compiled: bool) -> None:
    def use(state: State, x: T) -> T:
        state.count += 1
        state.last = x * 2
        state.items.append(x.sum())
        state.table[state.count] = x + 1
        return state.last + state.count

    states = State(), State()
    call = flamec.compile(use) if compiled else use
    for value in (1.0, 2.0, 3.0):
        same(call(states[0], filled(value).cuda()), use(states[1], filled(value)))
        found, wanted = (
            (s.count, s.last, s.items, list(s.table), list(s.table.values())) for s in states
        )
        same(found, wanted)


# hooks -------------------------------------------------------------------------------------
@pytest.mark.parametrize("compiled", [False, True])
def test_module_and_tensor_hooks(compiled: bool) -> None:
    results = []
    for device in ("cpu", "cuda"):
        flamec.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).to(device)
        seen: list[Any] = []
        model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
        model[1].register_forward_hook(lambda module, args, output: output + 1)
        model[2].register_full_backward_hook(lambda module, gradients, outputs: (gradients[0] * 3,))
        model[0].weight.register_hook(lambda gradient: gradient.clamp(-0.5, 0.5))
        call = flamec.compile(model) if compiled and device == "cuda" else model
        x = flamec.arange(24, device=device).reshape(4, 6).float() / 10
        for _ in range(2):
            output = call(x)
            output.square().sum().backward()
        seen += [output, *(p.grad for p in model.parameters())]
        results.append([t.detach().cpu().numpy() for t in seen])
    for got, wanted in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


# array API ---------------------------------------------------------------------------------
def test_the_array_api() -> None:
    x = array_api.asarray(np.arange(24.0).reshape(4, 6), device="cuda")
    assert array_api.__name__ == x.__array_namespace__().__name__
    assert x.device.type == "cuda"
    y = array_api.linspace(0, 1, 6, device=x.device)
    wanted = np.arange(24.0).reshape(4, 6)
    checks = {
        "matmul": (array_api.matmul(x, array_api.matrix_transpose(x)), wanted @ wanted.T),
        "mean": (array_api.mean(x, axis=0), wanted.mean(0)),
        "std": (array_api.std(x, axis=1, correction=1), wanted.std(1, ddof=1)),
        "sort": (array_api.sort(x, axis=1, descending=True), -np.sort(-wanted, 1)),
        "argmax": (array_api.argmax(x, axis=1), wanted.argmax(1)),
        "concat": (array_api.concat([x, x], axis=1), np.concatenate([wanted, wanted], 1)),
        "where": (array_api.where(x > 5, x, -x), np.where(wanted > 5, wanted, -wanted)),
        "cumulative_sum": (array_api.cumulative_sum(x, axis=1), wanted.cumsum(1)),
        "product": (x * y, wanted * np.linspace(0, 1, 6)),
        "take": (
            array_api.take(x, array_api.asarray([2, 0], device="cuda"), axis=0),
            wanted[[2, 0]],
        ),
        "unique": (array_api.unique_values(array_api.floor(x / 5)), np.arange(5.0)),
    }
    for name, (got, expected) in checks.items():
        assert got.device.type == "cuda", name
        np.testing.assert_allclose(got.cpu().numpy(), expected, rtol=1e-6, err_msg=name)
    moved = array_api.to_device(x, "cpu") if hasattr(array_api, "to_device") else x.to("cpu")
    assert moved.device.type == "cpu"
