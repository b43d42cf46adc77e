"""Schedules measured on a GPU: the timer, the database, and what later processes do with it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_kernels import action_plan, affine

from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import Argument, Buffer, ExecutionPlan, Launch
from flamec.ir.types import float32
from flamec.runtime.cuda.device import CudaDevice
from flamec.runtime.cuda.timing import PlanTimer, TimedPlan
from flamec.runtime.tuning_db import TuningDatabase

pytestmark = pytest.mark.gpu
ELEMENTS = 1 << 24


def affine_plan(block: int, text: str = "") -> ExecutionPlan:
    """out = x * 3 + 1 with blocks of this size; ``text`` replaces the kernel's."""
    source = affine(block)
    numbers = (Argument(value=ELEMENTS), Argument(value=3.0), Argument(value=1.0))
    grid = (-(-ELEMENTS // block), 1, 1)
    return action_plan(
        [Buffer(name, "input", float32, ELEMENTS) for name in ("x", "out")],
        [Launch(0, grid, (Argument(0), Argument(1), *numbers))],
        [replace(source, text=text or source.text)],
    )


@pytest.mark.alone
def test_the_timer(device: CudaDevice) -> None:
    """Small blocks are slower, what cannot be compiled takes forever."""
    timer = PlanTimer(device, plan_memory)
    broken = affine(1024).text.replace("* scale", "* missing")
    plans = [affine_plan(1024), affine_plan(16), affine_plan(1024, broken)]
    groups = [[TimedPlan(plan, (), 1) for plan in plans]]
    timer.compile(groups)
    ((usual, slow, never),) = timer.time(groups)
    assert 0 < usual < slow < 1
    assert math.isinf(never)


def run(cache: Path, mode: str) -> dict[str, Any]:
    """What ``tuned_program.py`` says in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tuned_program.py"))],
        env={**os.environ, "FLAMEC_CACHE_DIR": str(cache), "FLAMEC_AUTOTUNE": mode},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["untouched"] and max(facts["errors"]) < 1e-5, facts
    return facts


@pytest.mark.alone
def test_a_product_and_a_sum_are_tuned(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    tuned = run(here, "fast")
    records = TuningDatabase(here).records()
    for record in records:
        print(record)
    measured = [r for r in records if r.seconds is not None]
    assert {r.schedule["form"] for r in measured} == {"product", "rows"}
    for record in measured:
        assert record.heuristic_seconds is None or record.seconds <= record.heuristic_seconds
        assert 2 <= record.tried <= 8
    assert tuned["compiled"] + tuned["from_cache"] > 0
    for mode in ("off", "fast"):
        again = run(here, mode)
        assert again["compiled"] == 0 and again["imported"] == []
        assert again["digest"] == tuned["digest"]
    TuningDatabase(here).export_to(tmp_path / "tuning.json")
    TuningDatabase(there).import_from(tmp_path / "tuning.json")
    elsewhere = run(there, "off")
    assert elsewhere["compiled"] > 0
    assert elsewhere["digest"] == tuned["digest"]
    assert TuningDatabase(there).records() == records
