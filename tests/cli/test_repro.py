"""``flamec repro``, ``bisect`` and ``minify`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WRONG_PASS = '''
"""Makes the compiler of this process wrong: sin becomes -cos."""

import sys

sys.path.insert(0, {tests!r})

import broken_passes
import pytest

broken_passes.break_pass(pytest.MonkeyPatch(), "simplify", broken_passes.negate_sines)
'''
USER = """
import flamec


@flamec.compile(inputs=lambda: (flamec.ones(4, 3),))
def f(x):
    y = flamec.sin(x + 1.0)
    return y.exp().sum(1)
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "right.py").write_text(USER)
    tests = str(Path(__file__).parent.parent)
    (tmp_path / "wrong.py").write_text(WRONG_PASS.format(tests=tests) + USER)
    return tmp_path


def test_bisect_a_function_of_a_right_compiler(run: Any, user: Path) -> None:
    done = run("bisect", str(user / "right.py"))
    assert done.out.strip() == "no stage changes a result"


def test_bisect_a_function_of_a_module(run: Any, program: Path) -> None:
    done = run("bisect", "program:plain", "--input", "float32[2,3]")
    assert done.out.strip() == "no stage changes a result"


def test_bisect_names_the_pass_and_saves_what_minify_takes(run: Any, user: Path) -> None:
    saved = user / "saved.py"
    done = run("bisect", f"{user / 'wrong.py'}:f", "--save", str(saved), code=1)
    assert "the first stage that changes a result: simplify" in done.out
    assert "output 0" in done.out
    assert " = sin(" in done.out
    assert "wrong.py:18" in done.out
    assert "y = flamec.sin(x + 1.0)" in done.out
    assert run("repro", str(saved)).out.startswith("no result differs")  # by a whole compiler
    assert run("bisect", str(saved)).out.strip() == "no stage changes a result"
    assert "does not fail" in run("minify", str(saved), code=1).err


def test_a_failing_compiler_repro_and_minify(run: Any, user: Path) -> None:
    broken = user / "cc"
    broken.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n")
    broken.chmod(0o755)
    folder = user / "failures"
    done = run(
        "bench", f"{user / 'right.py'}:f", code=1,
        FLAMEC_CC=str(broken), FLAMEC_REPRODUCTION_DIR=str(folder),
    )  # fmt: skip
    assert "to see it again" in done.err
    (path,) = folder.glob("*.py")
    again = run("repro", str(path), code=1)
    assert "the same failure" in again.err
    assert "out of order" in again.err
    smaller = run("minify", str(path), "-o", str(user / "small.py"))
    assert "nodes: 4 -> 0" in smaller.out or "nodes: 5 -> 0" in smaller.out
    assert run("repro", str(user / "small.py"), code=1).err.count("out of order")


def test_files_that_are_none(run: Any, user: Path) -> None:
    assert "no reproduction" in run("repro", str(user / "right.py"), code=1).err
    assert "there is no file" in run("minify", str(user / "nothing.py"), code=2).err
    assert "no module" in run("bisect", "no.such.module:f", code=2).err
