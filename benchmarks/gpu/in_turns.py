"""Contenders that get ready side by side, each in a process of its own, and are timed in turns.

A first step is mostly a compiler's or a search for algorithms, which needs the processors and takes
a hundred times as long as the steps that are timed; started together, contenders are ready when
the slowest is. A process prints ``ready`` with facts as a line of JSON, then for each line that it
reads the seconds of a round, or, for ``end``, its last facts. One that fails, or is not ready in
time, costs the others nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
MOST_ROUNDS = 5
ROUND_SECONDS, END_SECONDS = 10.0, 30.0  # that a process may take for a round, and to end


class Turns:
    """A contender's process, from the side of the one that asks it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.answers: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.facts: dict[str, Any] = {}
        self.rounds: list[float] = []
        self.problem = ""

    def _read(self) -> None:
        lines: IO[str] | None = self.process.stdout
        assert lines is not None
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # what libraries print
                self.answers.put(json.loads(line))
        self.answers.put(None)

    def answer(self, seconds: float) -> Any:
        """What it says next; None, and a problem, if it ends or says nothing in time."""
        if self.problem:
            return None
        try:
            found = self.answers.get(timeout=max(0.1, seconds))
        except queue.Empty:
            self.problem = "was not ready in time"
            return None
        if found is None:
            self.process.wait()
            self.errors.seek(0)
            self.problem = self.errors.read()[-3000:] or "ended without a message"
        return found

    def ask(self, word: str, seconds: float = ROUND_SECONDS) -> Any:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(word, file=self.process.stdin, flush=True)
        return self.answer(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()


def in_turns(
    contenders: Mapping[str, Callable[[], Turns]], seconds: float, apart: bool = False
) -> dict[str, Turns]:
    """The contenders after their rounds, with facts and times. ``seconds`` for all; ``apart``: one
    gets ready after the other, so that the times of first calls are their own."""
    deadline = time.monotonic() + seconds
    rest = (2 + MOST_ROUNDS) * len(contenders)  # seconds that are kept for rounds
    started: dict[str, Turns] = {}
    try:
        for name, start in contenders.items():
            started[name] = start()
            if apart:
                _wait(started[name], deadline - rest)
        for turns in started.values():
            if not apart:
                _wait(turns, deadline - rest)
        for _ in range(MOST_ROUNDS):
            for turns in started.values():
                if turns.problem or (turns.rounds and time.monotonic() > deadline):
                    continue
                took = turns.ask("round")
                if took is not None:
                    turns.rounds.append(took)
        for turns in started.values():
            turns.facts |= turns.ask("end", END_SECONDS) or {}
    finally:
        for turns in started.values():
            turns.close()
    return started


def _wait(turns: Turns, deadline: float) -> None:
    turns.facts |= turns.answer(deadline - time.monotonic()) or {}


def take_turns(
    ready: Mapping[str, Any], one_round: Callable[[], float], last: Callable[[], Mapping[str, Any]]
) -> None:
    """The other side, in a contender's process once it is ready."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        if line.strip() == "end":
            print(json.dumps(last()), flush=True)
            return
        print(json.dumps(one_round()), flush=True)
