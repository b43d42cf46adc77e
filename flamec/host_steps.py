"""The text of what a call does in Python: reads of numbers, writes, actions, in order.

In: the ``HostState`` of a trace. Out: statements of the generated call (``call_path.py``). Acts
that set numbers which the program reads are before it, the others and all writes behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.changed_arguments import Refill, refill
from flamec.host_actions import Act, Append, Write
from flamec.host_numbers import Expression, ExpressionWriter
from flamec.host_state import HostState
from flamec.state import one_trace
from flamec.structures import Structure

Step = Write | Append | Act | Refill
Together = Callable[[Structure, Sequence[str]], str]


class HostSteps:
    """``name``: gives a variable that holds an object; ``result``: the text of a ``Result``."""

    def __init__(
        self,
        host: HostState,
        writer: ExpressionWriter,
        name: Callable[[Any], str],
        result: Callable[[Any], str],
    ) -> None:
        self._writer = writer
        self._name = name
        self._result = result
        self._steps = list(host.steps)
        self._last = host.last
        self._moment = -1
        later = [o for step in host.steps for o in step.operands if isinstance(o, Expression)]
        self._reads = [p for e in (*later, *host.returned) for p in e.places()]

    def begin(self, given: Callable[[Any], str]) -> list[str]:
        """What a call does first of all. ``given``: as ``result``, before there are outputs."""
        return [
            f"prepared{i} = {self._name(act.prepare)}({', '.join(map(given, act.given))})"
            for i, act in enumerate(self._last)
        ]

    def until(self, moment: int, together: Together) -> list[str]:
        """Everything before the numbers that are read after so many acts."""
        lines: list[str] = []
        while self._moment < moment:
            if self._moment >= 0:
                lines += self._act(together)
            self._moment += 1
            lines += self._reads_now()
        return lines

    def rest(self, together: Together) -> list[str]:
        """What remains when the program has run."""
        lines: list[str] = []
        while any(isinstance(step, Act) for step in self._steps):
            lines += self._act(together)
            self._moment += 1
            lines += self._reads_now()
        lines += self._writes(self._steps, together)
        for number, act in enumerate(self._last):
            operands = ", ".join([f"prepared{number}", *map(self._result, act.operands)])
            lines.append(f"{self._name(act.function)}({operands})")
        return lines

    def _act(self, together: Together) -> list[str]:
        """The steps up to the next act, and it."""
        count = next(i for i, step in enumerate(self._steps) if isinstance(step, Act)) + 1
        *writes, act = self._steps[:count]
        self._steps = self._steps[count:]
        return [*self._writes(writes, together), self._text(act, together)]

    def _writes(self, steps: Sequence[Step], together: Together) -> list[str]:
        return self._between_traces([self._text(step, together) for step in steps])

    def _between_traces(self, texts: Sequence[str]) -> list[str]:
        """Statements that no trace of another thread may meet: it would take what is written for
        constants, and what is read would be its stand-ins, which were then written back."""
        return [f"with {self._name(one_trace)}: {'; '.join(texts)}"] if texts else []

    def _reads_now(self) -> list[str]:
        """What later steps and results need of the state before the next act, each once."""
        found = dict.fromkeys(p for p in self._reads if p.moment == self._moment)
        return self._between_traces([self._writer.text(place) for place in found])

    def _text(self, step: Step, together: Together) -> str:
        operands = [
            self._writer.text(o) if isinstance(o, Expression) else self._result(o)
            for o in step.operands
        ]
        if isinstance(step, Act):
            return f"{self._name(step.function)}({', '.join(operands)})"
        if isinstance(step, Append):
            content = "" if step.method == "clear" else together(step.structure, operands)
            return f"{step.place.text(self._name)}.{step.method}({content})"
        if isinstance(step, Refill):
            content = together(step.structure, operands)
            return f"{self._name(refill)}(leaves[{step.position}], {content})"
        return f"{step.place.target(self._name)} = {together(step.structure, operands)}"
