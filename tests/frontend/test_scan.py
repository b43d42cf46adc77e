"""``flamec.scan`` and ``fori_loop``: values, gradients, batches, effects, errors, programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import func, nn
from flamec.autograd.functional import hessian

RNG = np.random.default_rng(11)
SIZE = 4


def arrays(steps: int, rows: int = 2) -> list[np.ndarray]:
    return [RNG.normal(size=s) for s in ((SIZE, SIZE), (rows, SIZE), (steps, rows, SIZE))]


def scanned(w: Any, h: Any, xs: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = (h @ w + x).tanh()
        return h, {"product": h * x, "nothing": None}

    last, ys = flamec.scan(step, h, xs)
    assert ys["nothing"] is None
    return last.sum() + (ys["product"] ** 2).sum()


def unrolled(w: Any, h: Any, xs: Any) -> Any:
    total = 0.0
    for i in range(xs.shape[0]):
        h = (h @ w + xs[i]).tanh()
        total = total + ((h * xs[i]) ** 2).sum()
    return h.sum() + total


def gradients(call: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    tensors = [flamec.tensor(v, requires_grad=True) for v in values]
    result = call(*tensors)
    result.backward()
    return [result.detach().numpy(), *(t.grad.numpy() for t in tensors)]


def test_agrees_with_a_loop() -> None:
    values = arrays(5)
    for found, wanted in zip(gradients(scanned, values), gradients(unrolled, values), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_one_program_serves_all_lengths() -> None:
    compiled = flamec.compile(scanned, dynamic=True)
    for steps in (5, 7, 1, 3, 6):
        values = arrays(steps)
        found, wanted = gradients(compiled, values), gradients(unrolled, values)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert len(compiled.programs) == 1


def test_a_second_length_compiles_once_more_and_a_third_not() -> None:
    compiled = flamec.compile(scanned)
    for steps in (3, 4, 5, 6):
        compiled(*map(flamec.tensor, arrays(steps)))
    assert len(compiled.programs) == 2


def test_steps_are_kernels_of_one_loop() -> None:
    """The number of kernels does not depend on the number of steps."""
    counts = []
    for steps in (2, 9):
        compiled = flamec.compile(scanned)
        compiled(*map(flamec.tensor, arrays(steps)))
        plan = compiled.programs[0].prepared.plan
        assert [len(plan.loops), sum(s.kind == "loop" for s in plan.steps)] == [1, 1]
        counts.append(plan.kernel_count)
    assert counts[0] == counts[1]


def test_second_derivatives() -> None:
    values = tuple(map(flamec.tensor, arrays(3)))
    for row, expected in zip(hessian(scanned, values), hessian(unrolled, values), strict=True):
        for found, wanted in zip(row, expected, strict=True):
            np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-11)


def test_third_derivative() -> None:
    def third(call: Any) -> np.ndarray:
        w, *rest = (flamec.tensor(v, requires_grad=True) for v in values)
        (g,) = flamec.autograd.grad(call(w, *rest), w, create_graph=True)
        (g,) = flamec.autograd.grad(g.sin().sum(), w, create_graph=True)
        (g,) = flamec.autograd.grad((g * g).sum(), w)
        return g.numpy()

    values = arrays(3)
    np.testing.assert_allclose(third(scanned), third(unrolled), rtol=1e-8)


def test_vmap_and_forward_mode() -> None:
    w, h, xs = map(flamec.tensor, arrays(3))
    ws = flamec.stack([w, 2 * w, -w])
    found = func.vmap(func.grad(scanned), in_dims=(0, None, None))(ws, h, xs)
    for i in range(3):
        wanted = func.grad(unrolled)(ws[i], h, xs)
        np.testing.assert_allclose(found[i].numpy(), wanted.numpy(), rtol=1e-9, atol=1e-12)
    many = func.vmap(scanned, in_dims=(None, None, 1))(w, h[0], xs)
    for i in range(2):
        np.testing.assert_allclose(many[i].numpy(), unrolled(w, h[0], xs[:, i]).numpy(), rtol=1e-12)
    _, tangent = func.jvp(lambda w: scanned(w, h, xs), (w,), (ws[1],))
    _, wanted = func.jvp(lambda w: unrolled(w, h, xs), (w,), (ws[1],))
    assert not tangent.requires_grad
    np.testing.assert_allclose(tangent.numpy(), wanted.numpy(), rtol=1e-10)


def test_reverse_and_without_sequences() -> None:
    for wrap in (lambda f: f, flamec.compile):
        last, ys = wrap(lambda xs: flamec.scan(lambda c, x: (c + x, c), 0, xs, reverse=True))(
            flamec.arange(4.0)
        )
        assert last.item() == 6.0 and ys.tolist() == [6.0, 5.0, 3.0, 0.0]
        last, ys = wrap(lambda c: flamec.scan(lambda c, x: (2 * c, (x, c)), c, length=3))(
            flamec.tensor([1, 3])
        )
        assert last.tolist() == [8, 24] and ys[0] is None
        assert ys[1].tolist() == [[1, 3], [2, 6], [4, 12]]
        last, ys = wrap(lambda c: flamec.scan(lambda c, x: (c + x, c), c, flamec.zeros(0)))(
            flamec.tensor(2.0)
        )
        assert last.item() == 2.0 and ys.shape == (0,)


def test_nested_scans() -> None:
    def table(x: Any) -> Any:
        def row(total: Any, r: Any) -> Any:
            inner, running = flamec.scan(lambda c, e: (c * e, c + e), total, r)
            return inner, running

        return flamec.scan(row, flamec.tensor(1.0, dtype=flamec.float64), x)

    x = flamec.tensor(RNG.normal(size=(3, 2)), requires_grad=True)
    results = []
    for call in (table, flamec.compile(table)):
        last, running = call(x)
        (g,) = flamec.autograd.grad(last + running.sin().sum(), x)
        results.append((last.item(), running.detach().numpy(), g.numpy()))
    total, sums = 1.0, []
    for e in x.detach().numpy().reshape(-1):
        sums.append(total + e)
        total *= e
    for last, running, _ in results:
        np.testing.assert_allclose(last, total)
        np.testing.assert_allclose(running.reshape(-1), sums)
    np.testing.assert_allclose(results[0][2], results[1][2], rtol=1e-12)


@pytest.mark.parametrize("compiled", [False, True])
def test_random_numbers_and_changes_of_outside_tensors(compiled: bool) -> None:
    total = flamec.zeros(3)

    def draw(xs: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            mask = flamec.rand(3)
            total.add_(mask)
            return None, mask * x

        return flamec.scan(step, None, xs)[1]

    call = flamec.compile(draw) if compiled else draw
    flamec.manual_seed(3)
    found = call(flamec.ones(4, 3))
    after = flamec.rand(1)
    flamec.manual_seed(3)
    wanted = flamec.stack([flamec.rand(3) for _ in range(4)])
    assert found.tolist() == wanted.tolist() and after.item() == flamec.rand(1).item()
    np.testing.assert_allclose(total.numpy(), wanted.sum(0).numpy(), rtol=1e-6)


def test_recording_can_be_off_inside() -> None:
    w = flamec.tensor(2.0, requires_grad=True)

    def step(carry: Any, x: Any) -> Any:
        with flamec.no_grad():
            constant = w * carry
        return carry * w + constant, None

    last, _ = flamec.scan(step, flamec.tensor(1.0), length=3)
    last.backward()
    assert last.item() == 64.0 and w.grad.item() == 28.0


def test_views_of_one_outside_memory() -> None:
    packed = flamec.tensor(RNG.normal(size=(2, SIZE, SIZE)), requires_grad=True)

    def call(packed: Any) -> Any:
        a, b = packed[0], packed[1].T
        last, _ = flamec.scan(lambda c, x: ((c @ a).sin() @ b, None), packed[0] * 0.1, length=3)
        return last.sum()

    results = []
    for run in (call, flamec.compile(call)):
        packed.grad = None
        run(packed).backward()
        results.append(packed.grad.numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)
    c, a, b = packed[0] * 0.1, packed[0], packed[1].T
    for _ in range(3):
        c = (c @ a).sin() @ b
    (wanted,) = flamec.autograd.grad(c.sum(), packed)
    np.testing.assert_allclose(results[0], wanted.numpy(), rtol=1e-12)


def test_fori_loop_counts_and_has_gradients() -> None:
    def powers(x: Any, upper: Any) -> Any:
        return flamec.fori_loop(1, upper, lambda i, v: (v[0] * x, v[1] + i), (1.0, 0))

    def of_size(x: Any, like: Any) -> Any:
        return powers(x, like.shape[0])

    x = flamec.tensor(3.0, requires_grad=True)
    compiled = flamec.compile(of_size, dynamic=True)
    for size in (5, 6, 3):
        for call in (of_size, compiled):
            power, total = call(x, flamec.zeros(size))
            (slope,) = flamec.autograd.grad(power, x)
            assert power.item() == 3.0 ** (size - 1) and total.item() == size * (size - 1) // 2
            assert slope.item() == (size - 1) * 3.0 ** (size - 2)
    assert len(compiled.programs) == 1
    assert powers(x, 0)[0].item() == 1.0
    with pytest.raises(TypeError, match="bounds must be ints"):
        flamec.fori_loop(0, flamec.tensor(3), lambda i, v: v, 0.0)


ERRORS: list[tuple[Any, type[Exception], str]] = [
    (lambda: flamec.scan(lambda c, x: c, 0.0, flamec.ones(3)), TypeError, "must return a pair"),
    (lambda: flamec.scan(lambda c, x: (c, c), 0.0), ValueError, "given as length"),
    (lambda: flamec.scan(lambda c, x: (c, c), 0.0, length=-1), ValueError, "negative"),
    (
        lambda: flamec.scan(lambda c, x: (c[:1], c), flamec.ones(2), length=2),
        TypeError,
        r"carried value 0 is float32\[2\] when f gets it and float32\[1\]",
    ),
    (
        lambda: flamec.scan(lambda c, x: ((c, c), c), flamec.ones(2), length=2),
        TypeError,
        "another structure",
    ),
    (
        lambda: flamec.scan(lambda c, x: (c, c), 0.0, (flamec.ones(2), flamec.ones(3))),
        ValueError,
        "different lengths: 2 and 3",
    ),
    (lambda: flamec.scan(lambda c, x: (c, c), 0.0, flamec.tensor(1.0)), ValueError, "no leading"),
    (
        lambda: flamec.scan(lambda c, x: (c.add_(1), c), flamec.ones(2), length=2),
        RuntimeError,
        "changes one of its arguments in place",
    ),
    (lambda: flamec.scan(lambda c, x: (c, "y"), 0.0, length=2), TypeError, "tensors or numbers"),
    (lambda: flamec.scan(lambda c, x: (c, c), "c", length=2), TypeError, "init must be made of"),
    (lambda: flamec.fori_loop(0, 3, 4, 0.0), TypeError, "fori_loop: body_fun must be a function"),
    (
        lambda: flamec.fori_loop(0, 3, lambda i, v: v[:1], flamec.ones(2)),
        TypeError,
        r"fori_loop: carried value 0 is float32\[2\] when body_fun gets it and float32\[1\]",
    ),
    (
        lambda: flamec.fori_loop(0, 3, lambda i, v: None, flamec.ones(2)),
        TypeError,
        "fori_loop: the carried values that body_fun returns have another structure",
    ),
    (lambda: flamec.fori_loop(0, 3, lambda i, v: v, "v"), TypeError, "fori_loop: init_val must be"),
    (
        lambda: flamec.fori_loop(0, 3, lambda i, v: v if v > 0 else -v, flamec.ones(())),
        flamec.errors.DataDependentError,
        r"bool\(\) .* not known in a function of fori_loop: it is run once for all steps",
    ),
    (
        lambda: flamec.scan(lambda c, x: (c, x.item()), 0.0, flamec.ones(2)),
        flamec.errors.DataDependentError,
        r"item\(\) .* in a function of scan.*move this line out of the function\.",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), ERRORS)
def test_errors_name_the_line(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        call()
    assert "test_scan.py" in str(raised.value) or error is TypeError


def test_a_training_step_with_a_recurrent_layer_is_one_program_for_all_lengths() -> None:
    model = nn.LSTM(3, 5)
    optimizer = flamec.optim.SGD(model.parameters(), lr=0.1)

    @flamec.compile(dynamic=True)
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        output, _ = model(x)
        loss = (output * output).mean()
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(flamec.ones(steps, 2, 3)).item() for steps in (5, 6, 9, 5)]
    assert len(step.programs) == 1 and losses[-1] < losses[0]


def test_long_eager_loops_are_compiled_once_for_all_lengths(monkeypatch: Any) -> None:
    from flamec import cpu_eager

    monkeypatch.setattr(cpu_eager, "LEAST_WORK", 100)
    monkeypatch.setattr(cpu_eager, "_programs", {})
    if not cpu_eager.can_compile():
        pytest.skip("no C compiler")
    for steps in (5, 8, 3):
        values = arrays(steps)
        for found, wanted in zip(
            gradients(scanned, values), gradients(unrolled, values), strict=True
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert len(cpu_eager._programs) == 2  # forward and backward


def test_loops_on_a_gpu(monkeypatch: Any) -> None:
    """Eager: a program over the number of steps; results are those on the CPU."""
    import simulated_gpu

    (gpu, *_) = simulated_gpu.install(monkeypatch)
    for steps in (5, 7):
        values = arrays(steps)
        tensors = [flamec.tensor(v, requires_grad=True) for v in values]
        there = [t.detach().to("cuda").requires_grad_() for t in tensors]
        wanted, found = scanned(*tensors), scanned(*there)
        assert found.device.type == "cuda"
        wanted.backward()
        found.backward()
        np.testing.assert_allclose(found.detach().cpu().numpy(), wanted.detach().numpy())
        for a, b in zip(there, tensors, strict=True):
            np.testing.assert_allclose(a.grad.cpu().numpy(), b.grad.numpy(), rtol=1e-12)
    loops = [p for p in gpu.prepared if p.graph.name == "scan"]
    assert len(loops) == 2  # forward and backward
