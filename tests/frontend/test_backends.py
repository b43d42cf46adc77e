"""Backends: no compiler, a failing compiler, the cache, the stages of a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import flamec
from flamec import prepared
from flamec.codegen.lower import graph as lowered_groups
from flamec.errors import CompileError
from flamec.ir.iteration_space import Incompatible
from flamec.ir.passes.manager import Pass

SCRIPT = """
import flamec
f = flamec.compile(lambda x: (x * 2).sum())
g = flamec.compile(lambda x: x + 1)
print(f(flamec.ones(3)).item(), g(flamec.ones(1)).item())
print(f.stats.kernels_compiled, f.stats.kernels_from_cache)
"""


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FLAMEC_") and k != "CC"}
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_without_a_compiler_everything_runs_after_one_warning(tmp_path: Path) -> None:
    done = run(SCRIPT, PATH=str(tmp_path), FLAMEC_CACHE_DIR=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "6.0 2.0"
    assert done.stderr.count("found no C compiler") == 1
    assert "ziglang" in done.stderr


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    first = run(SCRIPT, FLAMEC_CACHE_DIR=str(tmp_path / "cache"))
    second = run(SCRIPT, FLAMEC_CACHE_DIR=str(tmp_path / "cache"))
    assert first.stdout.splitlines()[1] == "1 0", first.stderr
    assert second.stdout.splitlines()[1] == "0 1", second.stderr


def test_a_second_process_imports_no_code_generator(tmp_path: Path) -> None:
    script = SCRIPT + (
        "import sys\n"
        "heavy = ('jinja2', 'networkx', 'flamec.codegen.compile_graph', 'subprocess')\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    run(script, FLAMEC_CACHE_DIR=str(tmp_path / "cache"))
    second = run(script, FLAMEC_CACHE_DIR=str(tmp_path / "cache"))
    assert "jinja2" not in second.stdout.splitlines()[-1]
    assert "compile_graph" not in second.stdout.splitlines()[-1]


def test_a_compiler_that_fails_is_a_clear_error_and_the_next_call_works(tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    f = flamec.compile(
        lambda x: x + 1, backend="c", c_compiler=str(broken), cache_folder=tmp_path / "cache"
    )
    with pytest.raises(CompileError, match=r"test_backends\.py:\d+"):
        f(flamec.ones(2))
    assert flamec.compile(lambda x: x + 1)(flamec.ones(1)).item() == 2.0
    broken.write_text('#!/bin/sh\nexec cc "$@"\n')
    assert f(flamec.ones(1)).item() == 2.0


def test_a_compiler_that_does_not_exist(tmp_path: Path) -> None:
    f = flamec.compile(lambda x: x + 1, c_compiler=str(tmp_path / "nothing"))
    with pytest.raises(CompileError, match="nothing"):
        f(flamec.ones(2))


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend must be"):
        flamec.compile(lambda x: x, backend="fortran")


def test_programs_show_their_stages() -> None:
    f = flamec.compile(lambda x: flamec.softmax(x, -1))
    f(flamec.ones(4, 8))
    stages = f.programs[0].stages
    assert list(stages) == ["traced", "optimized", "fused", "kernel", "plan", "source"]
    assert "amax" in stages["optimized"]
    assert "test_backends.py" in stages["traced"]
    assert "flamec_program" in stages["source"]
    assert "kernel_0" in stages["kernel"]
    assert "buffer 0" in stages["plan"]


@pytest.mark.parametrize("failure", [Incompatible("no loops fit"), LookupError("no such value")])
def test_a_failing_code_generator_names_operations_and_line(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise failure

    f = flamec.compile(lambda x: x * 2 + 1, backend="c", cache_folder=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(lowered_groups.GroupLowering, "lower", fail)
        with pytest.raises(CompileError, match=r"test_backends\.py:\d+.*cannot lower .*mul"):
            f(flamec.ones(3))
    assert f(flamec.ones(3)).tolist() == [3.0, 3.0, 3.0]


def test_a_failing_pass_is_named_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("broken")

    f = flamec.compile(lambda x: x * 2, backend="c", cache_folder=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "pipeline", lambda **_: (Pass("my_pass", fail),))
        with pytest.raises(CompileError, match=r"test_backends\.py:\d+.*pass my_pass failed"):
            f(flamec.ones(3))
    assert f(flamec.ones(3)).tolist() == [2.0, 2.0, 2.0]
