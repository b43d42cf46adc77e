"""Contenders that are timed inside fresh processes.

The program of each is Python source that prints the seconds it measured as its last line.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.harness import AbsentError, Contender

ROOT = Path(__file__).resolve().parent.parent


def seconds_of(program: str, environment: Mapping[str, str] | None = None) -> float:
    """Run a program in a new interpreter at the repository's root; the seconds it printed.

    Raises AbsentError if it needs a module that is not installed, RuntimeError if it fails.
    """
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        lines = finished.stderr.strip().splitlines()
        raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        last = (raised or lines or ["no message"])[-1]
        if last.startswith(("ModuleNotFoundError", "benchmarks.harness.AbsentError")):
            raise AbsentError(last.partition(": ")[2])
        raise RuntimeError(f"the process failed: {last}")
    return float(finished.stdout.strip().splitlines()[-1])


def fresh_process(
    name: str, program: str, environment: Callable[[], Mapping[str, str]] | None = None
) -> Contender:
    """A contender that runs ``program`` anew each time; ``environment()`` is asked each time."""

    def prepare() -> Callable[[], float]:
        return lambda: seconds_of(program, None if environment is None else environment())

    return Contender(name, prepare, self_timed=True)
