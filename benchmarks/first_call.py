"""The first call of the tiny network's training step in a fresh process, import not counted.

Cold: with an empty kernel cache. Warm: with the cache that an earlier process left.
Construction of model, optimizer and inputs is not counted either.
"""

from __future__ import annotations

from benchmarks.harness import Contender, Workload
from benchmarks.subprocesses import cold, warm

_PROGRAM = """
import time
from benchmarks.frameworks import limit_threads
limit_threads()
from benchmarks import frameworks
from benchmarks.mlp import Mlp
from benchmarks.seed_step import BATCH, WIDTHS
module = frameworks.{framework}()
mlp = Mlp(WIDTHS, BATCH)
step = {make}
started = time.perf_counter()
float(step())
print(time.perf_counter() - started)
"""
_COMPILED = "mlp.build(module, module.compile)"
_EAGER = "mlp.build(module, lambda function: function)"


def _cold(name: str, framework: str, make: str) -> Contender:
    return cold(name, _PROGRAM.format(framework=framework, make=make))


def _warm(name: str, framework: str, make: str) -> Contender:
    return warm(name, _PROGRAM.format(framework=framework, make=make))


WORKLOADS = (
    Workload(
        "first_call_cold",
        "first call of the seed step, empty kernel cache",
        [
            _cold("flamec eager", "flamec", _EAGER),
            _cold("flamec compiled", "flamec", _COMPILED),
            _cold("torch eager", "torch", _EAGER),
            _cold("torch.compile", "torch", _COMPILED),
            _cold("jax", "jax", "mlp.in_jax()"),
        ],
        goal=1.0,
    ),
    Workload(
        "first_call_warm",
        "first call of the seed step, kernel cache filled by another process",
        [
            _warm("flamec compiled", "flamec", _COMPILED),
            _warm("torch.compile", "torch", _COMPILED),
            _warm("jax", "jax", "mlp.in_jax()"),
        ],
        goal=0.05,
    ),
)
