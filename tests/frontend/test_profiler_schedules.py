"""``flamec.profiler``: which steps are recorded, what is refused, where traces are written."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import flamec
from flamec import profiler
from flamec.profiler import ProfilerAction, ProfilerActivity, profile, record_function


def test_a_schedule_chooses_steps() -> None:
    saved: list[list[str]] = []

    def save(prof: profile) -> None:
        saved.append([e.name for e in prof.events()])

    with profile(
        schedule=profiler.schedule(wait=1, warmup=1, active=2, repeat=2, skip_first=1),
        on_trace_ready=save,
    ) as prof:
        for number in range(12):
            with record_function(f"step {number}"):
                pass
            prof.step()
    assert saved == [["step 3", "step 4"], ["step 7", "step 8"]]


def test_what_is_being_recorded_when_the_block_ends_is_handed_over() -> None:
    saved: list[int] = []
    plan = profiler.schedule(wait=0, warmup=0, active=5)
    with profile(schedule=plan, on_trace_ready=lambda p: saved.append(len(p.events()))) as prof:
        flamec.ones(2)
        prof.step()
        flamec.ones(2)
    assert saved == [2]


def test_schedules_are_those_of_pytorch() -> None:
    torch_profiler = pytest.importorskip("torch.profiler")
    for arguments in (
        {"wait": 1, "warmup": 2, "active": 3},
        {"wait": 0, "warmup": 0, "active": 1, "repeat": 2},
        {"wait": 2, "warmup": 1, "active": 2, "repeat": 1, "skip_first": 3},
    ):
        ours, theirs = profiler.schedule(**arguments), torch_profiler.schedule(**arguments)
        for step in range(30):
            assert ours(step).name == theirs(step).name


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="active=0 must be at least 1"):
        profiler.schedule(wait=0, warmup=0, active=0)
    with pytest.raises(ValueError, match="there is no step -1"):
        profiler.schedule(wait=0, warmup=0, active=1)(-1)
    prof = profile()
    with pytest.raises(RuntimeError, match="nothing was recorded"):
        prof.key_averages()
    with pytest.raises(RuntimeError, match="belongs into the profiled block"):
        prof.step()
    with profile() as outer:
        with pytest.raises(RuntimeError, match="another profile is being made"):
            profile().start()
        with pytest.raises(RuntimeError, match="not complete"):
            outer.events()
    no_activities: list[Any] = ["cpu"]
    with pytest.raises(TypeError, match=r"is no flamec\.profiler\.ProfilerActivity"):
        profile(activities=no_activities)


def test_activities() -> None:
    with profile(activities=[ProfilerActivity.CUDA]) as prof:
        flamec.ones(2) * 2
    assert prof.events() == []
    assert ProfilerAction.RECORD.value == 2


def test_a_folder_of_traces(tmp_path: Path) -> None:
    handler = profiler.tensorboard_trace_handler(tmp_path / "traces", "worker", use_gzip=True)
    with profile(on_trace_ready=handler):
        flamec.ones(2) * 2
    (file,) = (tmp_path / "traces").iterdir()
    assert file.name.startswith("worker.") and file.name.endswith(".pt.trace.json.gz")
    assert json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
