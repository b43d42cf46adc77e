"""The benchmark harness reports what it could not measure, and compares results first."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import flamec

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def repository_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(ROOT))
    yield
    for name in [m for m in sys.modules if m.split(".")[0] == "benchmarks"]:
        del sys.modules[name]


def test_a_contender_that_is_absent_wrong_or_slow_is_reported() -> None:
    from benchmarks.harness import AbsentError, Contender, Effort, Step, Workload, measure

    def absent() -> Step:
        raise AbsentError("abacus is not installed")

    def slow() -> Step:
        time.sleep(1)
        return lambda: 1.0

    contenders = [
        Contender("right", lambda: lambda: (np.ones(3), 2.0)),
        Contender("also right", lambda: lambda: [np.ones(3, np.float32), 2]),
        Contender("wrong", lambda: lambda: (np.ones(3), 2.1)),
        Contender("other shape", lambda: lambda: (np.ones(4), 2.0)),
        Contender("not a number", lambda: lambda: (np.full(3, np.nan), 2.0)),
        Contender("absent", absent),
        Contender("slow", slow),
        Contender("broken", lambda: lambda: 1 / 0),
    ]
    effort = Effort(rounds=2, round_seconds=0.001, prepare_seconds=0.1)
    report = measure(Workload("test", "a test", contenders), effort)
    problems = {t.name: t.problem for t in report.timings if t.problem is not None}
    assert set(problems) == {c.name for c in contenders} - {"right", "also right"}
    assert "5" in str(problems["wrong"]) and problems["absent"] == "abacus is not installed"
    assert "not ready" in str(problems["slow"]) and "ZeroDivision" in str(problems["broken"])
    assert report.ratio("right", "also right") is not None
    assert report.ratio("right", "wrong") is None
    assert json.loads(json.dumps(report.to_json()))["contenders"][0]["steps_per_round"] > 1


def test_every_workload_has_flamec_and_a_unique_name() -> None:
    from benchmarks.run import chosen

    workloads = chosen([], None)
    names = [w.name for w in workloads]
    assert len(names) == len(set(names))
    for workload in workloads:
        assert any(c.name.startswith("flamec") for c in workload.contenders), workload.name


def test_the_seed_step_runs_and_eager_equals_compiled() -> None:
    command = [sys.executable, "-m", "benchmarks.run", "seed_step", "--only", "flamec"]
    printed = subprocess.run(
        [*command, "--rounds", "2"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "flamec eager" in printed and "flamec compiled" in printed and "another" not in printed


def test_training_steps_in_processes_of_their_own(tmp_path: Path) -> None:
    report = tmp_path / "steps.json"
    command = [sys.executable, "-m", "benchmarks.gpu.training_steps", "--device", "cpu", "--small"]
    command += ["--rows", "seed", "gpt2", "--only", "flamec", "flamec again", "--seconds", "60"]
    printed = subprocess.run(
        [*command, "--json", str(report)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.count("losses differ by 0e+00") == 4 and "PROBLEM" not in printed
    (seed, gpt2) = json.loads(report.read_text())
    assert (seed["row"], gpt2["row"]) == ("seed", "gpt2")
    for name in ("flamec", "flamec again"):
        losses = gpt2["contenders"][name]["losses"]
        assert len(losses) == 3 and losses[-1] < losses[0]


def test_a_contender_with_other_losses_is_reported() -> None:
    from benchmarks.gpu.training_steps import ROWS, _compare, _line

    found = {"flamec": {"losses": [2.0, 1.0, 0.5]}, "jax": {"losses": [2.0, 1.1, 0.5]}}
    for name in found:
        _compare(ROWS[0], found, name)
    assert "PROBLEM: other losses" in _line(ROWS[0], found, "jax")
    assert "PROBLEM" not in _line(ROWS[0], found, "flamec")
    found["jax"] = {"losses": [float("nan")] * 3}
    _compare(ROWS[0], found, "jax")
    assert "PROBLEM" in _line(ROWS[0], found, "jax")


def test_symbolic_programs_are_timed_beside_fixed_ones_and_serve_all_sizes() -> None:
    from benchmarks.symbolic_sizes import measured

    found = [*measured(lambda x: x * 2, (0,), [(2, 3), (4, 3)], 1, "evaluate")]
    assert [size for size, *_ in found] == [(2, 3), (4, 3)]
    assert all(fixed > 0 and symbolic > 0 for _, fixed, symbolic in found)
    with pytest.raises(AssertionError, match="3 traces"):
        [
            *measured(
                lambda x: x * len(range(x.shape[0])), (0,), [(2, 1), (3, 1), (4, 1)], 1, "evaluate"
            )
        ]


def test_eager_operations_agree_with_torch_before_they_are_timed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from benchmarks.gpu.eager_ops import OPERATIONS, main

    report = tmp_path / "ops.json"
    options = ["--device", "cpu", "--calls", "2", "--seconds", "300", "--json", str(report)]
    settings = [f.backends.cudnn.flags(enabled=True, allow_tf32=False) for f in (flamec, torch)]
    with settings[0], settings[1]:  # which the benchmark changes for its process
        assert main(options) == 0
    rows = json.loads(report.read_text())["rows"]
    assert [row["operation"] for row in rows] == list(OPERATIONS)
    assert all(row["flamec"] > 0 and row["torch"] > 0 for row in rows)


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """The library that counts bytes, and an empty cache."""
    sys.path.insert(0, str(ROOT))
    from benchmarks.memory import counting_library

    sys.path.remove(str(ROOT))
    folder = tmp_path_factory.mktemp("counting")
    yield counting_library(folder), folder / "cache"


@pytest.mark.parametrize("name", ["mlp", "gpt", "resnet", "encoder", "lstm"])
def test_predicted_memory_is_what_the_allocator_counts(
    name: str, counting: tuple[Path, Path]
) -> None:
    from benchmarks.memory import measure

    found = measure(name, "flamec 1", *counting, small=True, seconds=300)
    assert "problem" not in found, found
    assert abs(found["bytes"] - found["predicted"]) <= 0.05 * found["bytes"], found
