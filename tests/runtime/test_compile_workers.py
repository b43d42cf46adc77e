"""Processes that compile kernels: what dies, hangs or is interrupted, and what is counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from gpu_kernels import affine

from flamec.runtime.cuda import compile_worker
from flamec.runtime.cuda.compile_worker import compile_kernels, end_idle_workers
from flamec.runtime.cuda.triton_compiler import TritonError, compile_kernel
from flamec.runtime.kernel_cache import KernelCache

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)

SOURCES = [affine(block) for block in (128, 256, 512)]
# A worker that does something to itself when it is asked for a kernel with blocks of 256.
STRANGE = """
import json, os, signal, sys, time
sys.path[:] = json.loads(sys.argv[1])
from flamec.runtime.cuda import compile_worker
answer = compile_worker._answer
def strange(request):
    if json.loads(request["source"])["constants"]["BLOCK"] == 256:
        {what}
    return answer(request)
compile_worker._answer = strange
compile_worker.serve()
"""


@pytest.fixture
def cache(tmp_path: Path) -> KernelCache:
    return KernelCache(tmp_path / "cache")


def children() -> list[int]:
    """Processes whose parent is this one, dead ones that nobody waited for included."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


@pytest.fixture(autouse=True)
def no_idle_workers() -> Iterator[None]:
    """Before a test, and after it."""
    end_idle_workers()
    yield
    end_idle_workers()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "kernel affine was ended by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", r"was ended by SIGKILL \(is the machine out of"),
        ("os._exit(3)", "kernel affine ended with code 3"),
        ("time.sleep(600)", "kernel affine was not compiled within 5 seconds"),
    ],
)
def test_a_lost_worker_costs_one_kernel(
    cache: KernelCache, monkeypatch: pytest.MonkeyPatch, what: str, message: str
) -> None:
    before = children()
    for source in SOURCES[::2]:  # so that the strange worker alone can be slow
        compile_kernel(source, "sm_90", cache)
    sources = (
        [*SOURCES, affine(1024)] if "sleep" not in what else [SOURCES[1], SOURCES[1], *SOURCES]
    )
    monkeypatch.setattr(compile_worker, "_START", STRANGE.format(what=what))
    seconds = 5 if "sleep" in what else None
    results = compile_kernels(sources, "sm_90", cache, 2, seconds=seconds)
    for source, result in zip(sources, results, strict=True):
        if source == SOURCES[1]:
            with pytest.raises(TritonError, match=message):
                result.result()
        else:
            assert result.result().name == "affine"
    assert sum(r.compiled for r in results) == (0 if seconds else 1)
    assert len(children()) <= len(before) + 2
    end_idle_workers()
    assert children() == before


# Workers that compile nothing, and end after so many answers: before or when they are asked again.
QUICK = """
import json, sys
for _ in range({answers}):
    line = sys.stdin.readline()
    if not line:
        break
    print(json.dumps({{"error": "not compiled", "path": None}}), flush=True)
else:
    {last}
"""


def answers_of(first: int, cache: KernelCache) -> list[str]:
    results = compile_kernels([affine(128 << first), affine(256 << first)], "sm_90", cache, 2)
    return [str(r.error) for r in results]


def test_workers_wait_for_other_work(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(children())
    monkeypatch.setattr(compile_worker, "_START", QUICK.format(answers=9, last="pass"))

    def workers(first: int) -> set[int]:
        assert answers_of(first, cache) == ["not compiled"] * 2
        return set(children()) - before

    known = workers(0)
    assert len(known) == 2
    assert workers(2) == known
    monkeypatch.syspath_prepend(str(cache.folder))  # which those that wait do not have
    assert len(workers(4) - known) == 2
    end_idle_workers()
    assert set(children()) == before


@pytest.mark.parametrize("last", ["pass", "sys.stdin.readline()"], ids=["before", "when asked"])
def test_a_worker_that_has_waited_too_long_is_replaced(
    cache: KernelCache, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    monkeypatch.setattr(compile_worker, "_START", QUICK.format(answers=1, last=last))
    for first in (0, 2):
        assert answers_of(first, cache) == ["not compiled"] * 2
        time.sleep(0.3)


def test_a_worker_that_nobody_asks_ends() -> None:
    program = (
        "from flamec.runtime.cuda import compile_worker as w; w._SECONDS_IDLE = 0.1; w.serve()"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert process.wait(60) == 0  # although its input goes on
    assert process.stdin is not None
    process.stdin.close()


def test_compilations_are_counted_once(cache: KernelCache) -> None:
    first = compile_kernels(SOURCES, "sm_90", cache, 2)
    again = compile_kernels([*SOURCES, affine(1024)], "sm_90", cache, 2)
    assert [r.compiled for r in first] == [True] * 3
    assert [r.compiled for r in again] == [False] * 3 + [True]


def test_one_kernel_is_compiled_here(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_worker, "_START", "raise SystemExit('a worker was started')")
    assert compile_kernels(SOURCES[:1], "sm_90", cache, 8)[0].compiled


INTERRUPTED = """
import sys
from pathlib import Path
from gpu_kernels import affine
from flamec.runtime.cuda import compile_worker
from flamec.runtime.kernel_cache import KernelCache
compile_worker._START = sys.argv[2]
sources = [affine(block) for block in (128, 256, 512, 1024)]
try:
    compile_worker.compile_kernels(sources, "sm_90", KernelCache(Path(sys.argv[1])), 2)
except KeyboardInterrupt:
    print("interrupted")
"""
ENDLESS = """
import subprocess, sys, time
tool = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
sys.stderr.write(f"{tool.pid}\\n")
sys.stderr.flush()
time.sleep(600)
"""


def test_an_interrupt_ends_the_workers_and_their_tools(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path / "cache"), ENDLESS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None and process.stderr is not None
    tools = [int(process.stderr.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "interrupted\n"), err
    deadline = time.monotonic() + 60
    while any(is_running(tool) for tool in tools) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(tool) for tool in tools)


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended (init may not have waited for it yet)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_whose_asker_has_ended_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    program = (
        "from flamec.runtime.cuda import compile_worker as w\n"
        "w._answer = lambda request: {'path': 'x' * (1 << 20)}\n"
        "w.serve()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="{}\n",
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
