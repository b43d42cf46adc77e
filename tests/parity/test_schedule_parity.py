"""Learning-rate schedules give PyTorch's numbers, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    "two": lambda m, o: (m.ConstantLR(o, 0.1, 3), m.ExponentialLR(o, 0.9))[1],
}


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
    again = SCHEDULES[name](optim.lr_scheduler, ours)
    again.load_state_dict(mine.state_dict())
    assert again.last_epoch == mine.last_epoch


def _two_groups(package: Any, parameter: Any) -> Any:
    other = type(parameter)(parameter.detach())
    return package.Adam([{"params": [parameter]}, {"params": [other], "lr": 0.3}], lr=0.1)
