"""What a function does at its end that no program can: Python does it, after the program.

In: traces of a function whose Python code has effects (it prints, writes a log, reads a list that
it appends to). Where hardly any work is left behind the first of them, the function is cut there
(``function_parts.py``): the head is compiled, and each call ends by running the tail as it stands.
Out: the function to be traced (``traced``), and for a trace of the head the tail. Invariant: head
and tail do in order what the function does; where the head has effects, too, it is not cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flamec.function_parts import Body, Parts, body_of
from flamec.segments import Decision
from flamec.state import thread

if TYPE_CHECKING:
    from flamec.capture import Captured

LEAST_NODES = 8  # of a head
LEAST_RATIO = 4  # of a head's nodes to a tail's, which run one by one


class Marks:
    """How much a trace had done before each statement of a function: nodes, effects, and inputs
    that were written to."""

    def __init__(self, body: Body) -> None:
        def mark(number: int) -> None:  # no method, whose object a trace would watch
            self._mark(number)

        self.function = body.marked(mark)
        self._counts: dict[int, tuple[int, int, int]] = {}

    def _mark(self, number: int) -> None:
        trace = thread.trace
        if trace is None or trace.host is None:
            return
        if number == 0:
            self._counts.clear()
        host, execution = trace.host, trace.execution
        effects = len(host.happenings.found) + len(host.effects)
        if execution is not None:
            effects += sum(isinstance(s, Decision) and not s.recurs for s in execution.steps)
        written = sum(r.written and r.input_position is not None for r in trace.roots.values())
        self._counts[number] = len(trace.builder.nodes), effects, written

    def cuts(self, statements: int, nodes: int, written: int = 0) -> list[int]:
        """After how many statements the function may be cut, that with the shortest tail first.
        ``written``: how many inputs the head must have written to, at least."""
        counts = self._counts
        if len(counts) < statements:
            return []  # the function returned before
        light = [
            k
            for k in range(1, statements)
            if _is_light(counts[k][0], nodes) and counts[k][2] >= written
        ]
        if not light:
            return []
        effects = (k for k in range(statements - 1) if counts[k + 1][1] > counts[k][1])
        first = next(effects, min(light))  # others show at the end of a trace
        return [k for k in dict.fromkeys((first, min(light))) if k in light and k <= first]


def _is_light(before: int, nodes: int) -> bool:
    return before >= max(LEAST_NODES, LEAST_RATIO * (nodes - before))


class Tails:
    """Of one compiled function. ``parts``: the head and the tail, if the function is cut."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._begin()

    def _begin(self) -> None:
        self._body: Body | None = None
        self._marks: Marks | None = None
        self._cuts: list[int] = []
        self._is_refused = False
        self._is_tracked = False  # whether results of the whole function have a history
        self.parts: Parts | None = None
        self.is_proved = False  # a trace of the head had no effects

    @property
    def traced(self) -> Any:
        """What is to be traced: the function, the same with marks, or its head."""
        if self._marks is None or self._body is None:
            return self._function
        made = self._marks.function if self.parts is None else self.parts.head
        if self._body.is_current(made):
            return made
        self._begin()
        return self._function

    def parts_of(self, traced: Any) -> Parts | None:
        """Of what was traced, if it is the head."""
        return self.parts if self.parts is not None and traced is self.parts.head else None

    def after_effects(self, captured: Captured) -> bool:
        """Whether the calls after one whose Python code had effects may do without."""
        if captured.parts is not None:
            return bool(self._cuts) and self._cut()
        if self._is_refused:
            return False
        if self._marks is None:
            if len(captured.graph.nodes) >= LEAST_NODES:
                self._body = body_of(self._function)
            if self._body is None or len(self._body.statements) < 2:
                return self._refuse()
            self._marks = Marks(self._body)
            return True
        assert self._body is not None
        nodes = len(captured.graph.nodes)
        self._is_tracked = bool(captured.tracked_outputs)
        # what a derivative needs may be in such memory, which no tail may change then
        written = len(captured.graph.updates) if self._is_tracked else 0
        self._cuts = self._marks.cuts(len(self._body.statements), nodes, written)
        return self._cut()

    def rejects(self, captured: Captured) -> bool:
        """Whether the head, of which this is the first trace or which shares containers, is of no
        use; then another one or the whole function is to be traced."""
        if captured.parts is None:
            return False
        if captured.is_tangled:  # of one container each of the tail's variables would get a copy
            self._cut()
            return True
        if self.is_proved:
            return False
        saves_more = bool(captured.tracked_outputs) and not self._is_tracked
        if not captured.effects and not saves_more:
            self.is_proved = True
            return False
        self._cut()
        return True

    def _cut(self) -> bool:
        """Whether there is another cut to be tried."""
        self.parts, self.is_proved = None, False
        while self._cuts and self.parts is None:
            assert self._body is not None
            self.parts = self._body.cut(self._cuts.pop(0))
        return self.parts is not None or self._refuse()

    def _refuse(self) -> bool:
        self._is_refused, self._marks, self._body = True, None, None
        return False
