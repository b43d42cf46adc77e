"""Python around tensors on a GPU: splits, effects, hooks, the array API; the CPU is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from split_programs import (
    Branching,
    branch,
    growing,
    numbers_of_rows,
    squares_or_products,
    trainer,
    writing,
)
from split_programs import same as same_within

import flamec
from flamec import array_api, nn

pytestmark = pytest.mark.gpu

T = flamec.Tensor


def same(got: Any, expected: Any) -> None:
    same_within(got, expected, rtol=2e-5, atol=1e-6, device="cuda")


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
def test_splits() -> None:
    compiled = follow(branch, *((filled(v),) for v in (1.0, 0.0, 2.0, 0.01, 5.0)))
    assert compiled.stats.traces == 2 and compiled.stats.python_runs == 0
    compiled = follow(growing(1000), *((filled(v),) for v in (1.0, 3.0, 1.0, 7.0, 3.0)))
    assert compiled.stats.traces == 3
    follow(numbers_of_rows, *((flamec.full((2, 40), v),) for v in (1.0, -1.0, 2.0)))
    follow(lambda x: (x.sum().item(), x * x.amax().item()), (filled(0.5),), (filled(-2.0),))
    follow(lambda x: x[: int(x[0])], (filled(3.0),), (filled(5.0),), (filled(3.0),))


def test_writes_around_a_split() -> None:
    writes = writing(30)
    compiled, mine, other = flamec.compile(writes), flamec.zeros(4).cuda(), flamec.zeros(4)
    for _ in range(5):
        a, b = flamec.ones(30).cuda(), flamec.ones(30)
        same(compiled(a, mine), writes(b, other))
        same((a, mine), (b, other))
    assert compiled.stats.traces == 2


class Noting(Branching):
    """Counts its calls and keeps what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[Any] = []

    def hidden(self, x: T) -> T:
        self.calls += 1
        hidden = super().hidden(x)
        self.seen.append(hidden.detach().mean())
        return hidden


def test_training_with_splits_and_effects() -> None:
    flamec.manual_seed(1)
    here = Noting()
    model = copy.deepcopy(here).cuda()

    compiled, eager = flamec.compile(trainer(model, lr=0.05)), trainer(here, lr=0.05)
    random = np.random.default_rng(4)
    for number in range(8):
        x, y = (flamec.tensor(random.standard_normal((8, 4)).astype(np.float32)) for _ in range(2))
        (found, _), (wanted, _) = compiled(x.cuda(), y.cuda()), eager(x, y)
        assert found == pytest.approx(wanted, rel=1e-3)
        assert model.calls == here.calls == number + 1
    for p, q in zip(model.parameters(), here.parameters(), strict=True):
        np.testing.assert_allclose(p.detach().cpu().numpy(), q.detach().numpy(), 2e-2, 2e-3)
    assert len(model.seen) == 8 and all(s.device.type == "cuda" for s in model.seen)


def test_gradients_through_splits() -> None:
    f = squares_or_products
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
    assert x.to_device("cpu").device.type == "cpu"
