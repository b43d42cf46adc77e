"""``flamec.cond`` and ``while_loop``: values, gradients, batches, sizes, programs, dumps.

What they may do besides (random numbers, writes) is in ``test_conditional_effects.py``, what is
refused in ``test_conditional_errors.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from control_flow_programs import W, chosen, close, grown, grown_by_hand, wrapped
from simulated_gpu import SimulatedGpu

import flamec
from flamec import func, nn
from flamec.autograd.functional import hessian

BOTH = pytest.mark.parametrize("compiled", [False, True])
RNG = np.random.default_rng()


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """Each test draws the same numbers, whichever tests run before it."""
    RNG.bit_generator.state = np.random.default_rng(23).bit_generator.state


def x_of(sign: float = 1.0, *shape: int, grad: bool = True) -> flamec.Tensor:
    return flamec.tensor(sign * np.abs(RNG.normal(size=shape or (3,))), requires_grad=grad)


# values and gradients ------------------------------------------------------------------------


@BOTH
def test_a_branch_by_the_value_of_a_tensor(compiled: bool) -> None:
    call = wrapped(compiled, chosen)
    w = flamec.tensor(W, requires_grad=True)
    for sign in (1.0, -1.0, 1.0):
        x = x_of(sign)
        y = call(x, w)
        a = x.detach().numpy()
        close(y, np.sin(W @ a) if sign > 0 else a * a)
        weights = np.array([1.0, -2.0, 0.5])
        found = flamec.autograd.grad(
            (y * flamec.tensor(weights)).sum(), [x, w], allow_unused=True, materialize_grads=True
        )
        inner = np.cos(W @ a) * weights
        close(found[0], W.T @ inner if sign > 0 else 2 * a * weights)
        close(found[1], np.outer(inner, a) if sign > 0 else np.zeros((3, 3)))
    if compiled:
        assert call.stats.traces == 1 and call.programs[0].splits == ()


@BOTH
def test_a_loop_until_a_value_says_so(compiled: bool) -> None:
    call = wrapped(compiled, grown)
    w = flamec.tensor(W, requires_grad=True)
    for scale in (1.0, 0.1, 100.0):
        x = x_of(scale)
        n, y = call(x, w)
        steps, wanted = grown_by_hand(x.detach().numpy(), W)
        assert n.item() == steps and n.dtype is flamec.int64 and (scale < 100 or steps == 0)
        close(y, wanted)
        found = flamec.autograd.grad(y.sum(), [x, w], materialize_grads=True, allow_unused=True)
        a, b = x.detach(), flamec.tensor(W, requires_grad=True)
        z = a.requires_grad_()
        for _ in range(steps):
            z = 1.5 * z + 0.1 * (b @ z).sin()
        expected = flamec.autograd.grad(z.sum(), [a, b], materialize_grads=True, allow_unused=True)
        for f, e in zip(found, expected, strict=True):
            close(f, e)
    if compiled:
        assert call.stats.traces == 1


@BOTH
@pytest.mark.parametrize("max_steps", [0, 1, 3])
def test_a_loop_ends_after_max_steps(compiled: bool, max_steps: int) -> None:
    x = x_of()
    n, y = wrapped(compiled, lambda x: grown(x, flamec.tensor(W), max_steps))(x * 1e-3)
    assert n.item() == max_steps
    a = x.detach().numpy() * 1e-3
    for _ in range(max_steps):
        a = 1.5 * a + 0.1 * np.sin(W @ a)
    close(y, a)
    (g,) = flamec.autograd.grad(y.sum(), x)
    assert np.all(np.isfinite(g.numpy()))


def test_gradients_agree_with_finite_differences() -> None:
    compiled = flamec.compile(lambda x, w: chosen(grown(x, w)[1] - 1.0, w).sum(), fullgraph=True)
    x, w = x_of(), flamec.tensor(W, requires_grad=True)
    grads = flamec.autograd.grad(compiled(x, w), [x, w])
    for tensor, g in zip((x, w), grads, strict=True):
        direction = RNG.normal(size=tensor.shape)
        values = []
        for step in (1e-6, -1e-6):
            moved = [t.detach() + (flamec.tensor(step * direction) if t is tensor else 0.0)
                     for t in (x, w)]  # fmt: skip
            values.append(compiled(*moved).item())
        numeric = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose((g.numpy() * direction).sum(), numeric, rtol=1e-6)


@pytest.mark.parametrize("function", [chosen, lambda x, w: grown(x, w)[1]], ids=["cond", "while"])
def test_higher_derivatives(function: Any) -> None:
    """The tape of the eager run is the oracle: it has the operations of the steps alone."""
    x, w = x_of(grad=False), flamec.tensor(W)

    def total(x: Any, w: Any) -> Any:
        return (function(x, w) ** 2).sum()

    def third(x: Any) -> Any:
        first = func.grad(lambda x: func.grad(total)(x, w).sin().sum())
        return func.grad(lambda x: (first(x) ** 2).sum())(x)

    for row, expected in zip(
        flamec.compile(lambda x, w: hessian(total, (x, w)))(x, w),
        hessian(total, (x, w)),
        strict=True,
    ):
        for found, wanted in zip(row, expected, strict=True):
            close(found, wanted, 1e-9)
    close(flamec.compile(third)(x), third(x), 1e-8)


@pytest.mark.parametrize("max_steps", [None, 12])
def test_forward_mode_of_a_loop_needs_no_bound(max_steps: Any) -> None:
    x, w, t = x_of(grad=False), flamec.tensor(W), flamec.tensor(RNG.normal(size=3))

    def call(x: Any, w: Any) -> Any:
        return grown(x, w, max_steps)[1]

    def along(x: Any, w: Any) -> Any:
        return func.jvp(call, (x, w), (t, w.sin()))

    def twice(x: Any) -> Any:
        return func.jvp(lambda x: func.jvp(lambda x: call(x, w), (x,), (t,))[1], (x,), (x,))[1]

    for found, wanted in zip(flamec.compile(along, fullgraph=True)(x, w), along(x, w), strict=True):
        close(found, wanted, 1e-10)
    close(flamec.compile(twice, fullgraph=True)(x), twice(x), 1e-9)
    close(flamec.compile(func.jacfwd(call))(x, w), func.jacrev(call)(x, w), 1e-9)


def test_reverse_mode_without_a_bound_in_one_piece_says_what_to_do() -> None:
    def loss(x: Any) -> Any:
        value = grown(x, flamec.tensor(W), None)[1].sum()
        value.backward()
        return value

    for call in (loss, lambda x: grown(x, flamec.tensor(W), None)[1].sum()):
        with pytest.raises(
            flamec.errors.CompileError, match=r"max_steps=N\) \(at .*flow_programs\.py"
        ):
            flamec.compile(call, fullgraph=True)(x_of()).backward()
    with pytest.raises(
        NotImplementedError, match=r"while_loop.*max_steps \(at .*flow_programs\.py"
    ):
        inner = func.jacrev(lambda x: grown(x, flamec.tensor(W), None)[1])
        func.jacrev(flamec.compile(inner, fullgraph=True))(x_of(grad=False))
    x = x_of()
    loss(x)  # eager the tape has grown with the loop
    assert np.all(np.isfinite(x.grad.numpy()))


# batches -------------------------------------------------------------------------------------


@BOTH
def test_vmap_runs_until_all_are_done_and_chooses_for_each(compiled: bool) -> None:
    xs = flamec.tensor(RNG.normal(size=(5, 3)) * np.array([[3.0], [0.1], [1.0], [30.0], [0.5]]))
    w = flamec.tensor(W)
    n, y = wrapped(compiled, func.vmap(grown, in_dims=(0, None)))(xs, w)
    z = wrapped(compiled, func.vmap(chosen, in_dims=(0, None)))(xs, w)
    slopes = wrapped(
        compiled,
        func.vmap(func.grad(lambda x, w: chosen(grown(x, w)[1], w).sum()), in_dims=(0, None)),
    )(xs, w)
    unbounded = wrapped(compiled, func.vmap(lambda x: grown(x, w, None)[1]))(xs)
    for i in range(5):
        steps, wanted = grown_by_hand(xs[i].numpy(), W)
        assert n[i].item() == steps
        close(y[i], wanted)
        close(unbounded[i], wanted)
        close(z[i], chosen(xs[i], w))
        close(slopes[i], func.grad(lambda x: chosen(grown(x, w)[1], w).sum())(xs[i]), 1e-9)
    assert len(set(n.tolist())) > 2


@BOTH
def test_one_choice_for_a_whole_batch(compiled: bool) -> None:
    xs, flag = flamec.tensor(RNG.normal(size=(4, 3))), flamec.tensor(True)

    def call(x: Any, flag: Any) -> Any:
        return flamec.cond(flag, lambda x: x.cos(), lambda x: x * 2, (x,))

    batched = wrapped(compiled, func.vmap(call, in_dims=(0, None)))
    close(batched(xs, flag), np.cos(xs.numpy()))
    close(batched(xs, ~flag), 2 * xs.numpy())


# where they may stand --------------------------------------------------------------------------


def test_they_nest() -> None:
    """A branch in the body of a scan, a loop in a branch, a branch in a loop."""
    w = flamec.tensor(W)

    def call(x: Any, xs: Any) -> Any:
        def in_scan(h: Any, x: Any) -> Any:
            h = flamec.cond((h * x).sum() > 0, lambda h: h + x, lambda h: (w @ h).tanh(), (h,))
            return h, h.sum()

        h, sums = flamec.scan(in_scan, x, xs)

        def looped(h: Any) -> Any:
            def body(h: Any) -> Any:
                h = flamec.cond(h[0] > 1, lambda h: h * 1.4, lambda h: h + 0.7, (h,))
                return (h,)

            return flamec.while_loop(lambda h: h.sum() < 20, body, (h,), max_steps=30)[0]

        return flamec.cond(sums.sum() > 0, looped, lambda h: h * 0.5, (h,)).sum()

    def in_python(x: Any, xs: Any) -> Any:
        h, sums = x, []
        for i in range(xs.shape[0]):
            h = h + xs[i] if (h * xs[i]).sum().item() > 0 else (w @ h).tanh()
            sums.append(h.sum())
        if sum(s.item() for s in sums) > 0:
            while h.sum().item() < 20:
                h = h * 1.4 if h[0].item() > 1 else h + 0.7
            return h.sum()
        return (h * 0.5).sum()

    compiled = flamec.compile(call, fullgraph=True, dynamic=True)
    taken = set()
    for steps in (1, 2, 5, 4, 3):
        x, xs = x_of(), flamec.tensor(RNG.normal(size=(steps, 3)), requires_grad=True)
        wanted = in_python(x, xs)
        taken.add(wanted.item() > 15)
        gradients = flamec.autograd.grad(wanted, [x, xs], materialize_grads=True, allow_unused=True)
        for function in (call, compiled):
            found = function(x, xs)
            close(found, wanted)
            for f, g in zip(flamec.autograd.grad(found, [x, xs]), gradients, strict=True):
                close(f, g, 1e-10)
    assert compiled.stats.traces <= 2 and taken == {False, True}  # one step is a size of its own


def test_one_program_for_all_sizes() -> None:
    compiled = flamec.compile(lambda x: grown(x.sum(0), flamec.tensor(W))[1], dynamic=True)
    for rows in (3, 5, 1, 0, 8):
        x = np.abs(RNG.normal(size=(rows, 3))) + 0.1
        close(compiled(flamec.tensor(x)), grown_by_hand(x.sum(0), W)[1])
    assert compiled.stats.traces <= 2

    def by_size(x: Any) -> Any:
        (y, _) = flamec.while_loop(
            lambda y, i: i < 3, lambda y, i: (y + x, i + 1), (x, 0), max_steps=x.shape[0]
        )
        return flamec.cond(y.sum() > 0, lambda y: y * 2, lambda y: y - 1, (y,))

    compiled = flamec.compile(by_size, dynamic=True, fullgraph=True)
    for size in (2, 4, 7):
        for sign in (1, -1):
            x = sign * np.ones(size)
            wanted = x * (1 + min(3, size))
            close(compiled(flamec.tensor(x)), wanted * 2 if sign > 0 else wanted - 1)
    assert compiled.stats.traces == 1


def test_python_bools_choose_while_tracing() -> None:
    compiled = flamec.compile(
        lambda x: flamec.cond(x.shape[0] > 2, lambda x: x.sin(), lambda x: x, (x,)), dynamic=True
    )
    close(compiled(flamec.ones(3)), np.sin(np.ones(3)), 1e-6)
    close(compiled(flamec.ones(2)), np.ones(2))
    assert compiled.stats.traces == 2
    assert [n.op.name for n in compiled.programs[0].captured.graph.nodes].count("cond") == 0


def test_branches_and_loops_are_steps_of_one_program() -> None:
    """The number of kernels does not depend on how many steps are made."""
    compiled = flamec.compile(lambda x, w: chosen(grown(x, w)[1], w), fullgraph=True)
    compiled(x_of(grad=False), flamec.tensor(W))
    plan = compiled.programs[0].prepared.plan
    kinds = [s.kind for s in plan.steps]
    assert kinds.count("loop") == 1 and kinds.count("branch") == 1 and len(plan.loops) == 2
    assert plan.kernel_count <= 12
    assert "for (; step < 12; step++)" in plan.source


def test_only_the_chosen_branch_runs() -> None:
    """An index that is out of range in the branch that is not taken is no error."""

    def call(x: Any, i: Any) -> Any:
        return flamec.cond(i < 3, lambda i: x[i], lambda i: x[0] * 0, (i,))

    x = flamec.tensor([1.0, 2.0, 3.0])
    for function in (call, flamec.compile(call, fullgraph=True)):
        assert function(x, flamec.tensor(2)).item() == 3.0
        assert function(x, flamec.tensor(9)).item() == 0.0


def test_models_train_through_a_branch() -> None:
    """Parameters in closures; the optimizer's step is in the same program."""
    flamec.manual_seed(0)
    small, large = nn.Linear(3, 1), nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    parameters = [*small.parameters(), *large.parameters()]
    optimizer = flamec.optim.Adam(parameters, lr=0.05)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        out = flamec.cond(x.mean() > 0, large, small, (x,))
        loss = ((out[:, 0] - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    compiled = flamec.compile(step, fullgraph=True)
    losses: dict[bool, list[float]] = {True: [], False: []}
    rng = np.random.default_rng(0)
    for turn in range(120):
        positive = turn % 2 == 0
        x = np.abs(rng.normal(size=(32, 3))) * (1 if positive else -1)
        y = x[:, 0] * x[:, 1] if positive else 2 * x[:, 0] - x[:, 2]
        data = [flamec.tensor(v.astype(np.float32)) for v in (x, y)]
        losses[positive].append(compiled(*data).item())
    assert compiled.stats.traces <= 2
    for values in losses.values():
        assert np.mean(values[-5:]) < 0.3 * np.mean(values[:5])


# dumps, on a GPU -------------------------------------------------------------------


def test_dumps_show_the_graphs_inside() -> None:
    compiled = flamec.compile(lambda x, w: chosen(grown(x, w)[1], w), fullgraph=True)
    compiled(x_of(grad=False), flamec.tensor(W))
    stages = compiled.programs[0].stages
    text = stages["traced"]
    for line in ("body 0 unfinished {", "body 1 step {", "condition=body(0), body=body(1)"):
        assert line in text
    assert "cond(" in text and "true_body=body(2), false_body=body(3)" in text
    assert "(branch)" in stages["plan"] and "(loop)" in stages["plan"]
    assert "control_flow_programs.py" in stages["source"]


def test_on_a_simulated_gpu(simulated: list[SimulatedGpu]) -> None:
    def both(x: Any, w: Any) -> Any:
        return chosen(grown(x, w)[1], w).sum()

    w = flamec.tensor(W)
    v = w.to("cuda")
    for sign in (1.0, -1.0):
        x = x_of(sign)
        both(x, w).backward()
        for call in (both, flamec.compile(both)):
            there = x.detach().to("cuda").requires_grad_()
            call(there, v).backward()
            assert there.grad is not None and there.grad.device.type == "cuda"
            close(there.grad.cpu(), x.grad, 1e-10)
    xs = flamec.tensor(RNG.normal(size=(3, 3)))
    found = func.vmap(both, in_dims=(0, None))(xs.to("cuda"), v)
    close(found.cpu(), func.vmap(both, in_dims=(0, None))(xs, w))
