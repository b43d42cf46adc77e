"""Cold and warm compile time, each measured in a process of its own.

``measure_compile`` starts this module as a program; it prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from flamec.cli.example_inputs import example_inputs
from flamec.cli.failure import CommandFailed
from flamec.cli.target import load_target, user_code


@dataclass(frozen=True)
class CompileTime:
    """The first call in a process: seconds in all, of which compiling; and kernels by origin."""

    first_call: float
    compiling: float
    kernels_compiled: int
    kernels_from_cache: int


def measure_compile(
    target: str, inputs: Sequence[str], hide_gpu: bool = False
) -> tuple[CompileTime, CompileTime]:
    """With an empty cache, then with the cache that this left; CommandFailed if it fails.

    ``hide_gpu``: as on a machine without one.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if hide_gpu else {}
    with tempfile.TemporaryDirectory(prefix="flamec-bench-") as folder:
        environment = {**os.environ, **hidden, "FLAMEC_CACHE_DIR": folder}
        cold = _run(target, inputs, environment)
        warm = _run(target, inputs, environment)
    return cold, warm


def _run(target: str, inputs: Sequence[str], environment: Mapping[str, str]) -> CompileTime:
    done = subprocess.run(
        [sys.executable, "-m", "flamec.cli.compile_time", target, *inputs],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"measuring the compile time failed:\n{done.stderr.strip()}")
    return CompileTime(**json.loads(done.stdout.splitlines()[-1]))


def first_call(text: str, inputs: Sequence[str]) -> CompileTime:
    """Call the function for the first time in this process."""
    target = load_target(text)
    example = example_inputs(target, inputs)
    function = target.fresh()
    with user_code(target.name):
        started = time.perf_counter()
        function(*example.args, **example.kwargs)
        seconds = time.perf_counter() - started
    stats = function.stats
    return CompileTime(
        seconds, stats.compile_seconds, stats.kernels_compiled, stats.kernels_from_cache
    )


if __name__ == "__main__":
    print(json.dumps(asdict(first_call(sys.argv[1], sys.argv[2:]))))
