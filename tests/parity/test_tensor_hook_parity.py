"""Hooks of tensors against PyTorch's, eager and as part of compiled programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import derivatives

import flamec

torch = pytest.importorskip("torch")

X = np.array([1.0, 2.0, -0.5])


def leaf(lib: Any) -> Any:
    return lib.tensor(X, dtype=lib.float64, requires_grad=True)


def identity(f: Any) -> Any:
    return f


WAYS = {
    "eager": identity,
    "compiled": flamec.compile,
    "symbolic": lambda f: flamec.compile(f, dynamic=True),
}


def hooked(lib: Any, x: Any) -> Any:
    """Hooks on values within: one that replaces, one that was taken off, one that looks."""
    y = x * 2
    y.register_hook(lambda g: g * 3)
    y.register_hook(lambda g: g + y.detach())
    y.register_hook(lambda g: g * 100).remove()
    z = lib.sin(y) * x
    z.register_hook(lambda g: None)
    z.register_hook(lambda g: lib.clamp(g, max=0.25) + (g * x.detach()) ** 2)
    return (z * y).sum()


@pytest.mark.parametrize("way", WAYS)
def test_hooks_within_a_function(way: str) -> None:
    expected = derivatives(torch, leaf(torch), lambda x: hooked(torch, x))
    found = derivatives(flamec, leaf(flamec), WAYS[way](lambda x: hooked(flamec, x)))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_hooks_and_backward_in_one_program(way: str) -> None:
    def step(x: Any) -> Any:
        (g,) = flamec.autograd.grad(hooked(flamec, x), x, create_graph=True)
        return g, flamec.autograd.grad((g * g).sum(), x)[0]

    expected = derivatives(torch, leaf(torch), lambda x: hooked(torch, x))[2:]
    for a, b in zip(WAYS[way](step)(leaf(flamec)), expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-12)


@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_hooks_of_leaves_registered_outside(way: str) -> None:
    w, x = leaf(flamec), leaf(flamec)

    def step(x: Any) -> None:
        x.grad = None
        w.grad = None
        (w * x).sum().backward()

    step = WAYS[way](step)
    handles = [w.register_hook(lambda g: g * 2), x.register_hook(lambda g: g + 1)]
    step(x)
    np.testing.assert_allclose(w.grad.numpy(), 2 * X)
    np.testing.assert_allclose(x.grad.numpy(), X + 1)
    handles.append(w.register_hook(lambda g: g + 10))
    step(x)
    np.testing.assert_allclose(w.grad.numpy(), 2 * X + 10)
    for handle in handles:
        handle.remove()
        handle.remove()
    step(x)
    np.testing.assert_allclose(w.grad.numpy(), X)
    np.testing.assert_allclose(x.grad.numpy(), X)
    with x.register_hook(lambda g: g * 0):
        step(x)
        np.testing.assert_allclose(x.grad.numpy(), 0)
    step(x)
    np.testing.assert_allclose(x.grad.numpy(), X)
    if way == "compiled":
        traces = step.stats.traces  # type: ignore[attr-defined]
        leaf(flamec).register_hook(lambda g: g)  # of a tensor that the program does not know
        step(x)
        assert step.stats.traces == traces  # type: ignore[attr-defined]


@pytest.mark.parametrize("way", ["eager", "compiled"])
def test_after_accumulation(way: str) -> None:
    """The recipe for a step that frees gradients: update the parameter as soon as it has one."""
    w = flamec.nn.Parameter(flamec.tensor([1.0, 2.0]))

    def update(p: Any) -> None:
        with flamec.no_grad():
            p.sub_(p.grad * 0.5)
        p.grad = None

    w.register_post_accumulate_grad_hook(update)

    def step(x: Any) -> Any:
        loss = (w * x).sum()
        loss.backward()
        return loss

    step = WAYS[way](step)
    losses = [step(flamec.tensor([1.0, 1.0])).item() for _ in range(3)]
    assert losses == [3.0, 2.0, 1.0]
    assert w.grad is None


@pytest.mark.parametrize("lib", [torch, flamec], ids=["torch", "flamec"])
def test_order_and_what_hooks_see(lib: Any) -> None:
    seen: list[Any] = []
    x = leaf(lib)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: seen.append(("y", g.tolist())))
    y.register_hook(lambda g: g * 2)
    x.register_hook(lambda g: seen.append(("x", g.tolist())))
    x.register_post_accumulate_grad_hook(lambda t: seen.append(("after", t.grad.tolist())))
    (y + y).sum().backward()
    assert y.grad.tolist() == [4.0] * 3
    assert seen == [("y", [2.0] * 3), ("x", [8.0] * 3), ("after", [8.0] * 3)]
    seen.clear()
    lib.autograd.grad((x * 3).sum(), x)
    assert seen == [("x", [3.0] * 3)]


@pytest.mark.parametrize("lib", [torch, flamec], ids=["torch", "flamec"])
def test_refusals(lib: Any) -> None:
    x = leaf(lib)
    with pytest.raises(RuntimeError, match="doesn't require gradient"):
        x.detach().register_hook(lambda g: g)
    with pytest.raises(RuntimeError, match="non-leaf"):
        (x * 2).register_post_accumulate_grad_hook(lambda t: None)
    y = x * 2
    y.register_hook(lambda g: g[:2])
    with pytest.raises(RuntimeError, match="changed the size of value"):
        y.sum().backward()


def test_refusals_while_compiling() -> None:
    w = leaf(flamec)

    @flamec.compile
    def registers(x: Any) -> Any:
        w.register_hook(lambda g: g * 2)
        return (w * x).sum()

    with pytest.raises(flamec.errors.CompileError, match="made outside"):
        registers(flamec.ones(3, dtype=flamec.float64))


def test_a_hook_of_a_compiled_function_stores_what_arrives_later() -> None:
    w, kept = leaf(flamec), []

    @flamec.compile
    def stores(x: Any) -> Any:
        y = w * x
        y.register_hook(kept.append)
        return (y * y).sum()

    x = flamec.tensor([1.0, 2.0, 3.0], dtype=flamec.float64)
    stores(x).backward()
    np.testing.assert_allclose([g.numpy() for g in kept], [2 * (w * x).detach().numpy()])


def test_a_leaf_made_in_a_compiled_function_gets_its_gradient() -> None:
    @flamec.compile
    def f(x: Any) -> Any:
        w = flamec.zeros(3) + x
        w.requires_grad_()
        w.register_hook(lambda g: g + 1)
        (w * w).sum().backward()
        return w.grad

    np.testing.assert_allclose(f(flamec.tensor([1.0, 2.0, 3.0])).numpy(), [3.0, 5.0, 7.0])
