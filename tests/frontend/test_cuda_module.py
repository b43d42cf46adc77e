"""``flamec.cuda`` and DLPack on GPUs: what holds without a GPU, and on a real one."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu

import flamec
from flamec import dlpack, eager_programs
from flamec.ir.types import ALL_DTYPES, Device
from flamec.runtime.cuda.driver import unavailable_reason

_REASON = unavailable_reason()
needs_gpu = pytest.mark.skipif(_REASON is not None, reason=str(_REASON))


# without a GPU ----------------------------------------------------------------------------
@pytest.mark.skipif(_REASON is None, reason="there is a GPU")
def test_without_a_gpu_everything_says_so() -> None:
    assert not flamec.cuda.is_available() and flamec.cuda.device_count() == 0
    for call in (
        lambda: flamec.zeros(1, device="cuda"),
        lambda: flamec.zeros(1).cuda(),
        flamec.cuda.synchronize,
        flamec.cuda.memory_allocated,
        flamec.cuda.memory_stats,
        flamec.cuda.Stream,
    ):
        with pytest.raises(RuntimeError, match="device cuda:0 is not available: "):
            call()
    flamec.cuda.empty_cache()
    flamec.cuda.ipc_collect()
    flamec.cuda.seed_all()
    assert flamec.cuda.get_arch_list() == [] and not flamec.cuda.is_initialized()
    assert not (flamec.cuda.is_bf16_supported() or flamec.cuda.is_tf32_supported())
    with flamec.cuda.device_of(flamec.ones(1)):
        assert flamec.cuda.current_device() == 0


class _Facts(NamedTuple):
    major: int
    minor: int

    @property
    def target(self) -> str:
        return f"sm_{self.major}{self.minor}"


@pytest.mark.usefixtures("simulated")
def test_what_a_gpu_can(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [_Facts(7, 5), _Facts(9, 0)]
    monkeypatch.setattr(flamec.cuda, "get_device_properties", lambda i=None: found[i or 0])
    assert flamec.cuda.get_arch_list() == ["sm_75", "sm_90"]
    assert not flamec.cuda.is_tf32_supported() and flamec.cuda.is_bf16_supported()
    assert not flamec.cuda.is_bf16_supported(including_emulation=False)
    found[0] = _Facts(9, 0)
    assert flamec.cuda.is_tf32_supported() and flamec.cuda.is_bf16_supported(False)


@pytest.mark.usefixtures("simulated")
def test_the_device_of_a_tensor_and_one_seed_for_all() -> None:
    with flamec.cuda.device_of(flamec.ones(1, device="cuda:1")):
        assert flamec.cuda.current_device() == 1
        with flamec.cuda.device_of(flamec.ones(1)):
            assert flamec.cuda.current_device() == 1
    assert flamec.cuda.current_device() == 0
    flamec.cuda.seed_all()
    first = flamec.cuda.initial_seed()
    with flamec.cuda.device(1):
        assert flamec.cuda.initial_seed() == first
    flamec.cuda.seed_all()
    assert flamec.cuda.initial_seed() != first


def test_accounts_of_memory_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {"allocated_bytes.all.current": 3 << 20, "allocation.all.allocated": 1234}
    monkeypatch.setattr(flamec.cuda, "memory_stats", lambda device=None: counted)
    assert flamec.cuda.memory_stats_as_nested_dict() == {
        "allocated_bytes": {"all": {"current": 3 << 20}},
        "allocation": {"all": {"allocated": 1234}},
    }
    monkeypatch.setattr(flamec.cuda, "_device", lambda name, device: Device("cuda", 0))
    text = flamec.cuda.memory_summary()
    assert "3.0 MiB" in text and "1,234" in text and "cuda:0" in text
    assert "1,234" not in flamec.cuda.memory_summary(abbreviated=True)


def test_the_current_device(simulated: list[SimulatedGpu]) -> None:
    assert flamec.cuda.is_available() and flamec.cuda.device_count() == 2
    assert flamec.zeros(1, device="cuda").device == Device("cuda", 0)
    with flamec.cuda.device(1):
        assert flamec.cuda.current_device() == 1
        assert flamec.zeros(1).cuda().device == Device("cuda", 1)
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(flamec.cuda.current_device()))
        other.start()
        other.join()
        assert seen == [0]
    assert flamec.cuda.current_device() == 0
    accelerator = flamec.accelerator
    assert accelerator.is_available() and accelerator.device_count() == 2
    assert accelerator.current_accelerator() == Device("cuda")
    with accelerator.device_index(1):
        assert accelerator.current_device_index() == flamec.cuda.current_device() == 1
    accelerator.set_device_index(1)
    assert flamec.ones(1, device="cuda").device.index == 1
    flamec.cuda.set_device("cuda:1")
    assert flamec.ones(1, device="cuda").device.index == 1
    flamec.cuda.set_device(0)
    with pytest.raises(ValueError, match="expected a cuda device, but got cpu"):
        flamec.cuda.synchronize("cpu")


def test_the_current_device_is_an_assumption_of_compiled_functions(
    simulated: list[SimulatedGpu],
) -> None:
    f = flamec.compile(lambda x: x + flamec.ones(2, device="cuda").to(x.device))
    assert f(flamec.zeros(2, device="cuda:0")).device.index == 0
    with flamec.cuda.device(1):
        assert f(flamec.zeros(2, device="cuda:1")).tolist() == [1, 1]
    assert f.stats.traces == 2


def test_seeds(simulated: list[SimulatedGpu]) -> None:
    flamec.cuda.manual_seed_all(7)
    states = flamec.cuda.get_rng_state_all()
    first = flamec.rand(3, device="cuda:1").tolist()
    flamec.cuda.set_rng_state_all(states)
    assert flamec.rand(3, device="cuda:1").tolist() == first
    assert flamec.rand(3, device="cuda:0").tolist() == first
    with flamec.cuda.device(1):
        assert flamec.cuda.initial_seed() == 7


def test_dlpack_shares_memory(simulated: list[SimulatedGpu]) -> None:
    for dtype in ALL_DTYPES:
        x = flamec.tensor([[0, 1, 2], [1, 0, 3]], device="cuda:1").to(dtype)
        assert x.__dlpack_device__() == (2, 1)
        y = flamec.from_dlpack(_Foreign(x.t()[1:]))
        assert y.device == x.device and y.dtype is dtype
        assert y.data_ptr() == x.t()[1:].data_ptr() and y.stride() == (1, 3)
        assert y.tolist() == x.t()[1:].tolist()
        x.zero_()
        assert not y.to(flamec.float32).any()
    held = len(dlpack._exported)
    del x, y
    gc.collect()
    assert len(dlpack._exported) < held


def test_dlpack_capsules_are_used_once_and_may_go_unused(simulated: list[SimulatedGpu]) -> None:
    before = len(dlpack._exported)
    x = flamec.ones(3, device="cuda")
    capsule = x.__dlpack__()
    assert len(dlpack._exported) == before + 1
    array = dlpack.from_capsule(capsule)
    with pytest.raises(BufferError, match="used before"):
        dlpack.from_capsule(capsule)
    del array, capsule
    unused = x.__dlpack__()
    del unused
    gc.collect()
    assert len(dlpack._exported) == before
    with pytest.raises(BufferError, match="require gradient"):
        flamec.ones(1, device="cuda", requires_grad=True).__dlpack__()


class _Foreign:
    """An object of another library."""

    def __init__(self, tensor: flamec.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        device: tuple[int, int] = self.tensor.__dlpack_device__()
        return device


# on a GPU ---------------------------------------------------------------------------------
@pytest.fixture
def real() -> Iterator[Device]:
    yield Device("cuda", 0)
    flamec.cuda.synchronize()


@pytest.mark.gpu
@needs_gpu
def test_properties_and_memory(real: Device) -> None:
    properties = flamec.cuda.get_device_properties()
    assert properties.name == flamec.cuda.get_device_name() and properties.total_memory > 1 << 30
    assert flamec.cuda.get_device_capability() == (properties.major, properties.minor)
    flamec.zeros(1 << 20, device=real)
    gc.collect()
    before = flamec.cuda.memory_allocated()
    flamec.cuda.reset_peak_memory_stats()
    x = flamec.zeros(1 << 20, device=real)
    assert flamec.cuda.memory_allocated() - before == 4 << 20
    del x
    assert flamec.cuda.memory_allocated() == before
    assert flamec.cuda.max_memory_allocated() - before >= 4 << 20
    assert flamec.cuda.memory_reserved() >= flamec.cuda.memory_allocated()
    requests = flamec.cuda.memory_stats()["num_device_alloc"]
    for _ in range(5):
        flamec.zeros(1 << 20, device=real)
    counts = flamec.cuda.memory_stats()
    assert counts["num_device_alloc"] == requests
    assert counts["allocated_bytes.all.current"] == flamec.cuda.memory_allocated()
    flamec.cuda.empty_cache()


@pytest.mark.alone
@pytest.mark.gpu
@needs_gpu
def test_out_of_memory_is_an_error_and_the_process_goes_on(real: Device) -> None:
    total = flamec.cuda.get_device_properties().total_memory
    with pytest.raises(flamec.cuda.OutOfMemoryError, match=r"were requested, .* are allocated"):
        flamec.zeros(total, device=real)
    assert flamec.ones(3, device=real).sum().item() == 3


@pytest.mark.gpu
@needs_gpu
def test_streams_and_events(real: Device) -> None:
    side = flamec.cuda.Stream()
    start, stop = (flamec.cuda.Event(enable_timing=True) for _ in range(2))
    x = flamec.ones(1 << 22, device=real)
    side.wait_stream(flamec.cuda.current_stream())
    with flamec.cuda.stream(side):
        assert flamec.cuda.current_stream().cuda_stream == side.cuda_stream
        start.record(side)
        for _ in range(20):
            x = x * 1.01
        stop.record(side)
    flamec.cuda.current_stream().wait_stream(side)
    x.record_stream(flamec.cuda.current_stream())
    np.testing.assert_allclose(x[0].item(), 1.01**20, rtol=1e-5)
    stop.synchronize()
    assert start.elapsed_time(stop) > 0


@pytest.mark.gpu
@needs_gpu
def test_dlpack_with_pytorch(real: Device) -> None:
    torch = pytest.importorskip("torch")
    theirs = torch.arange(12, dtype=torch.bfloat16, device="cuda").reshape(3, 4).t()
    ours = flamec.from_dlpack(theirs)
    assert ours.data_ptr() == theirs.data_ptr() and ours.stride() == theirs.stride()
    assert ours.dtype is flamec.bfloat16
    ours.mul_(2)
    flamec.cuda.synchronize()
    assert theirs[1, 2].item() == 18
    x = flamec.arange(6.0, device=real).reshape(2, 3)
    back = torch.from_dlpack(x)
    assert back.data_ptr() == x.data_ptr()
    back += 1
    torch.cuda.synchronize()
    assert x.tolist() == [[1, 2, 3], [4, 5, 6]]
    y = torch.from_dlpack(flamec.ones(5, device=real) * 3)
    gc.collect()
    flamec.zeros(5, device=real)
    assert y.tolist() == [3] * 5


@pytest.mark.gpu
@needs_gpu
def test_a_compiled_step_is_one_graph_whatever_changes(real: Device) -> None:
    from flamec import nn, optim

    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Dropout(0.1), nn.Linear(50, 2)).to(real)
    optimizer = optim.Adam(model.parameters(), lr=0.01)

    @flamec.compile
    def step(x: flamec.Tensor, y: flamec.Tensor) -> Any:
        optimizer.zero_grad()
        out = model(x)
        loss = nn.functional.cross_entropy(out, y)
        loss.backward()
        optimizer.step()
        return loss, out

    held = []
    for turn in range(100):
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + turn % 7)
        x = flamec.randn(16, 10, device=real)  # at a new address each time
        y = flamec.randint(0, 2, (16,), device=real)
        held.append(step(x, y))
    bound = step.programs[0].prepared.runner.bind(()).bound
    assert bound.graph is not None and step.stats.traces == 1
    addresses = {out.data_ptr() for _, out in held}
    assert len(addresses) == 100
    values = [loss.item() for loss, _ in held]
    again = [nn.functional.cross_entropy(out, y).item() for _, out in held[-1:]]
    assert np.isfinite(values).all() and abs(again[0] - values[-1]) < 1e-5
    assert len(set(values)) == 100


@pytest.mark.gpu
@needs_gpu
def test_eager_operations_compile_once_for_all_sizes(real: Device) -> None:
    def work(n: int, m: int) -> None:
        x = flamec.rand(n, m, device=real)
        ((x * 2).softmax(1) @ flamec.rand(m, n, device=real)).sum()

    work(37, 41)
    before = len(eager_programs._programs)
    for n, m in ((43, 39), (45, 47), (35, 33)):
        work(n, m)
    assert len(eager_programs._programs) == before
