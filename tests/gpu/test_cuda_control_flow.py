"""Branches and loops that a value decides, on a GPU: values, gradients, graphs, profiles.

What the host runs and what a graph runs must give the same bits.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from user_kernels import squared_relu

import flamec
from flamec import func, nn, optim
from flamec.profiler import profile
from flamec.runtime.cuda import control_kernels
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.program import BoundCudaProgram, CaptureWarning

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("error::flamec.runtime.cuda.program.CaptureWarning"),
]

W = np.random.default_rng(5).normal(size=(33, 33)) / 6


def mixed(x: Any, w: Any) -> Any:
    """A loop whose steps branch, then a branch with a loop over a sequence in it."""

    def step(n: Any, x: Any) -> Any:
        x = flamec.cond(x[0] > 0.5, lambda x: 1.4 * x, lambda x: x + 0.1 * (w @ x).sin(), (x,))
        return n + 1, x + 0.01

    n, x = flamec.while_loop(lambda n, x: (x * x).sum() < 60, step, (0, x), max_steps=25)

    def recurrent(x: Any) -> Any:
        h, ys = flamec.scan(lambda h, row: ((h + row).tanh(), h.sum()), x, w[:5])
        return h + ys.sum()

    return n, flamec.cond(x.sum() > 0, recurrent, lambda x: x * x, (x,))


def gradients(call: Any, x: np.ndarray, device: str) -> list[np.ndarray]:
    a, b = (flamec.tensor(v, device=device, requires_grad=True) for v in (x, W))
    n, y = call(a, b)
    found = flamec.autograd.grad((y * y).sum(), [a, b], materialize_grads=True, allow_unused=True)
    return [t.detach().cpu().numpy() for t in (n, y, *found)]


@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_the_cpu(compiled: bool) -> None:
    there = flamec.compile(mixed, fullgraph=True) if compiled else mixed
    rng, steps = np.random.default_rng(6), set()
    for scale in (1.0, -1.0, 0.1, 9.0, 1.0):
        x = scale * np.abs(rng.normal(size=33))
        found, wanted = gradients(there, x, "cuda"), gradients(mixed, x, "cpu")
        steps.add(int(wanted[0]))
        for f, w in zip(found, wanted, strict=True):  # sums over steps, whose terms cancel
            np.testing.assert_allclose(f, w, rtol=1e-9, atol=1e-13 * np.abs(w).max())
    assert len(steps) > 2
    if compiled:
        assert there.stats.traces == 1


def bound(compiled: Any) -> BoundCudaProgram:
    """The program of the only sizes that a function was called with."""
    found: BoundCudaProgram = compiled.programs[0].prepared.runner.bind(()).bound
    return found


def test_a_branch_is_part_of_the_graph() -> None:
    step = flamec.compile(
        lambda x: flamec.cond(x.sum() > 0, lambda x: x * x.sum() / 3.5, lambda x: x - 1, (x,)),
        dynamic=False,
    )
    held = []
    for sign in (1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0):
        x = flamec.full((7,), sign, device="cuda")
        held.append((sign, step(x)))
    for sign, y in held:
        assert y.tolist() == [2.0 if sign > 0 else -2.0] * 7
    graphs = bound(step).graphs
    assert len(graphs) == 2 and len(graphs[0].nodes) >= 4


def same_bits(function: Any, *arguments: Any) -> list[np.ndarray]:
    """What the host makes of a program, and graphs with other addresses in each call."""
    results, programs, held = [], [], []
    for by_host in (True, False):
        compiled = flamec.compile(function, fullgraph=True, dynamic=False)
        for _ in range(1 if by_host else 4):
            given = [flamec.tensor(a, device="cuda") for a in arguments]
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
                if by_host:
                    warnings.simplefilter("ignore", CaptureWarning)
                    patch.setattr(control_kernels, "reason_against", lambda _: "for a test")
                flamec.manual_seed(3)
                made = compiled(*given)
            made = made if isinstance(made, tuple) else (made,)
            held.append((given, made))
            results.append([t.cpu().numpy() for t in made])
        programs.append(bound(compiled))
    assert not programs[0].graphs and programs[1].graphs
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return results[0]


def test_bodies_of_many_kernels_and_what_they_carry() -> None:
    """Products, sorts, scatters, draws; carried values of odd sizes, more than a launch moves."""
    rng = np.random.default_rng(9)
    x, w = rng.normal(size=(64, 160)), rng.normal(size=(160, 160)) / 12

    def loop(x: Any, w: Any, flags: Any, small: Any) -> Any:
        def step(n: Any, x: Any, flags: Any, small: Any, *many: Any) -> Any:
            y = (x.to(flamec.bfloat16) @ w.to(flamec.bfloat16)).float().tanh()
            y = y + 0.01 * flamec.randn(64, 160, device="cuda")
            order = y.sum(0).argsort()
            sums = flamec.zeros(5, 160, device="cuda").index_add(0, order[:64] % 5, y)
            y = flamec.cond(sums.sum() > 0, lambda y: y[:, order], lambda y: y.cumsum(1) / 9, (y,))
            many = tuple(v + i for i, v in enumerate(many))
            return n + 1, y.softmax(1) + y, flags ^ (y[0, :3] > 0), small + n.to(flamec.int8), *many

        many = tuple(x[0, i] * 1 for i in range(70))
        return flamec.while_loop(
            lambda n, x, *_: (n < 9) & (x.abs().sum() > 0), step, (0, x, flags, small, *many)
        )

    flags, small = np.array([True, False, True]), np.arange(7, dtype=np.int8)
    found = same_bits(loop, x.astype(np.float32), w.astype(np.float32), flags, small)
    assert found[0] == 9 and np.isfinite(found[1]).all()
    np.testing.assert_array_equal(found[3], small + 36)
    np.testing.assert_allclose(found[7], x[0, 3].astype(np.float32) + 27, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 1000, 300_001])
def test_steps_that_keep_much_for_the_way_back(length: int) -> None:
    """What a step keeps is copied by one block, by several, and where nothing is aligned."""
    x = np.linspace(0.5, 1.5, length)

    def gradient(x: Any) -> Any:
        def power(x: Any) -> Any:
            n, y = flamec.while_loop(
                lambda n, y: y.max() < 40,
                lambda n, y: (n + 1, y * (1.2 + 0.1 * y.sin())),
                (0, x),
                max_steps=20,
            )
            return y.sum(), n

        return func.grad_and_value(power, has_aux=True)(x)

    def flat(x: Any) -> Any:
        slope, (value, n) = gradient(x)
        return slope, value, n

    found = same_bits(flat, x)
    wanted = [t.numpy() for t in flat(flamec.tensor(x))]
    for f, v in zip(found, wanted, strict=True):  # factors that cancel
        np.testing.assert_allclose(f, v, rtol=1e-9, atol=1e-12 * np.abs(v).max())


def test_loops_without_steps_and_over_no_elements() -> None:
    def loop(x: Any, most: Any) -> Any:
        def total(x: Any) -> Any:
            _, y = flamec.while_loop(
                lambda n, y: n < most, lambda n, y: (n + 1, y.exp()), (0, x), max_steps=3
            )
            return y.sum()

        return func.grad_and_value(total)(x)

    compiled = flamec.compile(loop, dynamic=False)
    for most in (0, 2, 0, 5, 1, 0):
        slope, value = compiled(
            flamec.full((3,), -1.0, device="cuda"), flamec.tensor(most, device="cuda")
        )
        y, wanted = -1.0, 1.0
        for _ in range(min(most, 3)):
            y = np.exp(y)
            wanted *= y
        np.testing.assert_allclose(value.item(), 3 * y, rtol=1e-5)
        np.testing.assert_allclose(slope.tolist(), [wanted] * 3, rtol=1e-5)
    same_bits(
        lambda x: flamec.while_loop(lambda n, x: n < 3, lambda n, x: (n + 1, x * 2), (0, x)),
        np.ones((0, 4)),
    )


def test_an_error_ends_a_loop_that_it_would_keep_running() -> None:
    """Beyond the end zeros are read, of which the condition is true for ever."""

    @flamec.compile(dynamic=False)
    def find(table: Any, i: Any) -> Any:
        return flamec.while_loop(lambda i, v: v < 1, lambda i, v: (i + 1, table[i]), (i, table[0]))

    table = flamec.tensor([0.0, 0, 0, 2, 0, 0], device="cuda")
    for _ in range(3):
        assert [t.item() for t in find(table, flamec.tensor(1, device="cuda"))] == [4, 2]
    with pytest.raises(IndexError, match="index 6 is out of bounds for dimension 0 of size 6"):
        find(table, flamec.tensor(5, device="cuda"))[0].item()
    assert find(table, flamec.tensor(0, device="cuda"))[0].item() == 4


def test_a_condition_is_not_asked_after_the_last_step() -> None:
    """There it would read beyond the end."""

    @flamec.compile(dynamic=False)
    def count(xs: Any) -> Any:
        return flamec.while_loop(lambda n: xs[n] > 0, lambda n: (n + 1,), (0,), max_steps=5)[0]

    for zero in (3, 9, 9, 0, 9, 4):
        xs = [1.0 if i < zero else 0.0 for i in range(5)]
        assert count(flamec.tensor(xs, device="cuda")).item() == min(zero, 5)
    assert bound(count).graph is not None


@pytest.mark.filterwarnings("default::flamec.runtime.cuda.program.CaptureWarning")
def test_the_reason_why_there_is_no_graph_is_said_once() -> None:
    step = flamec.compile(
        lambda x: flamec.while_loop(lambda x: x[0] < 9, lambda x: (x * 2,), (x,))[0], dynamic=False
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            y = step(flamec.ones((17 << 20) // 4, device="cuda"))
            assert y[5].item() == 16
    texts = [str(w.message) for w in seen if issubclass(w.category, CaptureWarning)]
    assert len(texts) == 1 and "how many steps a loop has (at " in texts[0]
    assert "much is carried" in texts[0]


def test_kernels_of_users_in_a_loop() -> None:
    x = np.linspace(0.1, 2.0, 1000, dtype=np.float32)

    def slope(x: Any) -> Any:
        def total(x: Any) -> Any:
            step = lambda y: (squared_relu(y, scale=0.7) + 0.2 * y,)  # noqa: E731
            return flamec.while_loop(lambda y: y.max() < 50, step, (x,), max_steps=9)[0].sum()

        return func.grad(total)(x)

    (found,) = same_bits(slope, x)
    np.testing.assert_allclose(found, slope(flamec.tensor(x)).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nbytes", [1, 15, 4096, 4100, 8192 + 16, (5 << 20) + 4, 64 << 20])
def test_kernels_that_copy_and_fill(device: CudaDevice, nbytes: int) -> None:
    held = [device.empty(nbytes + 256)[0] for _ in range(2)]
    source, target = (h.address for h in held)
    pattern = np.arange(nbytes + 256, dtype=np.uint32).view(np.uint8)[: nbytes + 256].copy()
    device.write(source, pattern)
    for offset in (0, 4, 1):
        launch, to = control_kernels.fill(device.context, nbytes + 32, 0xA5)
        to(target)
        launch(device.current_stream())
        launch, given, to = control_kernels.copy(device.context, nbytes)
        given(source + offset)
        to(target + 16)
        launch(device.current_stream())
        found = np.empty(nbytes + 32, np.uint8)
        device.read(found, target)
        np.testing.assert_array_equal(found[16 : 16 + nbytes], pattern[offset : offset + nbytes])
        assert (found[:16] == 0xA5).all() and (found[16 + nbytes :] == 0xA5).all()


def test_batches_forward_mode_and_long_loops() -> None:
    rng = np.random.default_rng(7)
    xs = np.abs(rng.normal(size=(6, 33))) * np.array([[1.0], [0.1], [8.0], [2.0], [0.5], [1.0]])
    a, w = flamec.tensor(xs, device="cuda"), flamec.tensor(W, device="cuda")
    b, v = flamec.tensor(xs), flamec.tensor(W)
    batched = func.vmap(mixed, in_dims=(0, None))
    for found, wanted in zip(flamec.compile(batched)(a, w), batched(b, v), strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), wanted.numpy(), rtol=1e-9, atol=1e-11)

    def grown(x: Any) -> Any:
        return flamec.while_loop(lambda x: x.sum() < 1e4, lambda x: (x * 1.01 + 0.1,), (x,))[0]

    def along(x: Any) -> Any:
        return func.jvp(grown, (x,), (x * 0.5,))

    for found, wanted in zip(flamec.compile(along)(a[0]), along(b[0]), strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), wanted.numpy(), rtol=1e-9)


def test_training_and_profiling_a_step_with_a_branch() -> None:
    flamec.manual_seed(0)
    models = [nn.Linear(12, 1).to("cuda"), nn.Linear(12, 1).to("cuda")]
    optimizer = optim.Adam([p for m in models for p in m.parameters()], lr=0.05)

    @flamec.compile
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        out = flamec.cond(x.mean() > 0, models[0], models[1], (x,))
        loss = ((out[:, 0] - x[:, 0] * x.mean().sign()) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    rng, losses = np.random.default_rng(8), []
    for turn in range(80):
        x = np.abs(rng.normal(size=(32, 12))) * (1 if turn % 2 else -1)
        losses.append(step(flamec.tensor(x.astype(np.float32), device="cuda")).item())
    assert np.mean(losses[-6:]) < 0.3 * np.mean(losses[:6])
    with profile() as seen:  # its gate must be open where the host waits for a value
        step(flamec.ones(32, 12, device="cuda")).item()
        step(-flamec.ones(32, 12, device="cuda")).item()
    assert any("cond" in row.key or "kernel" in row.key for row in seen.key_averages())


def test_an_error_in_a_condition_is_raised() -> None:
    x, i = flamec.ones(4, device="cuda"), flamec.tensor([9], device="cuda")
    call = flamec.compile(lambda x, i: flamec.cond((x[i] > 0).all(), lambda: x, lambda: -x))
    with pytest.raises(IndexError, match="index 9 is out of bounds for dimension 0 of size 4"):
        call(x, i).cpu()
