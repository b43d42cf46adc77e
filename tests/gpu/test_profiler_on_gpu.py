"""Profiles of work on a GPU: every launch between two events, results as without a profile."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from profiled_training import same_with_profiles

import flamec
from flamec import nn, optim
from flamec.profiler import profile
from flamec.profiler.events import Event

pytestmark = pytest.mark.gpu


def training() -> tuple[Any, Any]:
    flamec.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 10)).to("cuda")
    optimizer = optim.AdamW(model.parameters(), lr=0.01)

    @flamec.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, model


def batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = flamec.from_numpy(rng.standard_normal((32, 64)).astype(np.float32))
    return x.to("cuda"), flamec.from_numpy(rng.integers(0, 10, 32)).to("cuda")


def on_device(events: list[Event]) -> list[Event]:
    return [e for e in events if e.device == "cuda:0"]


def test_results_are_the_same_and_every_step_is_timed() -> None:
    timed, prof = same_with_profiles(training, batch(), calls=5, profiled=(1, 3))
    plan = timed.programs[0].prepared.plan
    found = on_device(prof.events())
    assert {e.name for e in found} == {f"step/{s.name}" for s in plan.steps}
    assert all(e.duration > 0 for e in found)
    assert all(a.end <= b.start + 1000 for a, b in itertools.pairwise(found))
    launch = next(e for e in prof.events() if e.kind == "program")
    assert launch.name == "launch step" and launch.device == "cpu"
    moved = sum(s.bytes_read + s.bytes_written for s in plan.steps)
    assert sum(e.moved for e in found) == pytest.approx(moved, rel=0.01)


def test_eager_work_has_rows_of_its_own() -> None:
    x = flamec.ones(1000, 1000, device="cuda")
    flamec.softmax(x, 1)
    with profile() as prof:
        for _ in range(3):
            flamec.softmax(x, 1)
            x + x
    rows = prof.key_averages()
    assert sum(r.count for r in rows if r.device == "cuda:0") == 6
    table = rows.table(sort_by="self_cuda_time_total")
    assert "Self CUDA time total" in table


@pytest.mark.alone
def test_a_short_kernel_is_not_given_the_time_of_launching() -> None:
    @flamec.compile
    def chain(x: Any) -> Any:
        for _ in range(20):
            x = (x @ x).tanh()
        return x

    x = flamec.ones(16, 16, device="cuda")
    for _ in range(3):
        chain(x)
    with profile() as prof:
        chain(x)
    found = on_device(prof.events())
    launch = next(e for e in prof.events() if e.kind == "program")
    assert sum(e.duration for e in found) < launch.duration
