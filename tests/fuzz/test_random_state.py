"""Compiled functions are never stale: random programs whose state changes between calls.

Each program lives twice, eager and compiled, through the same changes and calls; after each
call results, arguments, tensors, gradients and Python state must be the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import flamec
from flamec.errors import CompileError
from tests.random_state_programs import StateProgram
from tests.random_state_world import World, difference

FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
PROGRAMS = 20_000 if FULL else 500
PER_TEST = 50
REFUSED = (  # docs/GRADIENTS.md, docs/COMPILE.md
    "a view x[i], where i is a tensor, is changed in place",
    "known only after the call",
    "is switched on in a compiled function that has used it before",
    "it makes a leaf, and gradients begin outside at what it computed from it",
    "has read a tensor that is changed before the backward pass",
    "two views of one storage are used, and before that",
    "changes by other means than a tensor's",
)
ROOT = Path(__file__).parents[2]


def check(seed: int, backend: str) -> None:
    """Run one program both ways; AssertionError with the program where they differ."""
    program = StateProgram(seed)
    eager = World(program, lambda f: f)
    compiled = World(program, lambda f: flamec.compile(f, backend=backend))
    for number, (kind, text, backward) in enumerate(program.events):
        state = flamec.get_rng_state()
        outcomes = []
        for world in (eager, compiled):
            flamec.set_rng_state(state)
            try:
                if kind == "call":
                    outcomes.append(world.call(text, backward))
                else:
                    outcomes.append(world.change(text))
            except Exception as error:
                outcomes.append(error)
        where = f"seed {seed}, event {number} ({text})\n{program}"
        pairs = zip((eager, compiled), outcomes, strict=True)
        expected, got = [world.error or outcome for world, outcome in pairs]
        if isinstance(expected, Exception):
            # an error is an error both ways. A program has no memory that is written twice, so it
            # can compute a gradient that eager mode refuses
            if "was changed in place" in str(expected):
                return
            assert isinstance(got, Exception), f"no {expected!r} in {where}"
            if isinstance(got, CompileError) or "next(" in program.body:
                return  # what was done before it may differ
        elif isinstance(got, CompileError) and any(text in str(got) for text in REFUSED):
            return
        elif isinstance(got, Exception):
            raise AssertionError(f"{got!r} in {where}") from got
        if kind != "call":
            continue
        if isinstance(outcomes[0], Exception):
            return  # of a backward pass outside
        found = difference(*outcomes)
        assert found is None, f"{found} in {where}"


def check_all(first: int) -> None:
    """The programs of one test."""
    warnings.simplefilter("ignore", RuntimeWarning)
    for seed in range(first, first + PER_TEST):
        check(seed, "auto" if seed % 100 == 0 else "evaluate")


@pytest.mark.parametrize("first", range(0, PROGRAMS, PER_TEST))
def test_state_that_changes_between_calls(first: int) -> None:
    """In a process of its own: after thousands of other tests a trace takes six times as long."""
    command = [sys.executable, "-m", "tests.fuzz.test_random_state", str(first)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


if __name__ == "__main__":
    check_all(int(sys.argv[1]))
