"""Checkpointing: the same gradients, fewer kept values, random numbers drawn once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import func, nn
from flamec.autograd.saved_tensors import saved_tensors_hooks
from flamec.ir.passes.plan_memory import plan_memory
from flamec.utils.checkpoint import CheckpointError, checkpoint, checkpoint_sequential

WIDTH, LAYERS, ROWS = 32, 5, 96


def network() -> nn.Module:
    flamec.manual_seed(0)
    blocks = [
        nn.Sequential(
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Dropout(0.3),
            nn.Linear(WIDTH, WIDTH),
            nn.Tanh(),
        )
        for _ in range(LAYERS)
    ]
    return nn.Sequential(*blocks)


def loss_of(model: nn.Module, x: Any, checkpointed: bool) -> Any:
    for block in model:
        x = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)
    return (x * x).sum()


def gradients(model: nn.Module, step: Any) -> list[np.ndarray]:
    flamec.manual_seed(1)
    x = flamec.randn(ROWS, WIDTH, requires_grad=True)
    for parameter in model.parameters():
        parameter.grad = None
    step(x)
    found = [x.grad, *(p.grad for p in model.parameters()), flamec.get_rng_state()]
    return [t.numpy().copy() for t in found]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_eager_gradients_are_the_same() -> None:
    model = network()
    expected = gradients(model, lambda x: loss_of(model, x, False).backward())
    found = gradients(model, lambda x: loss_of(model, x, True).backward())
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    same(
        gradients(model, lambda x: (checkpoint_sequential(model, 2, x) ** 2).sum().backward()),
        expected,
    )


def test_a_compiled_step_keeps_less() -> None:
    model = network()
    expected = gradients(model, lambda x: loss_of(model, x, False).backward())
    peaks = []
    for checkpointed in (False, True):

        @flamec.compile(dynamic=False)
        def step(x: Any, checkpointed: bool = checkpointed) -> None:
            loss_of(model, x, checkpointed).backward()

        same(gradients(model, step), expected)
        plan = step.programs[0].prepared.plan
        peaks.append(plan_memory(plan, {}).peak_bytes)
    assert peaks[1] < 0.6 * peaks[0]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_forward_saves_less(dynamic: bool) -> None:
    model = network()
    expected = gradients(model, lambda x: loss_of(model, x, False).backward())
    saved = []
    for checkpointed in (False, True):

        @flamec.compile(dynamic=None if dynamic else False)
        def forward(x: Any, checkpointed: bool = checkpointed) -> Any:
            return loss_of(model, x, checkpointed)

        def step(x: Any, f: Any = forward) -> None:
            if dynamic:
                flamec.mark_dynamic(x, 0)
            f(x).backward()

        same(gradients(model, step), expected)
        saved.append(forward.programs[0]._saved_count)
    assert saved[1] == LAYERS + 1  # what leaves each block, and the state of the dropout
    assert saved[0] >= 2 * LAYERS


def test_what_is_kept_in_memory() -> None:
    counted: list[int] = []

    def pack(tensor: Any) -> Any:
        counted.append(tensor.numel())
        return tensor

    x = flamec.randn(ROWS, requires_grad=True)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        checkpoint(lambda v: flamec.sin(flamec.exp(v)).tanh(), x)
        assert counted == []
        y = flamec.sin(flamec.exp(x))
        assert len(counted) == 2
    y.sum().backward()
    np.testing.assert_allclose(
        x.grad.numpy(), np.cos(np.exp(x.detach().numpy())) * np.exp(x.detach().numpy()), rtol=1e-4
    )


def test_second_derivatives_and_a_second_backward() -> None:
    x = flamec.tensor([0.3, -0.7], dtype=flamec.float64, requires_grad=True)
    for way in (lambda f: f, flamec.compile):

        def second(v: Any) -> Any:
            y = checkpoint(lambda t: flamec.sin(t * t).exp(), v)
            (g,) = flamec.autograd.grad(y.sum(), v, create_graph=True)
            return flamec.autograd.grad((g * g).sum(), v)[0]

        def plain(v: Any) -> Any:
            (g,) = flamec.autograd.grad(flamec.sin(v * v).exp().sum(), v, create_graph=True)
            return flamec.autograd.grad((g * g).sum(), v)[0]

        np.testing.assert_allclose(way(second)(x).numpy(), plain(x).numpy(), rtol=1e-12)
    y = checkpoint(lambda t: t.exp().exp(), x).sum()
    (first,) = flamec.autograd.grad(y, x, retain_graph=True)
    (again,) = flamec.autograd.grad(y, x)
    np.testing.assert_array_equal(first.numpy(), again.numpy())


def test_nested_parts() -> None:
    def inner(t: Any) -> Any:
        return flamec.sin(flamec.exp(t))

    def outer(t: Any) -> Any:
        return checkpoint(inner, flamec.cos(t)).tanh()

    for way in (lambda f: f, flamec.compile):
        x = flamec.tensor([0.3, -0.7], dtype=flamec.float64, requires_grad=True)
        way(lambda v: checkpoint(outer, v).sum())(x).backward()
        z = flamec.tensor([0.3, -0.7], dtype=flamec.float64, requires_grad=True)
        flamec.tanh(flamec.sin(flamec.exp(flamec.cos(z)))).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-12)


def test_refusals() -> None:
    x = flamec.ones(3, requires_grad=True)
    sizes = iter([1, 2])

    def changing(t: Any) -> Any:
        for _ in range(next(sizes)):
            t = t.exp()
        return t

    with pytest.raises(CheckpointError, match="different number of tensors"):
        checkpoint(changing, x).sum().backward()
    shapes = iter([(3, 1), (1, 3)])
    with pytest.raises(CheckpointError, match="different metadata"):
        checkpoint(lambda t: t.reshape(next(shapes)).exp(), x).sum().backward()
    z = x * 2
    y = checkpoint(lambda t: t.exp(), z).sum()
    z.add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    with pytest.raises(ValueError, match="determinism_check"):
        checkpoint(changing, x, determinism_check="maybe")


def test_a_part_runs_once_more_whatever_its_rules_read() -> None:
    """What a rule reads twice (``x * x``) is fetched once."""
    for function in (
        lambda x: x * x,
        lambda x: nn.functional.layer_norm(x, (3,)),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
    ):
        runs = []

        def part(x: Any, function: Any = function, runs: list[int] = runs) -> Any:
            runs.append(1)
            return function(x)

        checkpoint(part, flamec.ones(4, 3, requires_grad=True)).sum().backward()
        assert len(runs) == 2


def changed_weights(where: str, wrap: Any) -> Any:
    """A checkpointed part whose weight changes before its backward pass: ``where``."""
    weight = flamec.full((3,), 0.5, dtype=flamec.float64, requires_grad=True)
    shift = flamec.ones(3, dtype=flamec.float64)
    x = flamec.tensor([1.0, 2.0, 3.0], dtype=flamec.float64, requires_grad=True)

    def change() -> None:
        with flamec.no_grad():
            weight.mul_(1.5)
            shift.add_(1)

    def function(x: Any) -> Any:
        y = checkpoint(lambda h: flamec.tanh(h * flamec.exp(weight) + flamec.sin(shift)), x)
        if where != "outside":
            change()
        if where == "before an inner backward":
            (y * y).sum().backward()
        return y.detach() if where == "before an inner backward" else y

    step, seen = wrap(function), []
    for _ in range(3):
        y = step(x)
        if where == "outside":
            change()
        if where != "before an inner backward":
            (y * y).sum().backward()
        seen.append([y.tolist(), x.grad.tolist(), weight.grad.tolist()])
    return seen


@pytest.mark.parametrize("where", ["before an inner backward", "before an outer backward"])
def test_what_a_part_reads_may_change_before_it_is_computed_again(where: str) -> None:
    """As in PyTorch: the part is computed again from the new weights."""
    torch = pytest.importorskip("torch")
    expected = changed_weights(where, lambda f: f)
    with pytest.warns(
        RuntimeWarning, match="has read a tensor that is changed before the backward"
    ):
        found = changed_weights(where, lambda f: flamec.compile(f, backend="evaluate"))
    assert found == expected

    def again(x: Any, weight: Any, shift: Any) -> Any:
        return torch.tanh(x * torch.exp(weight) + torch.sin(shift))

    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    weight = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)
    shift = torch.ones(3, dtype=torch.float64)
    for y_seen, x_grad, weight_grad in expected:
        y = torch.utils.checkpoint.checkpoint(
            lambda h: again(h, weight, shift), x, use_reentrant=False
        )
        with torch.no_grad():
            weight.mul_(1.5)
            shift.add_(1)
        (y * y).sum().backward()
        np.testing.assert_allclose(y.tolist(), y_seen, 1e-5)
        np.testing.assert_allclose(x.grad.tolist(), x_grad, 1e-4)
        np.testing.assert_allclose(weight.grad.tolist(), weight_grad, 1e-4)


def test_what_a_compiled_part_has_read_may_not_change_after_the_call() -> None:
    """Also what its gradient alone does not need, as the part would be computed again."""
    changed_weights("outside", lambda f: f)
    with pytest.raises(RuntimeError, match=r"was changed in place at .* after the call"):
        changed_weights("outside", lambda f: flamec.compile(f, backend="evaluate"))


def test_an_optimizer_may_step_after_the_backward_pass_of_a_part() -> None:
    """Nor do changes of other tensors split or refuse anything."""
    model = network()
    optimizer = flamec.optim.SGD(model.parameters(), lr=0.01)
    seen = flamec.zeros(())

    @flamec.compile(backend="evaluate", fullgraph=True)
    def step(x: Any) -> Any:
        loss = loss_of(model, x, True)
        seen.add_(1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = loss_of(model, x, True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    losses = [step(flamec.ones(8, WIDTH)).item() for _ in range(3)]
    assert losses[2] != losses[0] and seen.item() == 3


def test_what_a_compiled_part_changes_is_changed_once() -> None:
    """Eager mode runs the part, and so its changes, a second time, as PyTorch does."""
    for wrap, times in ((lambda f: f, 2), (flamec.compile, 1)):
        norm = nn.BatchNorm1d(3)
        step = wrap(lambda x, norm=norm: checkpoint(norm, x).square().sum().backward())
        step(flamec.randn(4, 3, requires_grad=True))
        assert norm.num_batches_tracked.item() == times


GRADIENTS_INSIDE: dict[str, Any] = {
    "grad": lambda x: func.grad(lambda v: (v.sin() * v).sum())(x).cos(),
    "vjp": lambda x: func.vjp(lambda v: v.sin() * v, x)[1](x)[0],
    "jvp": lambda x: func.jvp(lambda v: v.sin() * v, (x,), (x.exp(),))[1],
    "hessian": lambda x: func.hessian(lambda v: (v.sin() * v).sum())(x) @ x,
    "autograd": lambda x: flamec.autograd.grad((x.sin() * x).sum(), x, create_graph=True)[0] * x,
    "checkpoint": lambda x: func.grad(lambda v: checkpoint(flamec.sin, v * v).sum())(x),
}


@pytest.mark.parametrize("name", GRADIENTS_INSIDE)
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_inside(name: str, compiled: bool) -> None:
    """A backward pass in the part, which asks for what is saved before the part has ended."""
    function = GRADIENTS_INSIDE[name]
    found = []
    for wrap in (lambda f, x: f(x), checkpoint):

        def run(x: Any, wrap: Any = wrap) -> Any:
            (first,) = flamec.autograd.grad(wrap(function, x).sum(), x, create_graph=True)
            return first, flamec.autograd.grad(first.sum(), x)[0]

        x = flamec.tensor([0.1, 0.5, -0.7], dtype=flamec.float64).requires_grad_()
        found.append((flamec.compile(run, backend="evaluate") if compiled else run)(x))
    for mine, expected in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), expected.detach().numpy(), rtol=1e-12)


def test_what_the_part_saves_and_then_changes_is_an_error() -> None:
    """As without a checkpoint: the value that is computed again is changed again."""

    def at_the_end(x: Any) -> Any:
        y = x.exp()
        y.mul_(2)
        return y

    def inside(x: Any) -> Any:
        y = x.exp()
        total = y.sum()
        y.data.mul_(2)
        return flamec.autograd.grad(total, x, create_graph=True)[0] * x

    x = flamec.ones(2).requires_grad_()
    for part in (at_the_end, inside):
        for wrap in (lambda f, x: f(x), checkpoint):
            with pytest.raises(RuntimeError, match=r"was changed in place at .*test_checkpoint"):
                wrap(part, x).sum().backward()


@pytest.mark.parametrize("inside", [False, True])
def test_numbers_of_python_that_change_before_backward(inside: bool) -> None:
    """Eager mode runs Python again and finds the new one, as PyTorch does; a program has the
    gradient of what it has computed."""
    found = []
    for compiled in (False, True):
        scale = {"by": 2.0}

        def run(x: Any, scale: Any = scale) -> Any:
            y = checkpoint(lambda v: (v * scale["by"]).sin(), x).sum()
            if inside:
                scale["by"] = 3.0
                y.backward()
            return y

        x = flamec.tensor([0.3], dtype=flamec.float64).requires_grad_()
        y = (flamec.compile(run, backend="evaluate") if compiled else run)(x)
        if not inside:
            scale["by"] = 3.0
            y.backward()
        assert scale["by"] == 3.0 and x.grad is not None
        found += x.grad.tolist()
    assert found == pytest.approx([3 * np.cos(0.9), 2 * np.cos(0.6)], rel=1e-12)
