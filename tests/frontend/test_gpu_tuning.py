"""Schedules of GPU programs from the tuning database, and what a second process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from compiling_gpu import graph, new_process, no_timer, plan_hash, prepare

from flamec import cuda_backend
from flamec.config import default_options
from flamec.errors import CompileError
from flamec.ir.graph import Location
from flamec.ir.plan import ExecutionPlan
from flamec.prepared import Prepared
from flamec.runtime.cuda.device import KernelError
from flamec.runtime.tuning_db import TuningDatabase, TuningWarning

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


def last_wins(position: int, count: int) -> float:
    return 1e-6 * (2 * count - position)


def no_lowering(self: Prepared) -> None:
    raise AssertionError("a program was generated")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A cache after a tuned program, and the hashes of the usual and of the tuned plan."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        options, _ = new_process(patch, folder)
        usual = plan_hash(prepare(options))
        options, timer = new_process(patch, folder, last_wins)
        fast = prepare(replace(options, autotune="fast"))
        assert fast.kernels_compiled > 0
        assert timer.tried > 4
    return folder, usual, plan_hash(fast)


def test_tuned_schedules_are_recorded_and_used(tuned: tuple[Path, str, str]) -> None:
    folder, usual, fast = tuned
    assert usual != fast
    records = TuningDatabase(folder).records()
    assert len(records) == 2
    assert {r.key.bucket for r in records} == {"1x512x768x256", "4096x512"}
    assert {r.key.device for r in records} == {"Simulated GPU sm_90"}
    for record in records:
        assert record.mode == "fast" and record.seconds is not None
        assert record.heuristic_seconds is not None
        assert record.seconds < record.heuristic_seconds and 2 <= record.tried <= 8


@pytest.mark.parametrize("mode", ["off", "fast"])
def test_a_second_process_generates_compiles_and_times_nothing(
    tuned: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    folder, _, fast = tuned
    options, _ = new_process(monkeypatch, folder)
    monkeypatch.setattr(Prepared, "lowered", property(no_lowering))
    again = prepare(replace(options, autotune=mode))
    assert plan_hash(again) == fast
    assert (again.kernels_compiled, again.kernels_from_cache) == (0, len(again.plan.kernels))  # type: ignore[union-attr]


def test_the_database_alone_gives_the_same_plan_elsewhere(
    tuned: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, usual, fast = tuned
    TuningDatabase(folder).export_to(tmp_path / "tuning.json")
    options, _ = new_process(monkeypatch, tmp_path / "there")
    there = TuningDatabase(tmp_path / "there")
    assert plan_hash(prepare(options)) == usual
    there.import_from(tmp_path / "tuning.json")
    assert plan_hash(prepare(options)) == fast
    there.clear()
    monkeypatch.setattr(Prepared, "lowered", property(no_lowering))
    assert plan_hash(prepare(options)) == usual  # still in the cache
    there.import_from(tmp_path / "tuning.json")
    assert plan_hash(prepare(options)) == fast


def test_a_longer_search_replaces_a_short_one(
    tuned: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options, _ = new_process(monkeypatch, tmp_path)
    database = TuningDatabase(tmp_path)
    TuningDatabase(tuned[0]).export_to(tmp_path / "exported.json")
    database.import_from(tmp_path / "exported.json")
    _, timer = new_process(monkeypatch, tmp_path, last_wins)
    longest = plan_hash(prepare(replace(options, autotune="max")))
    assert timer.tried > 16
    assert longest != tuned[2]
    assert {r.mode for r in database.records()} == {"max"}
    new_process(monkeypatch, tmp_path, no_timer)
    for mode in ("off", "fast", "max"):
        assert plan_hash(prepare(replace(options, autotune=mode))) == longest


def test_a_damaged_database_is_reported_and_the_rules_of_thumb_hold(
    tuned: tuple[Path, str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options, _ = new_process(monkeypatch, tmp_path)
    path = TuningDatabase(tmp_path).path
    path.parent.mkdir(mode=0o700)
    path.write_text("{")
    with pytest.warns(TuningWarning, match="is damaged"):
        assert plan_hash(prepare(options)) == tuned[1]


def test_a_program_tuned_by_eight_processes_has_one_plan(tmp_path: Path) -> None:
    """They measure different times, and agree on what was recorded first."""
    program = (
        "import sys, pytest\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from compiling_gpu import new_process, prepare, plan_hash, CompilingGpu\n"
        "from types import SimpleNamespace\n"
        "CompilingGpu.load = lambda self, plan, progress=None, label='': SimpleNamespace(\n"
        "    plan=plan, kernels_compiled=0)\n"
        "number = int(sys.argv[2])\n"
        "def seconds(position, count):\n"
        "    return 1e-6 * (1 + (position - number) % count)\n"
        "options, _ = new_process(pytest.MonkeyPatch(), Path(sys.argv[1]), seconds)\n"
        "prepare(replace(options, autotune='fast'))\n"
        "print(plan_hash(prepare(options)))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for number in range(8)
    ]
    plans = set()
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        plans.add(out)
    assert len(plans) == 1


def environment() -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(TESTS), *sys.path) if p and p != str(TESTS.parent))
    return {**os.environ, "PYTHONPATH": path}


def test_a_second_process_imports_neither_triton_nor_templates(tmp_path: Path) -> None:
    answers = []
    for _ in range(2):
        command = [sys.executable, str(TESTS / "compiling_gpu.py"), str(tmp_path), "off"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment()
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    first, second = answers
    assert first["compiled"] > 0 and first["from_cache"] == 0
    assert "jinja2" in first["imported"]
    assert (second["compiled"], second["from_cache"]) == (0, first["compiled"])
    assert second["plan"] == first["plan"]
    assert second["imported"] == []


def test_errors_name_the_kernel_and_the_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options, _ = new_process(monkeypatch, tmp_path)
    traced = graph()
    for number, node in enumerate(traced.nodes):
        object.__setattr__(node, "location", Location("model.py", 10 + number, "forward"))

    def fail(plan: ExecutionPlan, progress: object, label: str) -> None:
        raise KernelError(len(plan.kernels) - 1, RuntimeError("no more registers"))

    monkeypatch.setattr(cuda_backend.device(0, options), "load", fail)
    with pytest.raises(CompileError) as caught:
        cuda_backend.prepare(traced, (), options)
    text = str(caught.value)
    assert "mul, sum" in text and "no more registers" in text and "model.py:1" in text


def test_modes_are_checked() -> None:
    with pytest.raises(ValueError, match="autotune must be 'off', 'fast' or 'max', not 'on'"):
        default_options(autotune="on")
