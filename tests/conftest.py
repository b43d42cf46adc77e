"""GPUs for tests of tensors: simulated ones anywhere, the real one with ``-m gpu``; slow tests;
what the processes that tests start share."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import simulated_gpu

from flamec import backends
from flamec.ir import op as ir_op
from flamec.ir.types import Device
from flamec.runtime.cuda.driver import unavailable_reason

_BYTECODE = pytest.StashKey["subprocess.Popen[bytes]"]()


def pytest_configure(config: pytest.Config) -> None:
    """What the processes that tests start get from this one.

    NumPy's products take one thread there: several processes share the processors, and the
    threads of OpenBLAS wait for each other by spinning, three times the work where others run.

    Where Python is told to write no bytecode, it goes to a folder of this run's own: else each of
    these hundreds of processes would compile flamec's modules again. A process that waits for the
    end of this one removes the folder, also if this one is killed, when those that this one had
    started have noticed.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="flamec-bytecode-")
        config.stash[_BYTECODE] = subprocess.Popen(
            ["sh", "-c", '[ "$(cat)" = done ] || sleep 2; rm -rf "$1"', "sh", folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = folder
        sys.dont_write_bytecode = False
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _BYTECODE in config.stash:
        config.stash[_BYTECODE].communicate(b"done")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``slow`` run only with FLAMEC_TEST_LEVEL=full, those marked ``alone`` last.

    A test that wants the GPU alone waits for the others that run, and they for it.
    """
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)
    if os.environ.get("FLAMEC_TEST_LEVEL") != "full":
        skip = pytest.mark.skip(reason="runs with FLAMEC_TEST_LEVEL=full")
        for item in items:
            if item.get_closest_marker("slow") is not None:
                item.add_marker(skip)


_REASON = unavailable_reason()
_REAL = pytest.param(
    "real",
    marks=[pytest.mark.gpu, pytest.mark.skipif(_REASON is not None, reason=str(_REASON))],
)


@pytest.fixture(autouse=True)
def turns_on_the_gpu(request: Any) -> Iterator[None]:
    """Lets tests marked ``gpu`` run in several processes (``-n 8``), those marked ``alone`` alone.

    Whoever wants the GPU passes the gate; who wants it alone keeps the gate closed meanwhile.
    """
    if _REASON is not None or request.node.get_closest_marker("gpu") is None:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    folder = Path(tempfile.gettempdir())
    with (folder / "flamec-gpu-gate").open("w") as gate, (folder / "flamec-gpu").open("w") as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(params=["simulated", _REAL])
def gpu(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A GPU that tensors can be put on."""
    if request.param == "simulated":
        simulated_gpu.install(monkeypatch)
    yield Device("cuda", 0)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[simulated_gpu.SimulatedGpu]:
    """Two simulated GPUs, and no real ones."""
    return simulated_gpu.install(monkeypatch)


@pytest.fixture
def float32_convolutions() -> Iterator[None]:
    """Convolutions of float32 are not rounded to TF32 on a GPU: they are compared closely."""
    with backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that a test declares are gone after it."""
    monkeypatch.setattr(ir_op, "USER_OPS", dict(ir_op.USER_OPS))
