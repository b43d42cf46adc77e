"""What a GPU is asked for by a call in eager mode: one program, and no transfers beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu

import flamec
from flamec import fused_call

Call = Callable[[Any], Any]


class Operands:
    """x, y [6, 8]; v [8]; i and c places in rows of x, j rows of x; m and
    r masks of elements and rows."""

    def __init__(self, device: str) -> None:
        random = np.random.default_rng(0)
        arrays = {
            "x": random.standard_normal((6, 8)),
            "y": random.standard_normal((6, 8)),
            "v": random.standard_normal(8),
            "i": random.integers(0, 8, (6, 8)),
            "j": random.permutation(6)[:3],
            "k": random.integers(0, 8, 6),
            "n": random.integers(0, 9, 30),
            "m": random.random((6, 8)) < 0.5,
            "r": random.random(6) < 0.5,
            "c": random.integers(0, 8, (6, 1)),
        }
        for name, array in arrays.items():
            setattr(self, name, flamec.tensor(array, device=device))


def work_of(gpus: list[SimulatedGpu], run: Callable[[], Any]) -> list[str]:
    """What the device is asked for by a call, after one that has made programs and constants."""
    run()
    runtime: Any = gpus[0].runtime
    runtime.work.clear()
    run()
    return list(runtime.work)


CALLS: dict[str, Call] = {
    "gather": lambda o: o.x.gather(1, o.i),
    "take_along_dim": lambda o: flamec.take_along_dim(o.x, o.i, 1),
    "index_select": lambda o: o.x.index_select(0, o.j),
    "index_select of columns": lambda o: o.x.index_select(1, o.j),
    "x[j]": lambda o: o.x[o.j],
    "x[:, k]": lambda o: o.x[:, o.k],
    "x[j, j]": lambda o: o.x[o.j, o.j],
    "scatter": lambda o: o.x.scatter(1, o.i, o.y),
    "scatter_add": lambda o: o.x.scatter_add(1, o.i, o.y),
    "scatter of a number": lambda o: o.x.scatter(1, o.i, 2.0),
    "index_add": lambda o: o.x.index_add(0, o.j, o.y[:3]),
    "index_fill": lambda o: o.x.index_fill(0, o.j, 0.5),
    "masked_fill": lambda o: o.x.masked_fill(o.m, 0.5),
    "quantile": lambda o: flamec.quantile(o.x, 0.3),
    "median": lambda o: o.x.median(1),
    "mode": lambda o: o.n.mode(0),
    "kthvalue": lambda o: o.x.kthvalue(3, 1),
    "flip": lambda o: o.x.flip(1),
    "roll": lambda o: o.x.roll(3, 1),
    "rot90": lambda o: flamec.rot90(o.x),
    "tril": lambda o: o.x.tril(),
    "triu": lambda o: o.x.triu(2),
    "diag": lambda o: flamec.diag(o.v),
    "isin": lambda o: flamec.isin(o.n, o.i),
    "cross": lambda o: flamec.cross(o.x[:3], o.y[:3], 0),
    "vector_norm": lambda o: flamec.linalg.vector_norm(o.x, 3),
    "renorm": lambda o: flamec.renorm(o.x, 2, 0, 0.5),
    "gradient": lambda o: flamec.gradient(o.x),
    "repeat_interleave": lambda o: o.x.repeat_interleave(3, 1),
    "a copy of a view with gaps": lambda o: o.x[:, ::2].clone(),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_one_program(name: str, simulated: list[SimulatedGpu]) -> None:
    operands = Operands("cuda")
    with flamec.no_grad():
        work = work_of(simulated, lambda: CALLS[name](operands))
    assert len(work) == 1, work


CHANGES: dict[str, Call] = {
    "x[j] = y": lambda o: o.x.__setitem__(o.j, o.y[:3]),
    "x[j] = number": lambda o: o.x.__setitem__(o.j, 0.5),
    "x[j, j] = v": lambda o: o.x.__setitem__((o.j, o.j), o.v[:3]),
    "x[m] = number": lambda o: o.x.__setitem__(o.m, 0.5),
    "x[r] = v": lambda o: o.x.__setitem__(o.r, o.v),
    "a row of x": lambda o: o.x[2].__setitem__(o.k, 1.0),
    "index_add_": lambda o: o.x.index_add_(0, o.j, o.y[:3]),
    "index_copy_": lambda o: o.x.index_copy_(0, o.j, o.y[:3]),
    "scatter_": lambda o: o.x.scatter_(1, o.c, o.y),
    "scatter_add_": lambda o: o.x.scatter_add_(1, o.i, o.y),
    "masked_fill_": lambda o: o.x.masked_fill_(o.m, 0.5),
    "clamp_": lambda o: o.x.clamp_(-0.5, 0.5),
    "lerp_": lambda o: o.x.lerp_(o.y, 0.3),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_in_place_is_one_program_in_the_memory(
    name: str, simulated: list[SimulatedGpu]
) -> None:
    wanted, operands = Operands("cpu"), Operands("cuda")
    address, version = operands.x._array.address, operands.x._version
    CHANGES[name](wanted)
    CHANGES[name](operands)
    np.testing.assert_allclose(operands.x.cpu().numpy(), wanted.x.numpy(), 1e-12)
    assert operands.x._array.address == address and operands.x._version == version + 1
    with flamec.no_grad():
        assert len(work_of(simulated, lambda: CHANGES[name](operands))) == 1


def test_changes_that_autograd_follows_are_recorded(gpu: Any) -> None:
    for device in ("cpu", "cuda"):
        o = Operands(device)
        base = (o.x.requires_grad_() * 2).clone()
        base[o.j] = o.y[:3]
        base.index_add_(0, o.j, o.y[:3].requires_grad_() * 3)
        base[o.m] = 0.0
        (base * base).sum().backward()
        gradient = o.x.grad.cpu().numpy()
        if device == "cpu":
            wanted = gradient
    np.testing.assert_allclose(gradient, wanted, 1e-12)
    plain = Operands("cuda")
    source = plain.y[:3].requires_grad_()
    plain.x[plain.j] = source  # now x is followed, too
    assert plain.x.requires_grad
    plain.x.sum().backward()
    np.testing.assert_array_equal(source.grad.cpu().numpy(), np.ones((3, 8)))
    with pytest.raises(RuntimeError, match=r"leaf.*in place.*test_launches_of_composites\.py:\d+"):
        o.x[o.j] = 0.0
    with flamec.no_grad():
        o.x[o.j] = 0.0
    assert o.x[o.j].detach().abs().sum().item() == 0 and o.x.is_leaf


def test_operands_in_the_memory_that_is_written(gpu: Any) -> None:
    for index in (lambda o: o.j, lambda o: o.m):
        wanted, got = Operands("cpu"), Operands("cuda")
        for o in (wanted, got):
            if index(o) is o.j:
                o.x[o.j] = o.x[[2, 1, 0]]
                o.x[1:4].index_add_(0, o.j.remainder(3), o.x[:3])
            else:
                o.x[o.m] = o.x[0, 0]
            o.x[:, ::2].index_fill_(0, o.j, 7.0)  # a view with gaps
        np.testing.assert_array_equal(got.x.cpu().numpy(), wanted.x.numpy())


def test_operands_in_the_memory_by_another_storage(simulated: list[SimulatedGpu]) -> None:
    o = Operands("cuda")
    parameter = flamec.nn.Parameter(o.x)
    with flamec.no_grad():
        for source, wanted in ((o.x[:3], ["index_add", "copy"]), (o.y[:3], ["index_add_"])):
            change: Callable[[], Any] = functools.partial(parameter.index_add_, 0, o.j, source)
            assert work_of(simulated, change) == wanted


def test_errors_in_place_name_the_line_and_change_nothing(simulated: Any) -> None:
    o = Operands("cuda")
    before = o.x.cpu().numpy()
    with pytest.raises(RuntimeError, match=r"same dtype.*test_launches_of_composites\.py:\d+"):
        o.x.index_add_(0, o.j, o.y[:3].float())
    with pytest.raises(RuntimeError, match=r"shape mismatch.*test_launches_of_composites\.py:\d+"):
        o.x[o.j] = o.y[:2]
    np.testing.assert_array_equal(o.x.cpu().numpy(), before)


def test_amounts_and_sizes_that_change_share_programs(simulated: list[SimulatedGpu]) -> None:
    for size in range(40, 60):
        x = flamec.arange(3 * size, device="cuda").reshape(3, size)
        for amount in (2, 5, 11, 33):
            np.testing.assert_array_equal(
                x.roll(amount, 1).cpu().numpy(), np.roll(x.cpu().numpy(), amount, 1)
            )
            got = x.tril(amount).cpu().numpy()
            np.testing.assert_array_equal(got, np.tril(x.cpu().numpy(), amount))
            x[:, :1].index_fill_(0, x[0, :2] * 0, 3)
            x[x[0, :2] * 0] = x[1, 1]
    assert sum(len(known) for known in fused_call._programs.values()) <= 12
    assert len(simulated[0].prepared) <= 40


def test_different_values_take_two_programs_and_one_number(simulated: list[SimulatedGpu]) -> None:
    x = flamec.tensor(np.random.default_rng(0).integers(0, 9, 2000), device="cuda")
    for in_order in (True, False):
        unique = flamec.unique if in_order else flamec.unique_consecutive
        for wanted in ((False, False), (True, True)):
            call = functools.partial(unique, x, return_inverse=wanted[0], return_counts=wanted[1])
            work = work_of(simulated, call)
            assert work.count("read") == 1
            assert len(work) == 3


def test_positions_have_no_gradient() -> None:
    x = flamec.tensor([3.0, 1.0, 2.0], requires_grad=True)
    for values in (x.sort().values, x.topk(2).values, x.median(), x.kthvalue(2).values):
        (first,) = flamec.autograd.grad(values, x, flamec.ones_like(values), create_graph=True)
        assert not first.requires_grad
        seed = flamec.ones_like(values).requires_grad_()
        (first,) = flamec.autograd.grad(values_of(x, values), x, seed, create_graph=True)
        assert first.requires_grad


def values_of(x: flamec.Tensor, like: flamec.Tensor) -> flamec.Tensor:
    return x.sort().values[: like.numel()].reshape(like.shape)
