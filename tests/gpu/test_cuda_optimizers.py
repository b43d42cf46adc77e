"""Optimizers, files and loaders with tensors on a GPU: the CPU's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn, optim
from flamec.data import DataLoader, TensorDataset

pytestmark = pytest.mark.gpu
DEVICE = "cuda"

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda p: optim.SGD(p, 0.1, 0.9, dampening=0.1, weight_decay=0.01),
    "Adam": lambda p: optim.Adam(p, 0.01, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 0.01),
    "Adamax": lambda p: optim.Adamax(p, 0.01),
    "NAdam": lambda p: optim.NAdam(p, 0.01),
    "RAdam": lambda p: optim.RAdam(p, 0.01),
    "Adagrad": lambda p: optim.Adagrad(p, 0.1, lr_decay=0.1),
    "Adadelta": lambda p: optim.Adadelta(p),
    "RMSprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9),
    "Rprop": lambda p: optim.Rprop(p, 0.01),
    "ASGD": lambda p: optim.ASGD(p, 0.1, lambd=0.01, t0=2),
    "Lion": lambda p: optim.Lion(p, 0.01),
    "Adafactor": lambda p: optim.Adafactor(p, 0.05),
    "Muon": lambda p: optim.Muon(p[:1], 0.01),
}


def _run(name: str, device: str, compiled: bool) -> tuple[list[np.ndarray], dict[str, Any]]:
    generator = np.random.default_rng(1)
    shapes = ((48, 33), (700,), ())
    parameters = [
        nn.Parameter(
            flamec.from_numpy(np.asarray(generator.standard_normal(s), np.float32)).to(device)
        )
        for s in shapes
    ]
    optimizer = OPTIMIZERS[name](parameters)

    def step(*gradients: Any) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient + 0.1 * parameter.detach()
        optimizer.step()

    run: Any = flamec.compile(step) if compiled else step
    for _ in range(8):
        drawn = [np.asarray(generator.standard_normal(s), np.float32) for s in shapes]
        run(*(flamec.from_numpy(g).to(device) for g in drawn))
        optimizer.param_groups[0]["lr"] *= 0.9
    if compiled:
        assert run.stats.traces == 1, run.stats.guard_failures
    return [p.detach().cpu().numpy() for p in parameters], optimizer.state_dict()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_follows_the_cpu(name: str, compiled: bool, tmp_path: Path) -> None:
    wanted, wanted_state = _run(name, "cpu", False)
    found, state = _run(name, DEVICE, compiled)
    limit = 0.02 if name == "Muon" else 5e-5  # Muon iterates in bfloat16
    for mine, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, other, rtol=limit, atol=limit)
    flamec.save(state, tmp_path / "state")
    loaded = flamec.load(tmp_path / "state")
    on_cpu = flamec.load(tmp_path / "state", map_location="cpu")
    for number, entry in wanted_state["state"].items():
        for key, value in entry.items():
            assert loaded["state"][number][key].device == state["state"][number][key].device
            mine = on_cpu["state"][number][key]
            assert mine.device.type == "cpu"
            np.testing.assert_allclose(mine.numpy(), value.numpy(), rtol=limit, atol=limit)


def test_views_are_told_apart_when_saved(tmp_path: Path) -> None:
    whole = flamec.arange(6).reshape(2, 3).to(DEVICE)
    flamec.save([whole[0], whole[1], whole, whole], tmp_path / "x")
    first, second, third, fourth = flamec.load(tmp_path / "x", map_location="cpu")
    assert first.tolist() == [0, 1, 2] and second.tolist() == [3, 4, 5]
    assert third is fourth and third.tolist() == whole.tolist()


def test_workers_feed_a_compiled_step() -> None:
    """Workers are forked from a process that uses the GPU; they do not touch it themselves."""
    x = flamec.from_numpy(np.random.default_rng(0).standard_normal((512, 20)).astype(np.float32))
    data = TensorDataset(x, (x.sum(1) > 0).to(flamec.int64))
    losses = []
    for device in ("cpu", DEVICE):
        flamec.manual_seed(3)
        model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
        model.load_state_dict({k: v * 0 + 0.01 for k, v in model.state_dict().items()})
        model = model.to(device)
        optimizer = optim.Adam(model.parameters(), 0.01)

        @flamec.compile
        def step(x: Any, y: Any, model: Any = model, optimizer: optim.Optimizer = optimizer) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        loader = DataLoader(data, 64, shuffle=True, num_workers=2, persistent_workers=True)
        losses.append(
            [step(a.to(device), b.to(device)).item() for _ in range(3) for a, b in loader]
        )
        assert step.stats.traces == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3, atol=1e-4)
