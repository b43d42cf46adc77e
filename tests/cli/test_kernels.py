"""``flamec kernels``: the list, and kernels as files that run by themselves."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_text import STEP

from flamec.cli.example_inputs import example_inputs
from flamec.cli.kernel_file import kernel_file
from flamec.cli.kernel_rows import programs
from flamec.cli.stages import inspect
from flamec.cli.target import load_target
from flamec.runtime.cuda.driver import unavailable_reason

PROGRAM = f"""
import flamec
from flamec import nn, optim

flamec.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))
optimizer = optim.SGD(model.parameters(), lr=0.1)


{STEP}

@flamec.compile(inputs=lambda: (flamec.ones(6, 9),))
def softmax(x):
    return flamec.softmax(x, 1)


@flamec.compile(inputs=lambda: (flamec.ones(7, 4), flamec.zeros(3, dtype=flamec.int64)))
def lookup(table, rows):
    return table[rows] * 2


@flamec.compile(inputs=lambda: (flamec.ones(30, 40), flamec.ones(40, 50)))
def product(a, b):
    return flamec.relu(a @ b - 10)


@flamec.compile(inputs=lambda: (flamec.ones(4, 4),))
def solved(a):
    return flamec.linalg.inv(a + flamec.eye(4)) + 1


@flamec.compile(inputs=lambda: (flamec.arange(12.0).view(3, 4), flamec.arange(20.0).view(4, 5)))
def staged(a, b):
    return flamec.cumsum(a @ b, 0).to(flamec.bfloat16)


def flamec_inputs():
    return flamec.randn(8, 12), flamec.randint(0, 5, (8,))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kernels") / "kernels_program.py"
    path.write_text(PROGRAM)
    return path


@pytest.fixture
def write(run: Any, file: Path) -> Callable[..., Path]:
    """Write a kernel of a function; the file."""

    def write(function: str, kernel: str, *more: str) -> Path:
        out = file.with_name(re.sub(r"\W", "_", f"{function}_{kernel}") + ".py")
        done = run("kernels", f"{file}:{function}", "--write", kernel, "--out", str(out), *more)
        assert f"wrote {kernel} to {out}" in done.out
        return out

    return write


def sums(path: Path, capsys: pytest.CaptureFixture[str]) -> list[float]:
    """Run a written kernel; the sum of each array that it wrote."""
    runpy.run_path(str(path), run_name="__main__")
    first, *rest = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\w+: [\d.]+ us, [\d.]+ GB/s, [\d.]+ GFLOP/s", first)
    found = [re.fullmatch(r"\w+: sum (\S+), crc32 [0-9a-f]{8}", line) for line in rest]
    return [float(m[1]) for m in found if m is not None]


def test_a_list_of_kernels(run: Any, file: Path) -> None:
    data = run("kernels", f"{file}:softmax", "--json").json["kernels"]
    (row,) = data["main"]
    assert (row["name"], row["kind"]) == ("kernel_0", "reduction")
    assert row["bytes"] == 2 * 6 * 9 * 4
    assert row["flops"] == 5 * 6 * 9
    assert row["lines"] == [
        f"{file}:{PROGRAM.splitlines().index('    return flamec.softmax(x, 1)') + 1}"
    ]
    text = run("kernels", f"{file}:step").out
    assert "kernels_program.py:13" in text and "Sequential.0" in text and "matmul" in text


def test_kernels_for_a_gpu_have_registers(run: Any, file: Path) -> None:
    pytest.importorskip("triton")
    data = run("kernels", f"{file}:softmax", "--target", "sm_90", "--json").json["kernels"]
    (row,) = data["main"]
    (launch,) = row["launches"]
    assert 0 < launch["registers"] <= 255 and launch["threads"] % 32 == 0
    assert row["bytes"] == 2 * 6 * 9 * 4


def test_a_written_kernel_gives_what_numpy_gives(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)  # as flamec/standalone.py says of its inputs
    a, b = rng.random(30 * 40).astype(np.float32), rng.random(40 * 50).astype(np.float32)
    expected = a.reshape(30, 40).astype(np.float64) @ b.reshape(40, 50)
    (total,) = sums(write("product", "kernel_0"), capsys)
    assert total == pytest.approx(np.maximum(expected - 10, 0).sum(), rel=1e-5)


def test_indices_of_a_written_kernel_are_valid(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    table, rows = rng.random(28).astype(np.float32), rng.integers(0, 7, 3)
    (total,) = sums(write("lookup", "kernel_0"), capsys)
    assert total == pytest.approx(2 * table.reshape(7, 4)[rows].sum(), rel=1e-6)


def test_a_kernel_with_symbolic_sizes(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write("softmax", "kernel_0", "--dynamic")
    assert "SIZES = {'s0': 6, 's1': 9}" in path.read_text()
    assert sums(path, capsys) == [pytest.approx(6, rel=1e-6)]  # each row sums to 1


def test_a_kernel_with_the_inputs_of_a_run(
    write: Callable[..., Path], run: Any, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last kernel is given what the one before it computed."""
    listed = run("kernels", f"{file}:staged", "--json").json["kernels"]["main"]
    assert len(listed) > 1
    path = write("staged", listed[-1]["name"], "--real-inputs")
    assert path.with_suffix(".npz").is_file()
    product = np.arange(12.0).reshape(3, 4) @ np.arange(20.0).reshape(4, 5)
    (total,) = sums(path, capsys)
    assert total == pytest.approx(np.cumsum(product, 0).sum(), rel=2**-8)
    first = sums(write("staged", listed[0]["name"], "--real-inputs"), capsys)
    assert first == [pytest.approx(product.sum())]


def test_every_kernel_of_a_training_step_can_be_written(file: Path, run: Any) -> None:
    """They all compile, run and give the same twice."""
    found = load_target(f"{file}:step")
    example = example_inputs(found, ())
    (program,) = programs(inspect(found, example, found.function.options), "c")
    steps = program.compiled.plan.steps
    assert len(steps) > 3
    for number, step in enumerate(steps):
        if step.kind == "copy" and number >= len(program.compiled.lowered):
            continue
        text = kernel_file(program, number, "step")
        results = []
        for _ in range(2):
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(text, step.name, "exec"), {"__name__": "__main__"})
            results.append(output.getvalue().splitlines()[1:])
        assert results[0] == results[1] and results[0], step.name


def test_the_file_runs_by_itself_and_can_be_changed(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write("lookup", "kernel_0")
    environment = {**os.environ, "FLAMEC_CACHE_DIR": str(tmp_path)}

    def output() -> str:
        done = subprocess.run(
            [sys.executable, str(path)], capture_output=True, text=True, env=environment, check=True
        )
        return done.stdout

    before = output()
    text = path.read_text()
    changed = text.replace("vsplat_f32(2.0f)", "vsplat_f32(4.0f)")
    assert changed != text
    path.write_text(changed)
    found = re.findall(r"sum (\S+),", before + output())
    assert float(found[1]) == pytest.approx(2 * float(found[0])) and len(found) == 2


def test_a_kernel_for_a_gpu(write: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("triton")
    path = write("softmax", "kernel_0", "--target", "sm_90")
    assert "@triton.jit" in path.read_text()
    if unavailable_reason() is None:
        assert sums(path, capsys) == [pytest.approx(6, rel=1e-6)]
        return
    runpy.run_path(str(path), run_name="__main__")
    compiled, why = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\w+: compiled for sm_90, \d+ registers, .*", compiled)
    assert why.startswith("not run: ")


def test_kernels_for_the_class_of_the_examples_sizes(
    run: Any, write: Callable[..., Path], file: Path
) -> None:
    """Over symbolic sizes on a GPU there is what runs for the example, and code for all sizes."""
    pytest.importorskip("triton")
    where = (f"{file}:softmax", "--target", "sm_90", "--dynamic", "--json")
    listed = run("kernels", *where).json["kernels"]
    assert [*listed] == ["s0 <= 8; s1 <= 16", "all sizes"]
    (own,), (general,) = listed.values()
    assert own["bytes"] == general["bytes"] == 2 * 6 * 9 * 4
    stages = run("dump", *where, "--stage", "triton").json["stages"]["triton"]
    assert [p["title"] for p in stages] == [f"triton ({words})" for words in listed]
    texts = [part["text"] for part in stages]
    assert [text.count("tl.load(") for text in texts] == [1, 3], "a row is in one block or in many"
    more = ("--target", "sm_90", "--dynamic")
    for kernel in ("kernel_0", "s0 <= 8; s1 <= 16/kernel_0"):
        written = write("softmax", kernel, *more).read_text()
        assert written.count("tl.load(") == 1 and "SIZES = {'s0': 6, 's1': 9}" in written
    assert write("softmax", "all sizes/kernel_0", *more).read_text().count("tl.load(") == 3


def test_what_cannot_be_written(run: Any, file: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "x.py")
    done = run("kernels", f"{file}:softmax", "--write", "kernel_9", "--out", out, code=1)
    assert "no kernel is called 'kernel_9'; there are kernel_0" in done.err
    done = run("kernels", f"{file}:softmax", "--write", "kernel_0", code=2)
    assert "belong together" in done.err
    listed = run("kernels", f"{file}:solved", "--json").json["kernels"]["main"]
    host = next(row["name"] for row in listed if row["kind"] == "host")
    done = run("kernels", f"{file}:solved", "--write", host, "--out", out, code=1)
    assert "is computed by the host" in done.err
