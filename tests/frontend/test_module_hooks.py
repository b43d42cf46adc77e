"""Hooks of modules: full backward hooks eager and compiled, global hooks, state_dict hooks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn
from flamec.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
    register_module_full_backward_pre_hook,
)

torch = pytest.importorskip("torch")


class Mixing:
    """A module of two inputs and two results, written for either framework."""

    @staticmethod
    def make(framework: Any) -> Any:
        class Mix(framework.nn.Module):  # type: ignore[misc, name-defined]
            def forward(self, x: Any, factor: float, y: Any) -> Any:
                return x * y * factor, x.sin()

        return Mix()


def values(gradients: tuple[Any, ...]) -> list[Any]:
    return [None if g is None else np.array(g.tolist()) for g in gradients]


def run(framework: Any, change: bool) -> tuple[list[Any], list[Any]]:
    module = Mixing.make(framework)
    seen: list[Any] = []

    def pre(m: Any, grad_output: Any) -> Any:
        seen.append(("pre", values(grad_output)))
        return tuple(g if g is None else g * 2 for g in grad_output) if change else None

    def hook(m: Any, grad_input: Any, grad_output: Any) -> Any:
        seen.append(("hook", values(grad_input), values(grad_output)))
        if change:
            return (grad_input[0] + grad_output[1], None, grad_input[2] * 3)
        return None

    module.register_full_backward_pre_hook(pre)
    handle = module.register_full_backward_hook(hook)
    x = framework.tensor([1.0, 2.0, 3.0], dtype=framework.float64, requires_grad=True)
    y = framework.tensor([0.5, -1.0, 2.0], dtype=framework.float64, requires_grad=True)
    a, b = module(x, 1.5, y)
    (a.sum() + (b * b).sum()).backward()
    first = [*values((x.grad, y.grad))]
    handle.remove()
    a, b = module(x, 1.5, y)
    a.sum().backward()
    return seen, [*first, *values((x.grad, y.grad))]


def same(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            same(a, b)
    elif isinstance(theirs, np.ndarray):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)
    else:
        assert mine == theirs or (mine is None and theirs is None)


@pytest.mark.parametrize("change", [False, True])
def test_full_backward_hooks_are_pytorchs(change: bool) -> None:
    same(run(flamec, change), run(torch, change))


def test_without_inputs_that_require_grad_the_hook_gets_none() -> None:
    results = []
    for framework in (flamec, torch):
        layer = framework.nn.Linear(3, 2)
        seen: list[Any] = []
        layer.register_full_backward_hook(lambda m, i, o, s=seen: s.append((i, values(o))))
        layer(framework.ones(4, 3)).sum().backward()
        results.append(seen)
    same(results[0], results[1])
    assert results[0][0][0] == (None,)


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
def test_a_compiled_function_has_the_hooks_of_the_eager_one(inside: bool) -> None:
    def make() -> Any:
        flamec.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        model[1].register_full_backward_hook(lambda m, i, o: (i[0] * 0.5 + o[0].abs() * scale,))
        model[2].register_full_backward_pre_hook(lambda m, o: (o[0] * 2 + 1,))
        return model

    scale = flamec.tensor(0.25)
    x = flamec.randn(5, 3)
    eager, compiled = make(), make()

    def loss_of(model: Any, x: Any) -> Any:
        loss = (model(x) ** 2).sum()
        if inside:
            loss.backward()
        return loss

    run_compiled = flamec.compile(loss_of)
    for _ in range(2):
        a, b = loss_of(eager, x), run_compiled(compiled, x)
        if not inside:
            a.backward()
            b.backward()
        np.testing.assert_allclose(a.tolist(), b.tolist(), rtol=1e-5)
        for p, q in zip(eager.parameters(), compiled.parameters(), strict=True):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-4, atol=1e-6)
    assert run_compiled.stats.traces <= 2


@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_what_hooks_store_is_stored_in_the_order_of_backward(way: str) -> None:
    """Hooks of tensors and modules that keep gradients, and count, as PyTorch calls them."""

    def record(framework: Any, whole: Any) -> list[Any]:
        class Net(framework.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = Mixing.make(framework), Mixing.make(framework)
                self.calls = 0

            def forward(self, x: Any, y: Any) -> Any:
                a, b = self.first(x, 2.0, y)
                a.register_hook(lambda g: seen.append(("a", g)))
                handle = b.register_hook(lambda g: g * 100)
                handle.remove()
                b.register_hook(self.keep)
                return self.second(a, 0.5, b)

            def keep(self, g: Any) -> Any:
                self.calls += 1
                self.gradient = g
                return g * 3

        net, seen = Net(), []
        for name, module in net.named_children():
            module.register_full_backward_pre_hook(lambda m, o, n=name: seen.append((n, *o)))
            module.register_full_backward_hook(lambda m, i, o, n=name: seen.append((n, *i)))
        weight = framework.tensor([1.5, -0.5], dtype=framework.float64, requires_grad=True)

        def step(x: Any, y: Any) -> Any:
            first, _ = net(x * weight, y * weight)  # nothing reaches the other result
            first.sum().backward()
            return net.gradient * 2

        step, found = whole(step), []
        for i in range(3):
            x, y = (framework.tensor([i + 1.0, k], dtype=framework.float64) for k in (2.0, -3.0))
            found.append(step(x, y))
        return [*found, net.calls, weight.grad, net.gradient, *seen]

    def plain(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return np.array(value.tolist()) if hasattr(value, "tolist") else value

    compiled = flamec.compile if way == "compiled" else lambda f: f
    mine, theirs = plain(record(flamec, compiled)), plain(record(torch, lambda f: f))
    assert mine[3] == 3 and sum(len(part) for part in mine[6:] if part[0] == "second") > 6
    same(mine, theirs)


def test_a_hook_is_kept_for_a_backward_outside_and_called_by_one_inside() -> None:
    """Both in one function: the gradient of the results passes the hook, too."""
    factor = flamec.tensor([2.0, 3.0])

    def function(x: Any) -> Any:
        y = x * x
        y.register_hook(lambda g: g * factor)
        (g,) = flamec.autograd.grad(y.sum(), x, retain_graph=True)
        return g, y.sin()

    found = []
    for whole in (function, flamec.compile(function)):
        x = flamec.tensor([1.0, -2.0], requires_grad=True)
        inside, y = whole(x)
        y.sum().backward()
        found.append((inside.tolist(), x.grad.tolist()))
    assert found[0][0] == [4.0, -12.0]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)


def test_a_hook_that_is_registered_later_is_seen() -> None:
    layer = nn.Linear(3, 1)
    gradient = flamec.compile(lambda x: flamec.autograd.grad(layer(x).sum(), x)[0])
    x = flamec.ones(2, 3, requires_grad=True)
    before = gradient(x)
    handle = layer.register_full_backward_hook(lambda m, i, o: (i[0] * 10,))
    np.testing.assert_allclose(gradient(x).numpy(), before.numpy() * 10, rtol=1e-6)
    handle.remove()
    np.testing.assert_allclose(gradient(x).numpy(), before.numpy(), rtol=1e-6)


def test_second_derivatives_go_through_hooks() -> None:
    results = []
    for framework in (flamec, torch):
        module = Mixing.make(framework)
        module.register_full_backward_hook(lambda m, i, o: (i[0] ** 2, None, None))
        x = framework.tensor([1.0, 2.0], dtype=framework.float64, requires_grad=True)
        a, b = module(x, 2.0, framework.ones(2, dtype=framework.float64))
        (g,) = framework.autograd.grad((a * a).sum() + b.sum(), x, create_graph=True)
        results.append([*values((g, framework.autograd.grad(g.sum(), x)[0]))])
    same(*results)


@pytest.fixture
def handles() -> Iterator[list[Any]]:
    found: list[Any] = []
    yield found
    for handle in found:
        handle.remove()


def test_hooks_of_all_modules(handles: list[Any]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    compiled = flamec.compile(lambda x: model(x))
    x = flamec.ones(1, 2)
    plain = compiled(x)
    calls: list[str] = []
    handles.append(register_module_forward_pre_hook(lambda m, a: calls.append(type(m).__name__)))
    handles.append(
        register_module_forward_hook(lambda m, a, r: r + 1 if isinstance(m, nn.ReLU) else None)
    )
    np.testing.assert_allclose(model(x).detach().numpy(), plain.detach().numpy() + 1)
    assert calls == ["Sequential", "Linear", "ReLU"]
    handles[0].remove()  # what appends to a list cannot be compiled
    np.testing.assert_allclose(compiled(x).detach().numpy(), plain.detach().numpy() + 1)
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(compiled(x).detach().numpy(), plain.detach().numpy())
    seen: list[str] = []
    handles.append(register_module_full_backward_pre_hook(lambda m, o: seen.append("pre")))
    handles.append(register_module_full_backward_hook(lambda m, i, o: seen.append("post")))
    nn.Linear(2, 2)(x).sum().backward()
    assert seen == ["pre", "post"]


def test_a_hook_that_is_always_called_sees_the_error() -> None:
    class Fails(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("no")

    module = Fails()
    seen: list[Any] = []
    module.register_forward_hook(lambda m, a, r: seen.append(("always", r)), always_call=True)
    module.register_forward_hook(lambda m, a, r: seen.append(("normal", r)))
    with pytest.raises(ValueError, match="no"):
        module(flamec.ones(1))
    assert seen == [("always", None)]


def test_state_dict_hooks_and_extra_state() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)
            self.count = 0

        def get_extra_state(self) -> Any:
            return {"count": self.count}

        def set_extra_state(self, state: Any) -> None:
            self.count = state["count"]

    source = nn.ModuleDict({"inner": Counter()})
    source["inner"].count = 7
    source.register_state_dict_post_hook(lambda m, s, p, meta: s.__setitem__("note", 1))
    state = source.state_dict()
    assert [*state] == ["inner._extra_state", "inner.linear.weight", "inner.linear.bias", "note"]
    target = nn.ModuleDict({"inner": Counter()})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "note"'):
        target.load_state_dict(state)

    def forget(m: Any, s: Any, *rest: Any) -> None:
        s.pop("note", None)
        s.pop("inner.linear.bias")

    target.register_load_state_dict_pre_hook(forget)
    target["inner"].register_load_state_dict_post_hook(
        lambda m, keys: keys.missing_keys.remove("inner.linear.bias")
    )
    target.load_state_dict(state)
    assert target["inner"].count == 7
    assert target["inner"].linear.weight.tolist() == source["inner"].linear.weight.tolist()
    assert "note" in state, "the caller's dict is left alone"


def test_modules_are_replaced_emptied_and_compiled() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    model.set_submodule("1", nn.Tanh())
    assert isinstance(model[1], nn.Tanh)
    with pytest.raises(AttributeError, match="7"):
        model.set_submodule("7", nn.Tanh(), strict=True)
    x = flamec.ones(1, 2)
    expected = model(x)
    model.compile()
    np.testing.assert_allclose(model(x).detach().numpy(), expected.detach().numpy(), rtol=1e-6)
    assert model.forward.stats.calls == 1
    model.to_empty(device="cpu")
    assert model[0].weight.shape == (3, 2)
    shared = nn.Linear(1, 1)
    assert len([*nn.Sequential(shared, shared).modules()]) == 2
    assert len([*nn.Sequential(shared, shared).modules(remove_duplicate=False)]) == 3


def test_a_class_that_loads_its_own_state_reports_what_is_missing_as_pytorch_has_it() -> None:
    told = []

    class Loader(nn.Linear):
        def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
            told.append(rest[1])
            super()._load_from_state_dict(state_dict, prefix, *rest)

    model = nn.Sequential(Loader(2, 2), nn.Linear(2, 2))
    model[1]._register_load_state_dict_pre_hook(lambda *given: told.append(given[3]))
    state = model.state_dict()
    del state["0.bias"]
    found = model.load_state_dict(state, strict=False)
    assert told == [True, True] and found.missing_keys == ["0.bias"]
