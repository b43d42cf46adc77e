"""Learning-rate schedules give PyTorch's numbers, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn, optim

SCHEDULES: dict[str, Callable[[Any, Any], Any]] = {
    "StepLR": lambda m, o: m.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda m, o: m.MultiStepLR(o, [2, 5, 5, 9], 0.3),
    "ConstantLR": lambda m, o: m.ConstantLR(o, 0.25, 4),
    "LinearLR": lambda m, o: m.LinearLR(o, 0.2, 0.8, 6),
    "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda m, o: m.PolynomialLR(o, 7, 2.0),
    "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 5, 0.001),
    "LambdaLR": lambda m, o: m.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda epoch: 0.9 + 0.01 * epoch),
    "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.5, total_steps=20),
    "OneCycleLR linear": lambda m, o: m.OneCycleLR(
        o, 0.5, epochs=4, steps_per_epoch=5, anneal_strategy="linear", three_phase=True
    ),
    "SequentialLR": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9)], [4]
    ),
    "CosineAnnealingWarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 2, 0.01),
    "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, [0.2, 0.4], 3, 4, mode="triangular2"),
    "CyclicLR exp": lambda m, o: m.CyclicLR(o, 0.01, 0.2, 3, mode="exp_range", gamma=0.9),
    "CyclicLR own": lambda m, o: m.CyclicLR(
        o, 0.01, 0.2, 3, scale_fn=lambda x: 1 / x, cycle_momentum=False
    ),
    "ChainedScheduler": lambda m, o: m.ChainedScheduler(
        [m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda m, o: _swa(m).SWALR(o, [0.05, 0.6], 6),
    "SWALR linear": lambda m, o: _swa(m).SWALR(o, 0.05, 4, "linear"),
    "SWALR at once": lambda m, o: _swa(m).SWALR(o, 0.05, 0),
    "two": lambda m, o: (m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9))[1],
}


def _swa(schedulers: Any) -> Any:
    return optim.swa_utils if schedulers is optim.lr_scheduler else torch.optim.swa_utils


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name: str) -> None:
    ours, theirs = (
        _two_groups(optim, nn.Parameter(flamec.from_numpy(np.ones(1)))),
        _two_groups(torch.optim, torch.nn.Parameter(torch.ones(1))),
    )
    mine = SCHEDULES[name](optim.lr_scheduler, ours)
    wanted = SCHEDULES[name](torch.optim.lr_scheduler, theirs)
    for _ in range(15):
        for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert math.isclose(group["lr"], other["lr"], rel_tol=1e-12)
            assert math.isclose(group["betas"][0], other["betas"][0], rel_tol=1e-12)
        assert mine.get_last_lr() == [g["lr"] for g in ours.param_groups]
        mine.step()
        wanted.step()
    assert sorted(mine.state_dict()) == sorted(wanted.state_dict())
    if "own" in name:
        return
    for saved, target, package, groups in (
        (deepcopy(mine.state_dict()), wanted, torch.optim, theirs),  # it moves both ways
        (deepcopy(wanted.state_dict()), mine, optim, ours),
    ):
        again = SCHEDULES[name](package.lr_scheduler, groups)
        again.load_state_dict(saved)
        rates = target.get_last_lr()
        for group, rate in zip(groups.param_groups, rates, strict=True):
            group["lr"] = rate
        again.step()
        target_rates = again.get_last_lr()
        for group, rate in zip(groups.param_groups, rates, strict=True):
            group["lr"] = rate
        target.step()
        assert target_rates == pytest.approx(target.get_last_lr(), rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mode": "max", "factor": 0.5, "patience": 1, "threshold": 0.05, "min_lr": 0.01},
        {"threshold_mode": "abs", "threshold": 0.2, "patience": 0, "cooldown": 2},
        {"mode": "max", "threshold_mode": "abs", "patience": 1, "min_lr": [0.05, 0.1]},
    ],
)
def test_reduce_on_plateau(options: dict[str, Any]) -> None:
    ours, theirs = (
        _two_groups(optim, nn.Parameter(flamec.from_numpy(np.ones(1)))),
        _two_groups(torch.optim, torch.nn.Parameter(torch.ones(1))),
    )
    mine = optim.lr_scheduler.ReduceLROnPlateau(ours, **options)
    wanted = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    metrics = np.random.default_rng(1).uniform(0.5, 2.0, 60).round(2)
    for number, metric in enumerate(metrics):
        mine.step(flamec.tensor(metric) if number % 2 else metric)
        wanted.step(metric)
        assert mine.get_last_lr() == wanted.get_last_lr()
        if number == 30:
            saved, other = mine.state_dict(), wanted.state_dict()
            assert saved.keys() == other.keys()
            mine.load_state_dict(other)
            wanted.load_state_dict(saved)
    assert ours.param_groups[0]["lr"] < 0.1
    ours.add_param_group({"params": [nn.Parameter(flamec.ones(1))], "lr": 0.2})
    if isinstance(options.get("min_lr"), list):
        with pytest.raises(RuntimeError, match="3 parameter groups"):
            for _ in range(20):
                mine.step(-1.0)
    else:
        for _ in range(20):
            mine.step(-1.0 if mine.mode == "max" else 9.0)
        assert ours.param_groups[2]["lr"] < 0.2


BAD_SCHEDULES: list[Callable[[Any, Any], Any]] = [
    lambda m, o: m.ReduceLROnPlateau(o, factor=1.0),
    lambda m, o: m.ReduceLROnPlateau(o, mode="middle"),
    lambda m, o: m.ReduceLROnPlateau(o, threshold_mode="none"),
    lambda m, o: m.ReduceLROnPlateau(o, min_lr=[0.1]),
    lambda m, o: m.CyclicLR(o, 0.1, 0.2, mode="square"),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 0),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 0),
    lambda m, o: m.CosineAnnealingWarmRestarts(o, 3).step(-1),
    lambda m, o: m.ChainedScheduler([]),
    lambda m, o: _swa(m).SWALR(o, 0.1, anneal_epochs=-1),
    lambda m, o: _swa(m).SWALR(o, 0.1, anneal_strategy="up"),
]


@pytest.mark.parametrize("make", BAD_SCHEDULES)
def test_bad_arguments(make: Callable[[Any, Any], Any]) -> None:
    ours = _two_groups(optim, nn.Parameter(flamec.from_numpy(np.ones(1))))
    theirs = _two_groups(torch.optim, torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match=r".") as wanted:
        make(torch.optim.lr_scheduler, theirs)
    with pytest.raises(ValueError, match=r".") as found:
        make(optim.lr_scheduler, ours)
    assert str(found.value) == str(wanted.value)


def test_warm_restarts_within_an_epoch() -> None:
    found = []
    for package, parameter in (
        (optim, nn.Parameter(flamec.ones(1))),
        (torch.optim, torch.nn.Parameter(torch.ones(1))),
    ):
        optimizer = _two_groups(package, parameter)
        schedule = package.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2, 2)
        rates = []
        for place in (0.5, 1.75, 2.0, 3.3, 6.1, 13.9, 1.0):
            schedule.step(place)
            rates += schedule.get_last_lr()
        schedule.step()
        found.append(rates + schedule.get_last_lr())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


# averaged models ---------------------------------------------------------------------------

AVERAGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "swa": lambda m: {},
    "swa buffers": lambda m: {"use_buffers": True},
    "swa multi": lambda m: {"multi_avg_fn": m.get_swa_multi_avg_fn()},
    "ema": lambda m: {"avg_fn": m.get_ema_avg_fn(0.9)},
    "ema multi": lambda m: {"multi_avg_fn": m.get_ema_multi_avg_fn(0.8), "use_buffers": True},
}


class _Counting:
    def prepare(self, package: Any) -> None:
        self.layer = package.nn.Linear(3, 2)
        self.register_buffer("scale", package.ones(2))

    def forward(self, x: Any) -> Any:
        return self.layer(x) * self.scale


def _model(package: Any, weights: list[np.ndarray]) -> Any:
    class Model(_Counting, package.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prepare(package)

    model = Model()
    _set(model, package, weights)
    return model


def _set(model: Any, package: Any, weights: list[np.ndarray]) -> None:
    with package.no_grad():
        for parameter, array in zip([*model.parameters(), model.scale], weights, strict=True):
            parameter.copy_(package.tensor(array))


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", AVERAGES)
def test_averaged_model(name: str, mode: str) -> None:
    generator = np.random.default_rng(6)
    draws = [
        [generator.standard_normal(s).astype(np.float32) for s in ((2, 3), (2,), (2,))]
        for _ in range(6)
    ]
    ours, theirs = _model(flamec, draws[0]), _model(torch, draws[0])
    mine = optim.swa_utils.AveragedModel(ours, **AVERAGES[name](optim.swa_utils))
    wanted = torch.optim.swa_utils.AveragedModel(theirs, **AVERAGES[name](torch.optim.swa_utils))
    update = lambda: mine.update_parameters(ours)  # noqa: E731
    if mode == "compiled":
        update = flamec.compile(update)
    for weights in draws[1:]:
        _set(ours, flamec, weights)
        _set(theirs, torch, weights)
        update()
        wanted.update_parameters(theirs)
        assert list(mine.state_dict()) == list(wanted.state_dict())
        for key, value in wanted.state_dict().items():
            np.testing.assert_allclose(
                mine.state_dict()[key].numpy(), value.numpy(), rtol=2e-6, atol=1e-7
            )
    if mode == "compiled":
        assert update.stats.traces == 1
    x = generator.standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(
        mine(flamec.tensor(x)).detach().numpy(),
        wanted(torch.tensor(x)).detach().numpy(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_averages_refuse_bad_decay() -> None:
    with pytest.raises(ValueError, match="Invalid decay value"):
        optim.swa_utils.get_ema_avg_fn(1.5)
    with pytest.raises(AssertionError, match="Only one of"):
        optim.swa_utils.AveragedModel(
            nn.Linear(2, 2), avg_fn=lambda a, b, c: a, multi_avg_fn=lambda a, b, c: None
        )


def _two_groups(package: Any, parameter: Any) -> Any:
    other = type(parameter)(parameter.detach())
    return package.Adam([{"params": [parameter]}, {"params": [other], "lr": 0.3}], lr=0.1)
