"""The other commands: what they print, their JSON, their exit codes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
import typer
from typer.models import OptionInfo
from typer.testing import CliRunner

import flamec
from flamec.cli.main import _COMMANDS, app
from flamec.ir.op import REGISTRY
from flamec.runtime.tuning_db import TuningKey, TuningRecord, dump_records

ESCAPE = "\x1b["
COMMANDS = (
    *("demo", "dump", "explain", "kernels", "bench", "doctor", "ops"),
    *("repro", "bisect", "minify", "cache", "tune"),
)


def test_help_lists_every_command(run) -> None:
    out = run("--help").out
    assert all(name in out for name in COMMANDS)


def _help(command: str) -> str:
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, [command, "--help"]).output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert f"Usage: flamec {command}" in _help(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_options_with_a_word_for_their_value_say_their_name(command: str) -> None:
    """Typer 0.27 calls an option by that word where no name is given: ``--DEVICE``."""
    file, attribute = _COMMANDS[command]
    found = getattr(importlib.import_module(f"flamec.cli.{file}"), attribute)
    callbacks = [found]
    if isinstance(found, typer.Typer):
        callbacks = [c.callback for c in found.registered_commands]
    for callback in callbacks:
        for name, hint in get_type_hints(callback, include_extras=True).items():
            for option in getattr(hint, "__metadata__", ()):
                if isinstance(option, OptionInfo) and option.metavar:
                    first = option.default  # where Option has its names within Annotated
                    assert str(first).startswith("--"), (command, name)


def test_help_is_wrapped_by_paragraph() -> None:
    words = [line.strip() for line in _help("dump").splitlines()]
    assert "function flamec_inputs() in the file. Nothing is run but the trace, unless" in words


def test_version(run) -> None:
    assert run("--version").out.startswith("flamec ")


def test_a_command_imports_its_own_files_only() -> None:
    names = "sorted(name for name in sys.modules if name.startswith('flamec.cli.'))"
    for arguments, own in (("--version", []), ("cache -h", ["flamec.cli.cache"])):
        code = f"""
import sys
from flamec.cli.main import main
try:
    main({arguments.split()})
except SystemExit:
    print({names}, file=sys.stderr)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        shared = {"flamec.cli.console", "flamec.cli.failure", "flamec.cli.main"}
        assert sorted({*eval(done.stderr)} - shared) == own


@pytest.mark.parametrize("arguments", [("dunp",), ("ops", "--nothing"), ("cache", "empty")])
def test_unknown_commands_and_options_end_with_2(run, arguments) -> None:
    assert run(*arguments, code=2).err


def test_completion_script_and_values(run) -> None:
    """The shell asks the program itself for candidates, through variables of typer."""
    done = run(
        _FLAMEC_COMPLETE="complete_bash", COMP_WORDS="flamec dump f.py:g --stage op", COMP_CWORD="4"
    )
    assert "optimized" in done.out


def test_the_reader_of_a_pipe_may_leave(program: Path, cache_folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m flamec.cli.main ops | head -n 1"],
        env={**os.environ, "FLAMEC_CACHE_DIR": str(cache_folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("op ")
    assert not done.stderr


# ops ---------------------------------------------------------------------------------
def test_ops_lists_every_primitive(run) -> None:
    data = run("ops", "--json").json
    assert {row["name"] for row in data["ops"]} == set(REGISTRY)
    assert sum(map(len, data["functions"].values())) > 150
    text = run("ops").out
    assert ESCAPE not in text
    assert all(name in text for name in REGISTRY)


def test_ops_tell_what_back_ends_have(run) -> None:
    rows = {row["name"]: row for row in run("ops", "--json").json["ops"]}
    lacking = {name for name, row in rows.items() if not (row["c"] and row["triton"])}
    assert lacking == {"while_transpose"}  # evaluated, never compiled
    known = {"exp": ("text", "text"), "reshape": ("free", "free"), "cond": ("kind", "kind")}
    known |= {"attention": ("kind", "kind"), "sort": ("host", "kind"), "svd": ("host", "host")}
    assert {name: (rows[name]["c"], rows[name]["triton"]) for name in known} == known


def test_ops_of_one_kind(run) -> None:
    rows = run("ops", "--kind", "reduction", "--json").json["ops"]
    assert {row["kind"] for row in rows} == {"reduction"}
    assert "reduction" in run("ops", "--kind", "nothing", code=2, COLUMNS="200").err


# doctor ------------------------------------------------------------------------------
def test_doctor_is_content_here(run) -> None:
    data = run("doctor", "--json").json
    status = {f["name"]: f["status"] for f in data["findings"]}
    assert data["ok"]
    assert status["compiled function"] == "ok"
    assert ESCAPE not in run("doctor").out


def test_doctor_without_a_compiler_says_what_to_install(run, tmp_path: Path) -> None:
    done = run("doctor", "--json", FLAMEC_CC="no-such-compiler")
    findings = {f["name"]: f for f in done.json["findings"]}
    assert findings["C compiler"]["status"] == "warning"
    assert "ziglang" in findings["C compiler"]["advice"]
    assert findings["compiled function"]["status"] == "ok"


def test_doctor_notices_a_compiler_that_does_not_work(run, tmp_path: Path) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    data = run("doctor", "--json", code=1, FLAMEC_CC=str(broken)).json
    assert not data["ok"]


def test_doctor_notices_a_cache_that_others_can_write(run, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    findings = run("doctor", "--json", FLAMEC_CACHE_DIR=str(folder)).json["findings"]
    (cache,) = [f for f in findings if f["name"] == "cache"]
    assert cache["status"] == "warning"
    assert "FLAMEC_CACHE_DIR" in cache["advice"]


# cache -------------------------------------------------------------------------------
def test_the_cache_can_be_found_listed_and_emptied(run, tmp_path: Path) -> None:
    folder = tmp_path / "kernels"
    variables = {"FLAMEC_CACHE_DIR": str(folder)}
    assert run("cache", "path", **variables).out.strip() == str(folder)
    assert "is empty" in run("cache", "ls", **variables).out
    assert not folder.exists()
    run("explain", "program.py:decorated", **variables)
    listed = run("cache", "ls", "--json", **variables).json
    assert listed["entries"]
    assert listed["bytes"] == sum(e["size"] for e in listed["entries"])
    assert listed["entries"][0]["key"][:16] in run("cache", "ls", **variables).out
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "freed" in run("cache", "clear", **variables).out
    assert run("cache", "ls", "--json", **variables).json["entries"] == []


# tune --------------------------------------------------------------------------------
def tuning_file(path: Path) -> Path:
    """An exported database with one record."""
    key = TuningKey("ab12" * 16, "1024x512", "f32", "NVIDIA H200 sm_90", "3.6.0", "cd34")
    record = TuningRecord(key, {"form": "rows", "warps": 8}, 2e-6, 3e-6, 7, "fast", "mul, sum")
    path.write_bytes(dump_records([record]))
    return path


def test_schedules_can_be_carried_from_cache_to_cache(run, tmp_path: Path) -> None:
    given, again = tuning_file(tmp_path / "given.json"), tmp_path / "again.json"
    here = {"FLAMEC_CACHE_DIR": str(tmp_path / "here")}
    assert "is empty" in run("tune", "ls", **here).out
    assert not (tmp_path / "here").exists()
    assert "1 of 1 schedules added" in run("tune", "import", str(given), **here).out
    assert run("tune", "import", str(given), "--json", **here).json["added"] == 0
    listed = run("tune", "ls", **here).out
    assert all(text in listed for text in ("ab12ab12", "mul, sum", "1.50x", "fast: form=rows"))
    (record,) = run("tune", "ls", "--json", **here).json["records"]
    assert record["key"]["device"] == "NVIDIA H200 sm_90"
    assert "1 schedules written" in run("tune", "export", str(again), **here).out
    assert again.read_bytes() == given.read_bytes()
    assert "freed" in run("cache", "clear", **here).out  # kernels alone
    assert "1 schedules removed" in run("tune", "clear", **here).out
    assert run("tune", "ls", "--json", **here).json["records"] == []
    for folder in (tmp_path / "here", tmp_path / "here" / "tuning"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_files_that_are_no_tuning_database_are_refused(run, tmp_path: Path) -> None:
    here = {"FLAMEC_CACHE_DIR": str(tmp_path / "here")}
    altered = tuning_file(tmp_path / "altered.json")
    altered.write_text(altered.read_text().replace("1024x512", "1024x513"))
    assert "checksum" in run("tune", "import", str(altered), code=1, **here).err
    assert "not JSON" in run("tune", "import", __file__, code=1, **here).err
    assert run("tune", "import", str(tmp_path / "none.json"), code=2, **here).err


# explain -----------------------------------------------------------------------------
def test_explain_shows_that_a_third_batch_size_compiles_nothing(run) -> None:
    data = run("explain", "program.py:step", "--json").json
    outcomes = [call["outcome"] for call in data["calls"]]
    assert outcomes == [
        "traced and compiled",
        "traced and compiled",
        "ran a program that was there",
    ]
    assert "shape" in data["calls"][1]["reasons"][0]
    assert data["stats"]["traces"] == 2
    first, second = data["programs"]
    assert first["symbols"] == []
    assert second["symbols"] == ["s0"]
    assert any("args[0].dtype is flamec.float32" in guard for guard in first["guards"])
    assert {i["from"] for i in first["inputs"]} >= {"argument", "captured tensor", "Python number"}
    assert first["kernels"]["main"]


def test_explain_in_words(run) -> None:
    out = run("explain", "program.py:step").out
    for part in ("== calls ==", "guards:", "kernels:", "not fused:", "loss.backward()"):
        assert part in out
    assert ESCAPE not in out


def test_explain_uses_the_calls_of_the_file(run, program: Path) -> None:
    program.with_name("calls.py").write_text(
        "import flamec\n"
        "def f(x, flag):\n    return x * 2 if flag else x * 3\n"
        "def flamec_inputs():\n    return flamec.ones(3), True\n"
        "def flamec_calls():\n"
        "    yield flamec.ones(3), True\n"
        "    yield flamec.ones(3), False\n"
        "    yield flamec.ones(3, 3), 'neither'\n"
    )
    calls = run("explain", "calls.py:f", "--json").json["calls"]
    outcomes = [call["outcome"].split()[0] for call in calls]
    assert outcomes == ["traced", "ran", "traced", "traced"]
    assert "True" in calls[2]["reasons"][0]


def test_explain_of_a_function_that_fails_ends_with_1(run) -> None:
    done = run("explain", "program.py:hopeless", "-i", "float32[3]", code=1)
    assert "value of a tensor" in done.err


# bench -------------------------------------------------------------------------------
def test_bench_measures_time_compilation_and_memory(run) -> None:
    data = run("bench", "program.py:step", "--seconds", "0.05", "--json").json
    assert set(data["timings"]) == {"eager", "compiled"}
    for timing in data["timings"].values():
        assert timing["samples"] >= 5
        assert 0 < timing["fastest"] <= timing["median"]
        assert timing["low"] <= timing["median"] <= timing["high"]
    assert data["speedup"] > 0
    assert data["cost"]["kernels"] >= 1
    assert data["compile"]["cold"]["kernels_compiled"] == data["cost"]["kernels"]
    assert data["compile"]["warm"]["kernels_compiled"] == 0
    assert data["compile"]["warm"]["kernels_from_cache"] == data["cost"]["kernels"]
    assert data["peak_bytes"]["eager"] > 0


def test_bench_prints_a_table(run) -> None:
    out = run("bench", "program.py:plain", "--seconds", "0.05", "--no-compile-time").out
    assert ESCAPE not in out
    for part in ("eager", "compiled", "median", "spread", "peak memory"):
        assert part in out


def test_bench_runs_a_torch_twin_where_torch_is_installed(run, program: Path) -> None:
    program.with_name("twin.py").write_text(
        "def f(x):\n    return x * x\n\ndef torch_f(x):\n    return x * x\n"
    )
    arguments = ("twin.py:f", "-i", "float32[8]", "--seconds", "0.05", "--no-compile-time")
    data = run("bench", *arguments, "--json").json
    if importlib.util.find_spec("torch") is None:
        assert data["torch"] == "torch is not installed"
    else:
        assert "torch" in data["timings"]


# demo --------------------------------------------------------------------------------
def test_demo_learns_and_compares(run) -> None:
    pytest.importorskip("sklearn")
    data = run("demo", "--epochs", "12", "--json").json
    assert min(data["accuracy"].values()) >= 0.97
    assert data["speedup"] > 0
    assert abs(data["loss"]["eager"] - data["loss"]["compiled"]) < 0.01
    assert data["cost"]["kernels"] >= 1
    assert data["compile"]["warm"]["kernels_compiled"] == 0
    assert data["device"] in ("cpu", "cuda")


def test_demo_says_where_it_trains(run) -> None:
    pytest.importorskip("sklearn")
    done = run("demo", "--epochs", "1", "--device", "cpu", code=1)
    assert "Training on the CPU." in done.out
    assert "device" in done.out and done.out.count("CPU") >= 3
    assert "of the test images were recognised, less than 97%" in done.err


def test_demo_without_a_gpu_says_so(run) -> None:
    pytest.importorskip("sklearn")
    if flamec.cuda.is_available():
        pytest.skip("there is a GPU")
    assert "there is no GPU to train on" in run("demo", "--device", "cuda", code=1).err


def test_demo_without_scikit_learn_says_how_to_get_it(run, tmp_path: Path) -> None:
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')\n"
    )
    done = run("demo", code=1, PYTHONPATH=str(tmp_path))
    assert "pip install 'flamec[demo]'" in done.err


def test_the_cache_goes_to_a_file_and_back(run, tmp_path: Path) -> None:
    here = {"FLAMEC_CACHE_DIR": str(tmp_path / "here")}
    assert "is empty" in run("cache", "export", "kernels", code=1, **here).err
    run("explain", "program.py:decorated", **here)
    file = tmp_path / "kernels"
    assert run("cache", "export", str(file), **here).out.startswith("wrote ")
    assert "took 0 entries" in run("cache", "import", str(file), **here).out  # they are there
    nowhere = {"FLAMEC_CACHE_DIR": str(file / "cache")}
    assert "cannot be written" in run("cache", "import", str(file), code=1, **nowhere).err
    file.write_bytes(file.read_bytes()[:-900])
    assert "no whole cache" in run("cache", "import", str(file), code=1, **here).err


@pytest.mark.parametrize(
    "arguments",
    [
        ("dump", "--html", "."),
        ("kernels", "--write", "kernel_0", "--real-inputs", "--out", "nowhere/kernel.py"),
        ("bisect", "--tolerance", "0", "--save", "nowhere/repro.py"),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_a_file_that_cannot_be_written(run, arguments: tuple[str, ...]) -> None:
    command, *options = arguments
    done = run(command, "program.py:step", *options, code=1)
    assert "cannot be written: " in done.err and "Traceback" not in done.err


@pytest.mark.parametrize("name", ["sm_10", "sm_91", "90", "h100", "sm_"])
def test_a_gpu_that_is_not_known(name: str) -> None:
    for command in ("dump", "kernels"):
        done = CliRunner().invoke(app, [command, "program.py:step", "--target", name])
        assert done.exit_code == 2 and "sm_80, sm_86" in done.output


def test_settings_that_are_none(run) -> None:
    done = run("cache", "ls", code=1, FLAMEC_CACHE_SIZE="much")
    assert done.err.startswith("flamec: the environment") and "FLAMEC_CACHE_SIZE" in done.err
    assert "0 or more" in run("bisect", "program.py:step", "--tolerance", "nan", code=2).err
