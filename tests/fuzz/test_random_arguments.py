"""Arguments that are one object several times: random programs, eager and compiled.

Tensors, views of each other, and a list come several times among the arguments, also inside of
others; the program writes to them, appends, stores, asks for identities. After each call results,
arguments, gradients, state, and which of all these are one object must be the same.
"""

from __future__ import annotations

import os
import random
import warnings
from typing import Any

import numpy as np
import pytest

import flamec

FULL = os.environ.get("FLAMEC_TEST_LEVEL") == "full"
PROGRAMS = 2000 if FULL else 40
PER_TEST = 20
STATEMENTS = (  # {a}, {b}, {c}: any of the tensors
    "h = h + {a} * 2",
    "h = h * {b}",
    "{a}.mul_(0.5)",
    "{a}.detach().add_(1)",
    "h = h + {c}.sum()",
    "{a} = {b}",
    "h = h * (2.0 if {a} is {b} else 1.0)",
    "h = h + {a}.stride(0)",
    "box.append({a})",
    "h = h + len(box) * box[-1]",
    "box[0] = {b} * 1",
    "other.append(h.detach())",
    "h = h * (len(other) + 1)",
    "d['k'] = box",
    "d['n'] = d['n'] + 1",
    "h = h * d['n']",
    "h = h + float(h.detach().sum()) * 0.1",
    "h = h * (2.0 if isinstance(h.detach().sum().item(), float) else 1.0)",
    "state.n += 1",
    "h = h * state.n",
    "state.last = {a}",
    "h = h + (0 if state.last is None else state.last)",
    "h = h + k * 2",
    "h = h * (k + 1) / 3",
)
NUMBERS = (2, 3, 2.5, np.float32(2.1), np.float32(3.3), np.int64(3))


class Program:
    """The text of a function, and its calls: sizes, which tensors, lists, numbers."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        lines = [
            chance.choice(STATEMENTS).format(**{v: chance.choice("xyz") for v in "abc"})
            for _ in range(chance.randint(2, 6))
        ]
        body = "".join(f"    {line}\n" for line in lines)
        self.text = (
            f"def f(x, y, z, box, other, d, k):\n    h = x * 1\n{body}    return h, box, (x, y)\n"
        )
        self.calls = [
            (
                chance.choice((2, 3, 3)),
                [chance.choice("pqr") for _ in range(3)],
                chance.choice(("two lists", "one list", "one list", "in the dict")),
                chance.choice(NUMBERS),
                chance.random() < 0.3,
                chance.random() < 0.4,
            )
            for _ in range(5)
        ]

    def run(self, wrap: Any) -> list[Any]:
        """What is to be seen after each call, or its error, which is the last."""

        class State:
            n = 0
            last: Any = None

        state = State()
        names: dict[str, Any] = {"state": state}
        exec(self.text, names)
        function, seen = wrap(names["f"]), []
        for size, which, lists, number, has_leaf, backward in self.calls:
            pool = {
                name: flamec.arange(float(size), dtype=flamec.float64) + i + 1
                for i, name in enumerate("pqr")
            }
            if has_leaf:
                pool["p"].requires_grad_()
            if size == 2:
                pool["r"] = pool["q"].detach()
            x, y, z = (pool[name] for name in which)
            box = [x]
            other = box if lists == "one list" else [y]
            d = {"k": box if lists == "in the dict" else 0, "n": 1}
            try:
                result = function(x, y, z, box, other, d, number)
                if backward and result[0].requires_grad:
                    result[0].sum().backward()
            except Exception as error:
                return [*seen, error]
            things = (result, pool, box, other, d, [pool["p"].grad], state.n, state.last)
            seen.append(_seen(things, {}))
            if isinstance(state.last, flamec.Tensor) and state.last.requires_grad:
                state.last = None
        return seen


def _seen(value: Any, known: dict[int, int]) -> Any:
    """A nested value; equal numbers stand for the same object. Sums may be in another order."""
    own = known.setdefault(id(value), len(known))
    if isinstance(value, flamec.Tensor):
        return own, [round(v, 8) for v in value.tolist()], value.requires_grad
    if isinstance(value, dict):
        return own, {key: _seen(v, known) for key, v in value.items()}
    if isinstance(value, list):
        return own, [_seen(v, known) for v in value]
    return tuple(_seen(v, known) for v in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("first", range(0, PROGRAMS, PER_TEST))
def test_arguments_that_are_one_object(first: int) -> None:
    for seed in range(first, first + PER_TEST):
        program = Program(seed)
        expected = program.run(lambda f: f)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # Python code runs at each call
            found = program.run(lambda f: flamec.compile(f, backend="evaluate", max_variants=12))
        where = f"seed {seed}\n{program.text}{program.calls}"
        if isinstance(expected[-1], Exception):
            assert isinstance(found[-1], Exception), f"no {expected[-1]!r}: {where}"
            expected[-1] = found[-1]
        assert found == expected, where
