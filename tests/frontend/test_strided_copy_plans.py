"""The program that copies between strided arrays is made once and kept for later processes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flamec import strided_copy
from flamec.codegen.triton import strided_copy as generator
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import Device
from flamec.runtime.kernel_cache import KernelCache


def test_a_second_process_makes_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []
    make = generator.strided_copy_plan

    def counted(*arguments: Any) -> ExecutionPlan:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(generator, "strided_copy_plan", counted)
    plans = []
    for _ in range(2):
        monkeypatch.setattr(strided_copy, "_programs", {})  # as in a process that begins
        runtime = SimpleNamespace(cache=KernelCache(tmp_path), load=lambda plan: plan)
        gpu: Any = SimpleNamespace(device=Device("cuda", 0), runtime=runtime)
        plans.append([strided_copy._program(gpu, *form) for form in ((1, 4), (2, 4), (1, 2))])
    assert len(made) == 3
    assert plans[0] == plans[1] and "jinja2" in sys.modules
