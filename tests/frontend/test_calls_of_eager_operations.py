"""How many Python functions an eager operation on a GPU calls, from the user's line to the driver.

What such an operation costs is Python, unless its tensors are large. Calls are counted over a
driver that is not there: each bound is a tenth above what the operation needs now.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from typing import Any

import driver_stand_in
import numpy as np
import pytest
from counted_calls import called_by
from driver_stand_in import GPU, DriverStandIn

import flamec
from flamec import eager_programs, fused_call, fusing
from flamec.runtime.cuda.device import CudaDevice
from flamec.state import process

F = flamec.nn.functional
Call = Callable[[Any, Any], Any]


@pytest.fixture
def cu(monkeypatch: pytest.MonkeyPatch) -> Iterator[DriverStandIn]:
    monkeypatch.setattr(process, "hook_changes", 0)  # hooks of other tests
    yield driver_stand_in.install(monkeypatch)
    _half.cache_clear()
    _mask.cache_clear()
    _places.cache_clear()
    _other.cache_clear()
    _line.cache_clear()
    fusing._calls.known.clear()
    eager_programs._programs.clear()
    gc.collect()  # graphs end while their driver is there


@flamec.compile
def _compiled_sum(x: Any, y: Any) -> Any:
    return x + y


@functools.cache
def _half(x: Any) -> Any:
    return x.to(flamec.bfloat16)


@functools.cache
def _places(x: Any) -> Any:
    return flamec.from_numpy(np.arange(8)).to(x.device)


@functools.cache
def _mask(x: Any) -> Any:
    return x > 0


@functools.cache
def _other(x: Any) -> Any:
    return flamec.empty_like(x)


@functools.cache
def _line(x: Any) -> Any:
    return flamec.empty(len(x), device=x.device)


ALL = slice(None)
COLUMNS = (ALL, slice(None, None, 2))


def _scale_columns(x: Any) -> None:
    x[:, ::2] *= 2


def _both_ways(function: Callable[[Any], Any]) -> Call:
    def run(x: Any, y: Any) -> Any:
        leaf = x.detach().requires_grad_()
        return flamec.autograd.grad(function(leaf), leaf, y)

    return run


OPERATIONS: dict[str, tuple[Call, int]] = {
    "add": (lambda x, y: x + y, 16),
    "mul by a number": (lambda x, y: x * 2.0, 17),
    "compared with a number": (lambda x, y: x > 0, 17),
    "exp": (lambda x, y: x.exp(), 16),
    "gelu": (lambda x, y: F.gelu(x), 17),
    "where": (lambda x, y: flamec.where(x > 0, x, y), 40),
    "sum": (lambda x, y: x.sum(), 32),
    "softmax": (lambda x, y: F.softmax(x, -1), 18),
    "layer_norm": (lambda x, y: F.layer_norm(x, (64,)), 20),
    "matmul": (lambda x, y: x @ y, 27),
    "cat": (lambda x, y: flamec.cat((x, y)), 18),
    "view": (lambda x, y: x.view(-1), 7),
    "slice": (lambda x, y: x[1:, ::2], 9),
    "row": (lambda x, y: x[3], 7),
    "reshape of a permutation": (lambda x, y: x.view(8, 8, 64).transpose(0, 1).reshape(8, 512), 82),
    "interpolate": (lambda x, y: F.interpolate(x.view(1, 1, 64, 64), scale_factor=2), 23),
    "index_put_": (lambda x, y: x.index_put_((_places(x),), y[:8]), 43),
    "unbind": (lambda x, y: x[:8].unbind(), 60),
    "detach": (lambda x, y: x.detach(), 4),
    "add in place": (lambda x, y: x.add_(y), 14),
    "add in place, with a factor": (lambda x, y: x.add_(y, alpha=0.5), 15),
    "mul in place by a number": (lambda x, y: x.mul_(0.5), 15),
    "add in place of two dtypes": (lambda x, y: x.add_(_half(y)), 17),
    "mul of 16 bits by a number": (lambda x, y: _half(x) * 0.5, 29),
    "mul of 16 bits by a number in place": (lambda x, y: _half(x).mul_(0.5), 18),
    "exp in place": (lambda x, y: x.exp_(), 14),
    "relu in place": (lambda x, y: x.relu_(), 15),
    "power in place": (lambda x, y: x.pow_(2), 18),
    "logical_not in place": (lambda x, y: _mask(x).logical_not_(), 18),
    "maximum with out": (lambda x, y: flamec.maximum(x, y, out=_other(x)), 25),
    "exp with out": (lambda x, y: flamec.exp(x, out=_other(x)), 24),
    "sum with out": (lambda x, y: flamec.sum(x, 1, out=_line(x)), 22),
    "copy_": (lambda x, y: x.copy_(y), 30),
    "copy_ from another dtype": (lambda x, y: x.copy_(_half(y)), 28),
    "columns": (lambda x, y: x[:, 1:] + 1, 28),
    "columns of two": (lambda x, y: x[:, ::2] + y[:, ::2], 35),
    "exp of columns": (lambda x, y: x[:, 1:].exp(), 26),
    "softmax of columns": (lambda x, y: F.softmax(x[:, 1:], -1), 29),
    "cat of columns": (lambda x, y: flamec.cat((x[:, 1:], y[:, 1:])), 38),
    "columns scaled": (lambda x, y: _scale_columns(x), 72),
    "columns stored": (lambda x, y: x.__setitem__(COLUMNS, y[:, ::2]), 48),
    "a number stored in a column": (lambda x, y: x.__setitem__((ALL, 0), 1.0), 44),
    "where of numbers": (lambda x, y: flamec.where(_mask(x), 1.0, 0.0), 31),
    "a number stored in a row": (lambda x, y: x.__setitem__(0, 1.0), 23),
    "fill_": (lambda x, y: x.fill_(0.5), 19),
    "compiled": (lambda x, y: _compiled_sum(x, y), 13),
    "zeros": (lambda x, y: flamec.zeros(64, 64, device=GPU), 30),
    "ones": (lambda x, y: flamec.ones(64, 64, device=GPU), 30),
    "full": (lambda x, y: flamec.full((64, 64), 2.5, device=GPU), 29),
    "zeros_like": (lambda x, y: flamec.zeros_like(x), 30),
    "rand": (lambda x, y: flamec.rand(64, 64, device=GPU), 53),
    "randn_like": (lambda x, y: flamec.randn_like(x), 50),
    "normal_": (lambda x, y: x.normal_(1, 2), 57),
    "bernoulli_": (lambda x, y: x.bernoulli_(0.3), 53),
    "dropout": (lambda x, y: F.dropout(x, 0.5), 24),
    "arange": (lambda x, y: flamec.arange(64, device=GPU), 42),
    "linspace": (lambda x, y: flamec.linspace(0, 1, 64, device=GPU), 54),
    "chunk": (lambda x, y: x.chunk(4), 41),
    "randint": (lambda x, y: flamec.randint(0, 9, (64, 64), device=GPU), 70),
    "item": (lambda x, y: x[0, 0].item(), 41),
    "to bfloat16": (lambda x, y: x.to(flamec.bfloat16), 25),
    "mul, tracked": (lambda x, y: x.detach().requires_grad_() * y, 49),
    "linear, tracked": (lambda x, y: F.linear(x.detach().requires_grad_(), y), 61),
    "mul, both ways": (_both_ways(lambda x: x * x), 158),
    "gelu, both ways": (_both_ways(F.gelu), 117),
    "layer_norm, both ways": (_both_ways(lambda x: F.layer_norm(x, (64,))), 158),
}


# What is neither one launch nor one copy or fill: launches, and copies and fills.
WORK = {
    **dict.fromkeys(("view", "slice", "row", "unbind", "chunk", "detach"), (0, 0)),
    "where": (2, 0),
    "linspace": (2, 0),
}


@pytest.mark.parametrize("name", [n for n in OPERATIONS if "ways" not in n and "tracked" not in n])
def test_launches_and_copies(cu: DriverStandIn, name: str) -> None:
    call, _ = OPERATIONS[name]
    x, y = (flamec.from_numpy(np.ones((64, 64), np.float32)).to(GPU) for _ in range(2))
    for _ in range(4):
        call(x, y)
    before = cu.calls.copy()
    call(x, y)
    done = cu.calls - before
    launches = done["cuLaunchKernel"]
    copies = sum(n for kind, n in done.items() if kind.startswith(("cuMemcpy", "cuMemset")))
    assert (launches, copies) == WORK.get(name, (launches, 1 - launches)), done


def test_a_long_function_is_no_program(cu: DriverStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_call, "_MOST_NODES", 0)
    x = flamec.ones(8, 8, device=GPU)
    for _ in range(2):
        before = cu.calls.copy()
        x.pow_(2)
    done = cu.calls - before
    assert (done["cuLaunchKernel"], done["cuMemcpyDtoDAsync"]) == (1, 1)


def test_numbers_that_vary_do_not_make_programs_without_end(cu: DriverStandIn) -> None:
    x = flamec.ones(8, 8, device=GPU)
    x[:, 1:].mul_(0.5)
    x.pow_(0.5)
    for i in range(40):
        x[:, 1:].mul_(1 + i / 64)
        x.pow_(1 + i / 64)
    assert len(eager_programs._programs) < 40


# Of a million elements: functions in Python, and launches of kernels.
LARGE: dict[str, tuple[Callable[[Any, Any, Any], Any], int, int]] = {
    "nonzero": (lambda x, i, mask: mask.nonzero(), 95, 3),
    "nonzero, two dimensions": (lambda x, i, mask: mask.view(1024, 1024).nonzero(), 126, 4),
    "masked_select": (lambda x, i, mask: x.masked_select(mask), 86, 3),
    "x[mask]": (lambda x, i, mask: x[mask], 88, 3),
    "unique": (lambda x, i, mask: i.unique(), 111, 2),  # and a graph that sorts
    "histc": (lambda x, i, mask: flamec.histc(x, 100, -3, 3), 37, 3),
    "unique_consecutive": (lambda x, i, mask: i.unique_consecutive(), 90, 5),
}


@pytest.mark.parametrize("name", LARGE)
def test_functions_called_for_large_arrays(
    cu: DriverStandIn, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, most, launches = LARGE[name]
    line = np.ones(1 << 20, np.float32)
    x, i = (flamec.from_numpy(line.astype(t)).to(GPU) for t in (np.float32, np.int64))
    mask = x > 0
    read_word = CudaDevice.read_word
    monkeypatch.setattr(CudaDevice, "read_word", lambda *given: read_word(*given) or 512)  # found
    for _ in range(4):
        call(x, i, mask)
    before = cu.calls.copy()
    call(x, i, mask)
    done = cu.calls - before
    assert done["cuLaunchKernel"] == launches
    assert done["cuGraphLaunch"] == (name == "unique")
    assert done["cuStreamSynchronize"] == done["cuMemcpyDtoHAsync"] == (name != "histc")
    runs = [called_by(lambda: call(x, i, mask), only_python=True)[1:] for _ in range(3)]
    names = min(runs, key=len)
    assert len(names) <= most, names


@pytest.mark.parametrize("name", OPERATIONS)
def test_functions_called(cu: DriverStandIn, name: str) -> None:
    call, most = OPERATIONS[name]
    x, y = (flamec.from_numpy(np.ones((64, 64), np.float32)).to(GPU) for _ in range(2))
    for _ in range(4):  # programs are made, and memory comes back
        call(x, y)
    runs = [called_by(lambda: call(x, y), only_python=True)[1:] for _ in range(3)]
    names = min(runs, key=len)
    assert len(names) <= most, names


def test_launches_of_a_convolution(cu: DriverStandIn) -> None:
    """The size of its windows is a number in the program: they are looked up where they are
    multiplied, not copied, for images of all sizes."""
    weight, bias = (flamec.ones(*shape, device=GPU) for shape in ((64, 4, 3, 3), (64,)))
    for size in (32, 48):
        x = flamec.ones(1, 4, size, size, device=GPU)
        F.conv2d(x, weight, bias, padding=1)
        before = cu.calls["cuLaunchKernel"]
        F.conv2d(x, weight, bias, padding=1)
        assert cu.calls["cuLaunchKernel"] - before == 2
    assert cu.calls["cuModuleLoadData"] <= 4  # one program, and what fills x


def test_convolutions_of_other_channels_share_a_program(cu: DriverStandIn) -> None:
    """Networks whose layers all have other numbers of channels would need one for each."""
    x = flamec.ones(1, 24, 32, 32, device=GPU)
    F.conv2d(x, flamec.ones(40, 24, 3, 3, device=GPU), padding=1)
    before = len(eager_programs._programs)
    for inputs, outputs in ((40, 72), (72, 120), (24, 88)):
        x = flamec.ones(1, inputs, 32, 32, device=GPU)
        F.conv2d(x, flamec.ones(outputs, inputs, 3, 3, device=GPU), padding=1)
    signatures = {k: v for k, v in fused_call._programs.items() if k[0].name == "conv2d"}
    assert len(signatures) == 1 and len(eager_programs._programs) - before <= 3
