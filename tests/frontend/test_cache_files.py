"""The kernel cache as a file: another process compiles nothing, what does not fit is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from own_process import run_python
from training_text import STEP

from flamec.config import default_options
from flamec.deployment import cache_files
from flamec.deployment.cache_files import export_cache, import_cache
from flamec.runtime.kernel_cache import KernelCache
from flamec.saving.errors import FileFormatError

PROGRAM = f"""
import json, sys
import flamec
from flamec import nn
flamec.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 4))
optimizer = flamec.optim.Adam(model.parameters(), 0.01)
{STEP}x, y = flamec.randn(16, 20), flamec.arange(16) % 4
print(json.dumps([step.stats.kernels_compiled, *(step(x, y).item() for _ in range(3)),
    step.stats.kernels_compiled, "jinja2" in sys.modules]))
"""


def _output(folder: Path, program: str) -> str:
    done = run_python("-c", program, cache=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(folder: Path) -> list[Any]:
    return json.loads(_output(folder, PROGRAM))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A cache in which the program is, and what the program printed."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, _run(folder)


@pytest.fixture
def file(filled: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    path = tmp_path / "kernels"
    assert export_cache(KernelCache(filled[0]), path) >= 3  # a plan, its library, the threads
    return path


def test_a_program_moves_without_a_compilation(
    filled: tuple[Path, list[Any]], file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    options = default_options(cache_folder=folder)
    imported = import_cache(file, KernelCache(folder), options)
    assert imported.taken >= 3 and not imported.left_out
    assert filled[1][4] > 0
    moved = _run(folder)
    assert moved[4:] == [0, False]
    assert moved[:4] == filled[1][:4]
    assert import_cache(file, KernelCache(folder), options).taken == 0


def test_names_follow_the_compiler(file: Path, tmp_path: Path) -> None:
    """Another machine's compiler has another file time, which must not matter."""
    folder = tmp_path / "other"
    options = default_options(cache_folder=folder)
    from dataclasses import replace

    from flamec import cpu_backend

    cpu = cpu_backend.device(options)
    cpu.compiler = replace(cpu.compiler, identity="another")
    imported = import_cache(file, KernelCache(folder), options)
    assert imported.taken >= 3
    original = {e.key for e in KernelCache(file.parent).entries()}
    assert not {e.key for e in KernelCache(folder).entries() if e.kind == "so"} & original


def test_what_does_not_fit_is_left_out(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "other"
    options = default_options(cache_folder=folder)
    monkeypatch.setattr(cache_files, "processor_features", lambda: "of another processor")
    imported = import_cache(file, KernelCache(folder), options)
    assert imported.left_out >= 3 and imported.reason == "this processor has other features"
    assert not [e for e in KernelCache(folder).entries() if e.kind == "so"]


def test_an_altered_file_is_refused_whole(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    folder = tmp_path / "other"
    with pytest.raises(FileFormatError, match="altered"):
        import_cache(file, KernelCache(folder), default_options(cache_folder=folder))
    assert not KernelCache(folder).entries()


def test_a_program_file_is_no_cache(tmp_path: Path) -> None:
    import numpy as np

    import flamec

    flamec.export(lambda x: x + 1, (np.ones(3, np.float32),), tmp_path / "program")
    with pytest.raises(FileFormatError, match="is a flamec program"):
        import_cache(tmp_path / "program", KernelCache(tmp_path / "c"), default_options())


LINES = """
import sys
sys.path.insert(0, {folder!r})
import {module}
plan = {module}.f.programs[0].prepared.plan
stats = {module}.f.stats
print(stats.kernels_from_cache, *(line for step in plan.steps for line in step.locations))
print(*(module for step in plan.steps for module in step.modules))
"""


def test_a_plan_from_the_cache_names_the_lines_of_the_program_at_hand(tmp_path: Path) -> None:
    """Not those of an equal program in another file, which made it."""
    body = "import flamec\n{before}f = flamec.compile({name}(4, 3))\nf(flamec.ones(2, 4))\n"
    layer = (
        "class {name}(flamec.nn.Linear):\n"
        "    def forward(self, x):\n        return x @ self.weight.T\n"
    )
    found = []
    for module, before, name in (("first", "", "One"), ("second", "\n\n", "Other")):
        text = body.format(before=before + layer.format(name=name), name=name)
        (tmp_path / f"{module}.py").write_text(text)
        program = LINES.format(folder=str(tmp_path), module=module)
        found.append(_output(tmp_path / "cache", program).splitlines())
    (first, modules), (second, other_modules) = found
    assert first == f"0 {tmp_path / 'first.py'}:4"
    assert second == f"1 {tmp_path / 'second.py'}:6"
    assert (modules, other_modules) == ("One", "Other")


def test_folders_may_be_given_as_text(tmp_path: Path) -> None:
    options = default_options(
        cache_folder=str(tmp_path / "cache"), reproduction_folder=str(tmp_path / "failures")
    )
    assert options.cache_folder == tmp_path / "cache"
    assert options.reproduction_folder == tmp_path / "failures"
    assert default_options(cache_folder=str(tmp_path)).reproduction_folder == (
        tmp_path / "reproductions"
    )
