"""Compiled functions in many threads, forked and spawned processes, with one cache."""

from __future__ import annotations

import functools
import gc
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from complete_cache import assert_complete

import flamec
from flamec import nn, optim
from flamec.ir import types

THREADS = 8


def smooth(x: flamec.Tensor, w: flamec.Tensor) -> flamec.Tensor:
    return flamec.softmax(flamec.tanh(x @ w), -1).sum(0)


def branching(x: flamec.Tensor) -> flamec.Tensor:
    """Split in two where the value decides."""
    total = x.abs().sum()
    if total > 100:
        return x / total
    return x * total.item() + 1


def in_threads(work: Callable[[int], Any], count: int = THREADS) -> list[Any]:
    """``work(i)`` in that many threads that start at the same moment."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Any:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("backend", ["c", "evaluate"])
def test_first_calls_in_many_threads_compile_once(backend: str) -> None:
    compiled = flamec.compile(smooth, backend=backend)
    x = [flamec.randn(20, 30) for _ in range(THREADS)]
    w = flamec.randn(30, 40)
    found = in_threads(lambda i: [compiled(x[i], w) for _ in range(20)])
    assert compiled.stats.traces == 1
    assert len(compiled.programs) == 1
    for i, results in enumerate(found):
        for result in results:
            assert flamec.allclose(result, smooth(x[i], w), atol=1e-5)


def test_threads_with_other_sizes_and_branches() -> None:
    """One function whose calls need several programs, whole and split ones, and some of each at a
    time: each call gets the result of its own arguments."""
    compiled, split = flamec.compile(smooth, backend="c"), flamec.compile(branching, backend="c")
    w = flamec.randn(30, 40)

    def work(number: int) -> None:
        generator = np.random.default_rng(number)
        for turn in range(25):
            rows = int(generator.integers(0, 9))
            x = flamec.tensor(generator.normal(size=(rows, 30)).astype(np.float32))
            assert flamec.allclose(compiled(x, w), smooth(x, w), atol=1e-5), (number, turn)
            y = flamec.tensor(generator.normal(size=50) * (1 if number % 2 else 9))
            assert flamec.allclose(split(y), branching(y), atol=1e-5), (number, turn)

    in_threads(work)
    assert compiled.stats.traces <= 3


def test_models_that_are_trained_in_threads() -> None:
    """A model, an optimizer and a compiled step of its own for each thread."""

    def train(number: int, wrap: Callable[[Any], Any]) -> list[float]:
        generator = np.random.default_rng(number)

        def drawn(*shape: int) -> flamec.Tensor:
            return flamec.tensor(generator.normal(size=shape).astype(np.float32))

        layer = nn.Linear(12, 12)
        layer.load_state_dict({"weight": drawn(12, 12), "bias": drawn(12)})
        sgd = optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)

        @wrap
        def step(x: flamec.Tensor) -> flamec.Tensor:
            sgd.zero_grad()
            loss = layer(x).tanh().square().mean()
            loss.backward()
            sgd.step()
            return loss

        return [step(drawn(9, 12)).item() for _ in range(6)]

    found = in_threads(lambda i: train(i, flamec.compile(backend="c")), 4)
    for number, losses in enumerate(found):
        assert np.allclose(losses, train(number, lambda f: f), atol=1e-6)


def test_traces_in_threads_guard_what_they_read() -> None:
    """Classes are instrumented while a function is traced, for all threads: one trace at a time."""
    own = nn.Linear.__dict__.get("__getattribute__")

    def work(number: int) -> bool:
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
        compiled = flamec.compile(lambda x: model(x).sum(), backend="evaluate")
        x = flamec.ones(2, 4)
        compiled(x)
        model[number].bias = None
        return flamec.allclose(compiled(x), model(x).sum())

    for _ in range(3):
        assert all(in_threads(work, 4))
        assert nn.Linear.__dict__.get("__getattribute__") is own


def in_child(work: Callable[[], None]) -> int:
    """The exit status of a forked child that does ``work``."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_calls_and_compiles() -> None:
    """The pool of threads has been at work before, and is again in parent and child."""
    compiled = flamec.compile(lambda x: (x * 2 + 1).exp().sum(1), backend="c", threads=4)
    x = flamec.rand(2000, 300)
    expected = compiled(x)
    other = flamec.compile(lambda x: (x * 3).tanh().sum(0), backend="c", threads=4)

    def work() -> None:
        for _ in range(3):
            assert flamec.equal(compiled(x), expected)
        assert flamec.allclose(other(x), (x * 3).tanh().sum(0), rtol=1e-4)

    assert in_child(work) == 0
    assert flamec.equal(compiled(x), expected)
    work()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_waits_for_compilations_of_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their locks, and what they do to classes and the collector, would stay in the child."""
    begun = threading.Event()
    compiled = flamec.compile(lambda x: x * 2, backend="c")
    make = compiled._program_of

    def slowly(captured: Any) -> Any:
        begun.set()
        time.sleep(0.3)  # until long after the fork was asked for
        return make(captured)

    monkeypatch.setattr(compiled, "_program_of", slowly)
    x = flamec.ones(3)
    other = threading.Thread(target=compiled, args=(x,))
    other.start()
    begun.wait()

    def work() -> None:
        signal.alarm(20)  # ends a child that waits for ever
        assert gc.isenabled()
        assert len(compiled.programs) == 1
        assert compiled(x).tolist() == [2.0] * 3
        assert flamec.compile(lambda x: x + 1, backend="c")(x).tolist() == [2.0] * 3

    status = in_child(work)
    other.join()
    assert status == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_waits_for_calls_of_loaded_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, begun = np.ones(3, np.float32), threading.Event()
    flamec.export(lambda x: x * 2, (x,), tmp_path / "program.flamec")
    program = flamec.load(tmp_path / "program.flamec")
    run = program._run

    def slowly(*arguments: Any) -> Any:
        begun.set()
        time.sleep(0.3)  # until long after the fork was asked for
        return run(*arguments)

    monkeypatch.setattr(program, "_run", slowly)
    other = threading.Thread(target=program, args=(x,))
    other.start()
    begun.wait()

    def work() -> None:
        signal.alarm(20)
        assert program(x).tolist() == [2.0] * 3

    status = in_child(work)
    other.join()
    assert status == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_numbers_types_though_another_thread_did() -> None:
    held, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with types._numbering:
            held.set()
            ended.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()

    def work() -> None:
        signal.alarm(20)
        assert flamec.ones(1, 2, 3, 5, 7, 11)._type.number

    status = in_child(work)
    ended.set()
    other.join()
    assert status == 0


def compiled_in_a_process(number: int) -> float:
    compiled = flamec.compile(branching)
    return float(compiled(flamec.full((3,), float(number))).sum())


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_of_a_pool(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.pathsep.join(p for p in (str(Path(__file__).parent), *sys.path) if p)
    monkeypatch.setenv("PYTHONPATH", path)
    expected = [float(branching(flamec.full((3,), float(i))).sum()) for i in range(4)]
    compiled_in_a_process(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(compiled_in_a_process, range(4))
    assert np.allclose(found, expected)


SHARING = """
import sys
import flamec
functions = [lambda x, k=k: (x * (k + 1)).exp().sum() + k for k in range(4)]
sys.stdin.readline()  # all begin at the same moment
x = flamec.ones(64)
for number, function in enumerate(functions):
    compiled = flamec.compile(function)
    assert flamec.allclose(compiled(x), function(x), rtol=1e-4), number
print(sum(p.prepared.kernels_compiled for p in compiled.programs))
"""


def test_processes_that_share_a_cache_compile_at_the_same_time(tmp_path: Path) -> None:
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "FLAMEC_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", SHARING],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    processes = [start() for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors[-2000:]
    later = start()
    output, errors = later.communicate("go\n")
    assert (later.returncode, output.strip()) == (0, "0"), errors[-2000:]
    assert_complete(tmp_path)


@pytest.mark.parametrize("delay", [0.05, 0.005])
def test_a_call_that_ends_while_another_thread_is_tracing(delay: float) -> None:
    """What it stores is no constant of the program that the other thread makes, and what it reads
    is no stand-in of that trace."""
    state, ended, tracing = SimpleNamespace(rate=1.0), threading.Event(), list[threading.Thread]()

    @flamec.compile
    def decayed(x: flamec.Tensor) -> flamec.Tensor:
        state.rate = state.rate * 0.5
        product = (x @ x) * state.rate
        if threading.current_thread() in tracing:
            ended.wait(1.0)
        return product[0] + math.sqrt(state.rate)

    def long_call() -> None:
        decayed(large)
        ended.set()

    large, small = flamec.zeros(2500, 2500, dtype=flamec.float64), flamec.zeros(3, 3)
    for _ in range(3):
        decayed(large)
    tracing.append(threading.Thread(target=decayed, args=(small,)))
    others = threading.Thread(target=long_call), tracing[0]
    for other in others:
        other.start()
        time.sleep(delay)
    for other in others:
        other.join()
    for _ in range(2):
        alone = state.rate * 0.5
        assert decayed(small)[0].item() == pytest.approx(math.sqrt(alone))


def test_numbers_of_state_in_many_threads() -> None:
    """While one thread traces, a place whose number varies holds a stand-in that others may see."""

    state = SimpleNamespace(rate=1.0)

    @flamec.compile
    def decayed(x: flamec.Tensor) -> flamec.Tensor:
        state.rate = state.rate * 0.999
        return x * state.rate + math.sqrt(state.rate)

    def work(number: int) -> list[float]:
        found = []
        for call in range(20):
            found.append(decayed(flamec.ones(3 + (call + number) % 4))[0].item())
            assert math.sqrt(4.0) == 2.0 and isinstance(math.sqrt(4.0), float)
        return found

    values = [value for found in in_threads(work) for value in found]
    lowest = 0.999 ** (20 * THREADS)
    assert all(lowest + math.sqrt(lowest) <= value * 1.00001 <= 2.0 for value in values)
    assert type(state.rate) is float and lowest <= state.rate * 1.00001 < 1.0
    alone = state.rate * 0.999
    assert decayed(flamec.ones(3))[0].item() == pytest.approx(alone + math.sqrt(alone))
    assert decayed.stats.traces <= 3


def test_threads_make_tuples_while_a_trace_is_given_up() -> None:
    """CPython 3.11 cannot make a tuple of what a generator gives while somebody else holds it."""
    errors: list[BaseException] = []
    done = threading.Event()

    def make() -> None:
        while not done.is_set():
            try:
                tuple(i for i in range(30))
            except SystemError as error:
                errors.append(error)

    layers = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    interval = sys.getswitchinterval()
    thread = threading.Thread(target=make)
    thread.start()
    try:
        sys.setswitchinterval(1e-6)
        for _ in range(6):
            table = functools.cache(lambda count: flamec.arange(count) * 0.5)
            counts: list[int] = []

            def step(x: Any, table: Any = table, counts: list[int] = counts) -> Any:
                h = layers(x) + table(3)
                counts.append(len(counts))
                return h.detach()

            compiled = flamec.compile(step, backend="evaluate")
            for number in range(4):  # its head is given up: its result would have a history
                table.cache_clear()
                compiled(flamec.full((2, 3), float(number)))
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
    assert not errors
