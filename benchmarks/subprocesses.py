"""Contenders that are timed inside fresh processes.

The program of each is Python source that prints the seconds it measured as its last line.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
        env={**_installed(), **(environment or {})},
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


def _installed() -> dict[str, str]:
    """The environment of an installed package: Python keeps the bytecode of what it imports."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def fresh_process(
    name: str, program: str, environment: Callable[[], Mapping[str, str]] | None = None
) -> Contender:
    """A contender that runs ``program`` anew each time; ``environment()`` is asked each time."""

    def prepare() -> Callable[[], float]:
        return lambda: seconds_of(program, None if environment is None else environment())

    return Contender(name, prepare, self_timed=True)


_folders: list[Path] = []


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="flamec-benchmark-"))
    _folders.append(folder)
    return folder


@atexit.register
def _remove_folders() -> None:
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


def caches(folder: Path) -> Mapping[str, str]:
    """Where each framework keeps what it compiled."""
    return {
        "FLAMEC_CACHE_DIR": str(folder / "flamec"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def cold(name: str, program: str) -> Contender:
    """A contender whose program starts with empty caches each time."""
    return fresh_process(name, program, lambda: caches(_new_folder()))


def warm(name: str, program: str) -> Contender:
    """A contender whose program finds what an earlier run of it compiled."""

    def prepare() -> Callable[[], float]:
        environment = caches(_new_folder())
        seconds_of(program, environment)
        return lambda: seconds_of(program, environment)

    return Contender(name, prepare, self_timed=True)
