"""The first call of the tiny network's training step in a fresh process, import not counted.

Cold: with an empty kernel cache. Warm: with the cache that an earlier process left.
Construction of model, optimizer and inputs is not counted either.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.harness import Contender, Workload
from benchmarks.subprocesses import fresh_process, seconds_of

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

_folders: list[Path] = []


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="flamec-benchmark-"))
    _folders.append(folder)
    return folder


@atexit.register
def _remove_folders() -> None:
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


def _caches(folder: Path) -> Mapping[str, str]:
    """Where each framework keeps what it compiled."""
    return {
        "FLAMEC_CACHE_DIR": str(folder / "flamec"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def _cold(name: str, framework: str, make: str) -> Contender:
    program = _PROGRAM.format(framework=framework, make=make)
    return fresh_process(name, program, lambda: _caches(_new_folder()))


def _warm(name: str, framework: str, make: str) -> Contender:
    program = _PROGRAM.format(framework=framework, make=make)

    def prepare() -> Callable[[], float]:
        environment = _caches(_new_folder())
        seconds_of(program, environment)
        return lambda: seconds_of(program, environment)

    return Contender(name, prepare, self_timed=True)


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
