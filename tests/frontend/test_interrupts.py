"""Ctrl-C at random moments of a compilation, a step, a split program: nothing is half done."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from complete_cache import assert_complete

import flamec
from flamec import nn, optim

INTERRUPTS = 40


@pytest.fixture(autouse=True)
def interrupts_are_raised() -> Iterator[None]:
    """Also where this process was started with interrupts ignored, as background jobs are, or with
    signals blocked."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGALRM})
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signal.signal(signal.SIGINT, before)


@contextmanager
def interrupt_after(seconds: float) -> Iterator[None]:
    """SIGINT for this process after a while, unless the block is left before."""

    def send(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, send)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupted(work: Callable[[], Any], seconds: float) -> bool:
    """Whether ``work`` was interrupted, by a KeyboardInterrupt and nothing else."""
    try:
        with interrupt_after(max(seconds, 1e-6)):
            work()
    except KeyboardInterrupt:
        return True
    return False


class Training:
    """A model with an optimizer; ``state`` is all that a step changes, as bytes. ``random``: the
    state of the generator, which is this training's as long as ``drawing`` lasts."""

    def __init__(self, body: Callable[[flamec.Tensor], flamec.Tensor], **options: Any) -> None:
        flamec.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 30))
        self.adam = optim.AdamW(self.model.parameters(), lr=0.01)
        self.x = flamec.randn(50, 40)
        self.random = flamec.get_rng_state()

        def step(x: flamec.Tensor) -> flamec.Tensor:
            self.adam.zero_grad()
            loss = body(self.model(x))
            loss.backward()
            self.adam.step()
            return loss

        self.step = flamec.compile(step, **options)

    def run(self) -> None:
        self.step(self.x)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        flamec.set_rng_state(self.random)
        yield
        self.random = flamec.get_rng_state()

    def steps(self) -> int:
        state = self.adam.state.get(next(self.model.parameters()), {})
        return int(state["step"].item()) if state else 0

    def state(self) -> bytes:
        slots = [s for p in self.adam.state.values() for s in p.values()]
        tensors = [
            self.random,
            *self.model.parameters(),
            *(s for s in slots if isinstance(s, flamec.Tensor)),
        ]
        return b"".join(t.detach().numpy().tobytes() for t in tensors)


def plain(y: flamec.Tensor) -> flamec.Tensor:
    return y.square().mean()


def split(y: flamec.Tensor) -> flamec.Tensor:
    loss = y.square().mean()
    return loss * 2 if loss.detach() > 0.05 else loss * 3


def drawn(y: flamec.Tensor) -> flamec.Tensor:
    """With random numbers, in both parts of a program that is split."""
    y = nn.functional.dropout(y, 0.5)
    loss = split(y)
    return loss * flamec.rand(()) + nn.functional.dropout(y, 0.25).mean()


def on_host(y: flamec.Tensor) -> flamec.Tensor:
    """With an operation in the middle of the program that Python computes."""
    return y.sort(1)[0].square().mean()


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (plain, {"backend": "c"}),
    "split": (split, {"backend": "c"}),
    "draws": (drawn, {"backend": "c"}),
    "host": (on_host, {"backend": "c"}),
    "strict": (plain, {"backend": "c", "numerics": "strict"}),
    "evaluated": (plain, {"backend": "evaluate"}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_step_is_whole_or_did_not_happen(case: str) -> None:
    """Parameters, optimizer state, count and generator are those of a training that was not
    interrupted."""
    body, options = CASES[case]
    training, reference = Training(body, **options), Training(body, **options)
    rng = random.Random(case)
    started = time.perf_counter()
    for one in (training, reference):
        with one.drawing():
            for _ in range(5):
                one.run()
    duration = (time.perf_counter() - started) / 50

    def forever() -> None:
        while True:
            training.run()

    for number in range(INTERRUPTS):
        with training.drawing():
            assert interrupted(forever, rng.random() * duration)
        assert training.steps() >= reference.steps()
        with reference.drawing():
            while reference.steps() < training.steps():
                reference.run()
        assert training.state() == reference.state(), f"a step is half done: {case}, {number}"


def test_an_interrupted_compilation_is_done_again(tmp_path: Path) -> None:
    """At any moment of tracing, generating, compiling, loading: the next call works, no lock is
    held, the cache has whole entries only, and nothing of the trace is left."""
    rng, count = random.Random(1), 0
    options = {"backend": "c", "cache_folder": tmp_path}
    getters = [cls.__dict__.get("__getattribute__") for cls in (nn.Linear, nn.Sequential)]
    durations: list[float] = []
    for number in range(12):

        def body(y: flamec.Tensor, k: int = number) -> flamec.Tensor:
            return (y * (k + 1)).square().mean()

        training = Training(body, **options)
        before = training.state()
        if number >= 2:
            moment = rng.random() * sorted(durations)[len(durations) // 2]
            was = interrupted(training.run, moment)
            count += was
            if was and training.steps() == 0:
                found = training.state()  # the optimizer may have its slots already, all zero
                assert found.startswith(before) and not any(found[len(before) :])
        started = time.perf_counter()
        training.run()
        if number < 2:
            durations.append(time.perf_counter() - started)
        other = Training(body, **options)
        while other.steps() < training.steps():
            other.run()
        assert training.state() == other.state(), number
        assert [c.__dict__.get("__getattribute__") for c in (nn.Linear, nn.Sequential)] == getters
    assert count, "no compilation was interrupted"
    assert_complete(tmp_path)
