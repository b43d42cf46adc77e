"""What a user can see of a composite is the same whether it is one program or many operations."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu

import flamec
from flamec import fused_call
from flamec.autograd.checkpointing import checkpoint
from flamec.autograd.saved_tensors import saved_tensors_hooks
from flamec.errors import OperationError
from flamec.fused_program import NotFusable
from flamec.nn import functional as F


def random(*shape: int, device: Any = "cuda", grad: bool = False, seed: int = 0) -> flamec.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape)
    return flamec.tensor(values, device=device).requires_grad_(grad)


def close(got: Any, wanted: Any) -> None:
    one, other = (t.detach().cpu().numpy() for t in (got, wanted))
    np.testing.assert_allclose(one, other, 1e-9, 1e-14)  # gradients of softmax cancel to nothing


def programs() -> list[Any]:
    return [p for known in fused_call._programs.values() for p in known]


def prepared(gpus: list[SimulatedGpu], name: str) -> int:
    return [p.graph.name for p in gpus[0].prepared].count(name)


# one program for many calls ----------------------------------------------------------------
def test_sizes_share_programs(simulated: Any) -> None:
    for rows, columns in [(3, 5), (4, 7), (9, 11), (3, 13), (2, 5), (7, 3)]:
        x = random(rows, columns, grad=True)
        y = F.layer_norm(x, (columns,), random(columns, grad=True), random(columns))
        close(y, F.layer_norm(x.detach().cpu(), (columns,), *(random(columns, device="cpu"),) * 2))
        y.sum().backward()
    assert len(programs()) == 1
    assert prepared(simulated, "layer_norm") <= 3  # schedules for three orders of magnitude


def test_programs_are_bounded(simulated: Any) -> None:
    for size in range(5, 40):
        F.interpolate(random(1, 1, size, 4), scale_factor=0.7, mode="bicubic")
    most = fused_call._MOST_PROGRAMS
    assert all(len(known) <= most for known in fused_call._programs.values())
    assert max(len(known) for known in fused_call._programs.values()) == most


def test_numbers_that_keep_changing_end_it(simulated: Any) -> None:
    x, most = random(3, 4), fused_call._MOST_SIGNATURES
    for step in range(most + 20):
        close(F.leaky_relu(x, step / 100), F.leaky_relu(x.cpu(), step / 100))
    assert len(programs()) == most == prepared(simulated, "leaky_relu")


def test_a_factor_is_an_operand(simulated: Any) -> None:
    x = random(3, 4)
    for step in range(1, 9):
        close(x.add(x, alpha=step / 7), x * (1 + step / 7))
    assert len(programs()) == 1


@pytest.mark.parametrize("shape", [(0, 3), (3, 1), (1, 1), (2, 1, 3), (16, 32)])
def test_small_and_empty(shape: tuple[int, ...], gpu: Any) -> None:
    x, y = random(*shape, device=gpu, grad=True), random(*shape, device="cpu", grad=True)
    for function in (F.gelu, lambda t: F.softmax(t, -1), lambda t: F.layer_norm(t, (shape[-1],))):
        close(function(x), function(y))
        function(x).square().sum().backward()
        function(y).square().sum().backward()
    assert x.grad is not None and y.grad is not None
    close(x.grad, y.grad)


def test_views_as_operands(gpu: Any) -> None:
    base, host = random(6, 8, device=gpu), random(6, 8, device="cpu")
    views = [
        lambda t: t.t(),
        lambda t: t[::2, 1::3],
        lambda t: t[1:],
        lambda t: t[2, 1:].expand(3, 7),
        lambda t: t.reshape(3, 2, 8).permute(2, 0, 1),
    ]
    for view in views:
        x, y = view(base).detach().requires_grad_(), view(host).detach().requires_grad_()
        for function in (F.gelu, lambda t: F.softmax(t, -1)):
            close(function(x), function(y))
            got = flamec.autograd.grad(
                function(x).t() if x.ndim == 2 else function(x), x, view_of(x)
            )
            wanted = flamec.autograd.grad(
                function(y).t() if y.ndim == 2 else function(y), y, view_of(y)
            )
            close(got[0], wanted[0])


def view_of(x: flamec.Tensor) -> flamec.Tensor:
    """A gradient with strides of its own."""
    shape = tuple(reversed(x.shape)) if x.ndim == 2 else tuple(x.shape)
    return flamec.arange(shape[-1], device=x.device, dtype=x.dtype).cos().expand(*shape)


def test_operands_of_one_memory(gpu: Any) -> None:
    x, y = random(4, 6, device=gpu, grad=True), random(4, 6, device="cpu", grad=True)
    for t in (x, y):
        F.mse_loss(t, t.flip(0)).backward()
        F.cosine_similarity(t, t[1:2]).sum().backward()
    close(x.grad, y.grad)


def test_constants_are_told_apart(simulated: Any) -> None:
    x = random(3, 4)
    one, other = F.softplus(x, beta=1), F.softplus(x, beta=True)
    assert one.dtype is other.dtype and len(fused_call._programs) == 2
    assert F.leaky_relu(x, -0.0).signbit().sum() != F.leaky_relu(x, 0.0).signbit().sum()


def test_in_a_compiled_function_it_is_part_of_the_program(simulated: Any) -> None:
    compiled = flamec.compile(lambda t: F.gelu(F.softmax(t, -1)) * 2)
    compiled(random(3, 4))
    assert not fused_call._programs and len(simulated[0].prepared) == 1


# autograd ------------------------------------------------------------------------------------
def test_backward_twice_needs_retain_graph(gpu: Any) -> None:
    x = random(3, 4, device=gpu, grad=True)
    y = F.softmax(x, -1)
    seed = random(3, 4, device=gpu, seed=1)
    y.backward(seed, retain_graph=True)
    y.backward(seed)
    with pytest.raises(RuntimeError, match=r"second time: the values saved for softmax.*retain"):
        y.backward(seed)


def test_memory_is_given_back_after_backward(simulated: Any) -> None:
    x = random(3, 4, grad=True)
    hidden = x * 2
    kept = weakref.ref(hidden._array)
    y = F.gelu(hidden)
    del hidden
    assert kept() is not None
    y.sum().backward()
    assert kept() is None


def test_a_change_in_place_is_an_error(gpu: Any) -> None:
    x = random(3, 4, device=gpu, grad=True) * 1
    y = F.gelu(x)
    x.mul_(2)
    with pytest.raises(RuntimeError, match=r"gelu \(at .*test_fused_semantics\.py:\d+\).*in place"):
        y.sum().backward()
    x = random(3, 4, device=gpu, grad=True) * 1
    bias = random(2, device=gpu, grad=True) * 1
    y = F.linear(x.detach(), random(2, 4, device=gpu, grad=True), bias)
    bias.mul_(2)  # its gradient does not read it
    y.sum().backward()


def test_nothing_is_recorded_without_grad(gpu: Any) -> None:
    x = random(3, 4, device=gpu, grad=True)
    with flamec.no_grad():
        assert not F.gelu(x).requires_grad
    assert not F.gelu(x.detach()).requires_grad and F.gelu(x).requires_grad
    assert not flamec.isclose(x, x).requires_grad
    values, indices = x.max(1)
    assert values.requires_grad and not indices.requires_grad


def test_hooks_and_retained_gradients(gpu: Any) -> None:
    x = random(3, 4, device=gpu, grad=True)
    y = F.gelu(x)
    y.retain_grad()
    y.register_hook(lambda g: g * 2)
    F.silu(y).sum().backward()
    plain = random(3, 4, device="cpu", grad=True)
    mid = F.gelu(plain)
    mid.retain_grad()
    mid.register_hook(lambda g: g * 2)
    F.silu(mid).sum().backward()
    close(x.grad, plain.grad)
    close(y.grad, mid.grad)


def test_saved_tensors_pass_their_hooks(gpu: Any) -> None:
    seen = []
    x = random(3, 4, device=gpu, grad=True)
    with saved_tensors_hooks(lambda t: (seen.append(t.shape), t.cpu())[1], lambda t: t.to(gpu)):
        y = F.gelu(x)
    y.sum().backward()
    wanted = random(3, 4, device="cpu", grad=True)
    F.gelu(wanted).sum().backward()
    close(x.grad, wanted.grad)
    assert seen == [(3, 4)]


def test_checkpoint_draws_the_same_again(gpu: Any) -> None:
    def part(t: flamec.Tensor) -> flamec.Tensor:
        return F.dropout(F.gelu(t), 0.5)

    found = []
    for device in (gpu, "cpu"):
        flamec.manual_seed(3)
        x = random(20, 4, device=device, grad=True)
        y = checkpoint(part, x)
        y.square().sum().backward()
        found += [x.grad]
    close(found[0], found[1])


def test_batched_gradients_and_jacobians(gpu: Any) -> None:
    def of(t: flamec.Tensor) -> Any:
        return F.layer_norm(F.softmax(t, -1), (4,))

    for transform in (flamec.func.jacrev, flamec.func.jacfwd, flamec.func.hessian):
        close(transform(of)(random(4, device=gpu)), transform(of)(random(4, device="cpu")))
    close(flamec.func.vmap(of)(random(3, 4, device=gpu)), of(random(3, 4, device="cpu")))
    per_example = flamec.func.vmap(flamec.func.grad(lambda t: of(t).square().sum()))
    close(per_example(random(3, 4, device=gpu)), per_example(random(3, 4, device="cpu")))


def test_third_derivative(gpu: Any) -> None:
    found = []
    for device in (gpu, "cpu"):
        x = random(3, 4, device=device, grad=True)
        value = F.log_softmax(x, -1).square().sum()
        for _ in range(3):
            (value,) = flamec.autograd.grad(value, x, create_graph=True)
            value = (value * random(3, 4, device=device, seed=5)).sum()
        found.append(value)
    close(found[0], found[1])


def test_gradient_through_a_dropout_drawn_before_another(gpu: Any) -> None:
    found = []
    for device in (gpu, "cpu"):
        flamec.manual_seed(11)
        x = random(8, 4, device=device, grad=True)
        y = F.dropout(x * x, 0.4)
        F.dropout(x, 0.4)  # moves the generator on
        (first,) = flamec.autograd.grad(y.sum(), x, create_graph=True)
        (second,) = flamec.autograd.grad(first.sum(), x)
        found.append((first, second, flamec.rand(3, device=device, dtype=flamec.float64)))
    for got, wanted in zip(*found, strict=True):
        close(got, wanted)


def test_seeds_give_the_same_numbers_as_the_body(simulated: Any) -> None:
    x = random(30, 4)
    flamec.manual_seed(2)
    one, after = F.dropout(x, 0.3), flamec.rand(5, device="cuda")
    flamec.manual_seed(2)
    body = F.dropout.__wrapped__(x, 0.3)
    assert flamec.equal(one, body) and flamec.equal(after, flamec.rand(5, device="cuda"))


def test_anomaly_mode_names_the_operation(simulated: Any) -> None:
    x = flamec.tensor([0.0, 1.0], device="cuda").requires_grad_()
    with (
        pytest.warns(UserWarning, match="Anomaly"),
        flamec.autograd.detect_anomaly(),
        pytest.raises(RuntimeError, match=r"nan values.*\n.*test_fused_semantics"),
    ):
        F.log_softmax(x * float("inf"), 0).sum().backward()
    assert not fused_call._programs


# state that is written -------------------------------------------------------------------------
def test_running_statistics_are_written_in_place(gpu: Any) -> None:
    layers = {d: flamec.nn.BatchNorm1d(3, device=d, dtype=flamec.float64) for d in (gpu, "cpu")}
    for step in range(3):
        for device, layer in layers.items():
            layer(random(5, 3, device=device, seed=step)).sum().backward()
    one, other = layers.values()
    close(one.running_mean, other.running_mean)
    close(one.running_var, other.running_var)
    assert one.running_mean._version == other.running_mean._version == 3


def test_rows_of_a_table_are_shortened_in_place(gpu: Any) -> None:
    found = []
    for device in (gpu, "cpu"):
        table = random(7, 5, device=device, grad=True)
        rows = F.embedding(flamec.tensor([1, 4, 1], device=device), table, max_norm=0.5)
        rows.square().sum().backward()
        found.append((table, table.grad, rows))
    for got, wanted in zip(*found, strict=True):
        close(got, wanted)


def test_memory_that_is_shared_is_not_written_by_a_program(gpu: Any) -> None:
    found = []
    for device in (gpu, "cpu"):
        both = flamec.ones(3, device=device, dtype=flamec.float64)
        y = F.batch_norm(random(5, 3, device=device), both, both, training=True)
        strided = flamec.zeros(6, device=device, dtype=flamec.float64)[::2]
        F.batch_norm(random(5, 3, device=device), strided, None, training=True)
        found.append((y, both, strided))
    for got, wanted in zip(*found, strict=True):
        close(got, wanted)


# errors and what is not fused --------------------------------------------------------------------
def test_errors_name_shapes_and_line(gpu: Any) -> None:
    x = random(3, 5, device=gpu)
    with pytest.raises(OperationError, match=r"normalized_shape=\[4\].*\[3, 5\].*test_fused_sem"):
        F.layer_norm(x, (4,))
    with pytest.raises(IndexError, match=r"softmax: dimension out of range.*test_fused_semantics"):
        F.softmax(x, 5)
    with pytest.raises(OperationError, match=r"dropout.*between 0 and 1.*test_fused_semantics"):
        F.dropout(x, 2.0)
    with pytest.raises(IndexError):
        F.cross_entropy(x, flamec.tensor([0, 1, 7], device=gpu)).item()


def test_what_returns_its_operand_still_does(simulated: Any) -> None:
    x = random(3, 4)
    assert F.dropout(x, 0.5, training=False) is x
    assert all(isinstance(p, NotFusable) for p in programs())
    version, wanted = x._version, F.relu(x.cpu())
    assert F.relu(x, inplace=True) is x  # which is a program
    assert [p.itself for p in programs() if not isinstance(p, NotFusable)] == [0]
    assert x._version == version + 1
    close(x, wanted)
    leaf = random(3, 4).requires_grad_()
    recorded = leaf * 2
    assert F.relu(recorded, inplace=True) is recorded
    recorded.sum().backward()
    close(leaf.grad, 2.0 * (leaf > 0))


def test_what_is_not_fused_keeps_no_tensors(simulated: Any) -> None:
    x = random(3, 4)
    kept = weakref.ref(x)
    F.dropout(x, 0.5, training=False)
    with pytest.raises(IndexError):
        F.softmax(x, 7)
    del x
    gc.collect()
    assert kept() is None and len(programs()) == 2


def test_autocast_inside_a_composite_is_a_program_of_its_own(simulated: Any) -> None:
    x = random(4, 5).float()
    plain = flamec.cov(x)
    with flamec.autocast("cuda", dtype=flamec.bfloat16):
        lower = flamec.cov(x)
    with flamec.autocast("cpu", dtype=flamec.bfloat16):
        wanted = flamec.cov(x.cpu())
    assert plain.dtype is flamec.float32 and lower.dtype is wanted.dtype
    assert len(programs()) == 2


def test_warnings_come_every_time(simulated: Any) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="Implicit dimension choice") as caught:
            F.softmax(random(3, 4))
        assert caught[0].filename == __file__  # the user's line, however many calls lie between
        with pytest.warns(UserWarning, match="target size") as caught:
            flamec.nn.MSELoss()(random(3, 4), random(1, 4))
        assert caught[0].filename == __file__


def test_a_program_that_cannot_be_compiled_is_said_once(
    simulated: list[SimulatedGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = simulated[0].prepare_operation

    def failing(graph: Any, *args: Any) -> Any:
        if graph.name == "gelu":
            raise flamec.errors.CompileError("out of registers")
        return plain(graph, *args)

    monkeypatch.setattr(simulated[0], "prepare_operation", failing)
    monkeypatch.setattr(fused_call, "_warned", set())
    x = random(3, 4)
    with pytest.warns(RuntimeWarning, match=r"gelu runs operation by operation.*out of registers"):
        y = F.gelu(x)
    close(y, F.gelu(random(3, 4, device="cpu")))
    F.gelu(random(5, 4))  # no second warning: those are errors in tests


def test_autocast_casts_before_the_program(gpu: Any) -> None:
    x = random(4, 6, device=gpu).float()
    w = random(5, 6, device=gpu).float().requires_grad_()
    with flamec.autocast("cuda", dtype=flamec.bfloat16):
        y = F.linear(x, w)
        assert y.dtype is flamec.bfloat16
        z = F.softmax(y, -1)
        assert z.dtype is flamec.float32
    z.square().sum().backward()
    assert w.grad is not None and w.grad.dtype is flamec.float32


def test_threads_have_calls_of_their_own(gpu: Any) -> None:
    import threading

    x = random(6, 8, device=gpu, grad=True)
    outputs = [F.softmax(F.gelu(x), -1).square().sum()]  # forward here, backward in a thread
    wanted = flamec.autograd.grad(F.softmax(F.gelu(x), -1).square().sum(), x)[0]
    found: list[Any] = []

    def work() -> None:
        found.append(flamec.autograd.grad(outputs[0], x)[0])
        for _ in range(5):
            value = F.softmax(F.gelu(x), -1).square().sum()
            found.append(flamec.autograd.grad(value, x)[0])

    threads = [threading.Thread(target=work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    for gradient in found:
        close(gradient, wanted)
