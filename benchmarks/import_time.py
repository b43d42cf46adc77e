"""How long ``import`` takes in a fresh interpreter, interpreter start not counted."""

from __future__ import annotations

from benchmarks.harness import Contender, Workload
from benchmarks.subprocesses import fresh_process

_PROGRAM = """
import time
started = time.perf_counter()
import {module}
print(time.perf_counter() - started)
"""


def _contender(name: str, module: str) -> Contender:
    return fresh_process(name, _PROGRAM.format(module=module))


WORKLOADS = (
    Workload(
        "import_time",
        "import in a fresh process",
        [
            _contender("flamec", "flamec"),
            _contender("torch", "torch"),
            _contender("jax", "jax"),
            _contender("numpy", "numpy"),
        ],
        goal=0.3,
    ),
)
