"""Mixed precision on a GPU: CUDA's policies, the loss scale on the device, eager and compiled."""

from __future__ import annotations

import numpy as np
import pytest

import flamec
from flamec import Tensor, nn, optim
from flamec.ir.types import Device
from flamec.nn import functional as F


def test_policies_are_those_of_the_tensors_device(gpu: Device) -> None:
    x = flamec.randn(4, 4, device=gpu)
    with flamec.autocast("cuda"):
        low = x @ x
        assert low.dtype is flamec.float16
        assert low.exp().dtype is (1.0 / low).dtype is low.sum().dtype is flamec.float32
        assert F.softmax(low, -1).dtype is flamec.float32
        assert (x.cpu() @ x.cpu()).dtype is flamec.float32
        assert low.cpu().exp().dtype is flamec.float16
        with flamec.autocast("cpu"):
            assert (x.cpu() @ x.cpu()).dtype is flamec.bfloat16
            assert (x @ x).dtype is flamec.float16
    with flamec.autocast("cpu"):
        assert (x @ x).dtype is flamec.float32
    with flamec.autocast("cuda", dtype=flamec.bfloat16):
        assert (x @ x).dtype is flamec.bfloat16


def curve(gpu: Device, lower: flamec.dtype, compiled: bool) -> list[tuple[float, float, int]]:
    """Loss, scale and good steps in a row; some steps overflow."""
    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4)).to(gpu)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    scaler = flamec.amp.GradScaler("cuda", init_scale=2.0**10, growth_interval=3)

    def step(x: Tensor, y: Tensor, factor: Tensor) -> Tensor:
        optimizer.zero_grad()
        with flamec.autocast("cuda", dtype=lower):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss * factor).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    call = flamec.compile(step) if compiled else step
    generator = np.random.default_rng(1)
    found = []
    for number in range(10):
        x = flamec.tensor(generator.standard_normal((6, 8)).astype(np.float32), device=gpu)
        y = flamec.tensor(generator.integers(0, 4, 6), device=gpu)
        factor = flamec.tensor(float("inf") if number in (0, 4, 5) else 1.0, device=gpu)
        loss = call(x, y, factor)
        found.append((float(loss), scaler.get_scale(), scaler.state_dict()["_growth_tracker"]))
    assert all(p.grad is not None and p.grad.dtype is flamec.float32 for p in model.parameters())
    if compiled:
        assert call.stats.traces == 1
    return found


@pytest.mark.parametrize("lower", [flamec.float16, flamec.bfloat16], ids=str)
def test_a_compiled_step_follows_the_eager_one(gpu: Device, lower: flamec.dtype) -> None:
    eager, compiled = curve(gpu, lower, False), curve(gpu, lower, True)
    assert [e[1:] for e in eager] == [c[1:] for c in compiled]
    tolerance = 0.03 if lower is flamec.bfloat16 else 0.005
    np.testing.assert_allclose([e[0] for e in eager], [c[0] for c in compiled], tolerance)
    assert len({e[1] for e in eager}) > 2
