"""Recurrent layers on a GPU: values in Triton's interpreter, launches of a step."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from interpreted import run_interpreted
from triton_recurrent import CASES, case_of, compiled

from flamec.ir.plan import Launch, Loop

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="the package triton is not installed"
)


@needs_triton
def test_in_the_interpreter() -> None:
    results = run_interpreted("triton_recurrent.py", list(CASES))
    assert [r["row"] for r in results] == list(CASES)
    assert not {r["row"]: r["wrong"] for r in results if r["wrong"]}


# forward the product and what follows, which keeps what the backward pass needs, the state that it
# was given too; backward what leads to the gates, whose gradients are written side by side, the
# product in parts, and their sum
@pytest.mark.parametrize(("name", "forward", "backward"), [("lstm", 2, 3), ("rnn", 2, 2)])
def test_launches_of_a_step(name: str, forward: int, backward: int) -> None:
    plan = compiled(*case_of(name, 64, 128, 16, 32)).plan
    loops = [action for action in plan.actions if isinstance(action, Loop)]
    counts = [sum(isinstance(a, Launch) for a in loop.actions) for loop in loops]
    assert counts == [forward, backward]
