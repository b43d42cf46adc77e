"""Random functions over captured state, and random changes of that state between calls.

``StateProgram(seed)`` writes a function as Python source, with globals, a closure, modules,
containers, a configuration and tensors that it reads and changes, and a list of events: changes of
the state and calls. They are executed in a ``World`` (``random_state_world.py``).
"""

from __future__ import annotations

import random

from tests import random_state_modules as of_modules
from tests import random_state_python as of_python
from tests.random_state_prelude import KINDS as PRELUDE_OF_KINDS
from tests.random_state_prelude import PRELUDE
from tests.random_state_statements import (
    ARGUMENTS,
    AUTOGRAD,
    BOX_WRITES,
    CHANGES,
    CHANGES_OF_KINDS,
    EFFECTS,
    HISTORIES,
    INTS,
    KINDS,
    LEAVES,
    NUMBER_WRITES,
    READS,
    SPLITS,
    TENSOR_WRITES,
    WRITES,
)

BOXES = ("{'a': [y], 'n': 1}", "{'a': [y], 'n': n}", "{'a': [y, y], 'n': 2, 'last': None}")
RESULTS = ("return h", "return h, x", "return [h.sum(), y]", "return h[0]")
SEVERAL = (
    "return h, h.sum() * 2, leaf.sigmoid()",
    "return h.tanh(), h.detach() * leaf",
    "return h",
)
NUMBERS = ("1", "2", "1.5", "2.5", "True", "-1")
COUNTS = ("0", "1", "2", "3", "-1")
STATE = (
    "captured",
    "view",
    "leaf",
    "LOG",
    "TABLE",
    "LIMITS",
    "QUEUE",
    "net",
    "opt",
    "STEPS",
    "counter",
    "sched",
    "CACHE",
    "VALUES",
    "MEMORY",
    "slots",
    "get_kept",
    "thing",
    "COUNT",
    "BY_SIZE",
    "NAMES",
    "ARRAY",
    "held_thing",
    *("zoo", "opt3", "tail", "animal", "meter", "rank", "SCALES", "LAYERS", "ORDERED", "GROUPS"),
    *("HEAP", "CELLS", "BYTES", "SEEN", "space", "user", "config"),
)


class StateProgram:
    """The source of a function and the events of its life: ``("change", text)`` or a call."""

    def __init__(self, seed: int, calls: int = 6) -> None:
        rng = random.Random(seed)
        pools = [READS] * 6 + [WRITES] * 2
        if rng.random() < 0.35:
            pools += [SPLITS]
        if rng.random() < 0.35:
            pools += [EFFECTS]
        if rng.random() < 0.4:
            pools += [NUMBER_WRITES] * 2
        if rng.random() < 0.25:
            pools += [BOX_WRITES]
        if rng.random() < 0.4:
            pools += [TENSOR_WRITES] * rng.choice((2, 6))
        if rng.random() < 0.4:
            pools += [AUTOGRAD] * rng.choice((2, 6))
        leaves = rng.random() < 0.2
        if leaves:
            pools += [LEAVES] * 6
        counts = rng.random() < 0.35
        if counts:
            pools += [INTS] * rng.choice((2, 6))
        kinds = rng.random() < 0.2
        if kinds:
            pools += [KINDS] * 6
        changes = [*CHANGES_OF_KINDS * 3, *CHANGES] if kinds else CHANGES
        definitions = ""
        for part in (of_modules, of_python):
            if rng.random() < 0.2:
                pools += [part.STATEMENTS] * rng.choice((4, 12))
                changes = [*part.CHANGES * 3, *changes]
                definitions += part.DEFINITIONS
        lines = [rng.choice(rng.choice(pools)) for _ in range(rng.randint(2, 7))]
        lines.append(rng.choice(SEVERAL if leaves else RESULTS))
        lines = [part.strip() for line in lines for part in line.split(";;")]
        self.body = "\n".join(f"        {line}" for line in lines)
        self.source = PRELUDE.replace("{body}", self.body)
        self.source = self.source.replace("{kinds}", PRELUDE_OF_KINDS if kinds else "")
        self.source = self.source.replace("{more}", definitions)
        self.events: list[tuple[str, str, bool]] = []
        steady = rng.random() < 0.4  # then one program serves several calls
        for number in range(calls + 2 * steady):
            rows = rng.choice((4, 4, 4, 1, 2, 5)) if not steady else 4
            varied = rng.random() < 0.5 and not steady
            several = HISTORIES if rng.random() < 0.25 else ARGUMENTS
            arguments = rng.choice(several) if varied else ARGUMENTS[0]
            box = f"box = {BOXES[0] if steady else rng.choice(BOXES)}"
            n = rng.choice(COUNTS if counts else NUMBERS) if counts or not steady else "2.5"
            text = f"{arguments.format(rows=rows)}; n = {n}; {box}; seed = {number}"
            self.events.append(("call", text, rng.random() < 0.5))
            count = rng.choice((0, 1, 1, 2)) if not steady else int(number % 4 == 3)
            self.events += [("change", rng.choice(changes), False) for _ in range(count)]

    def __str__(self) -> str:
        lines = [self.body, *(f"{kind}: {text} {flag}" for kind, text, flag in self.events)]
        return "\n".join(lines)
