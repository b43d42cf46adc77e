"""Running a part of a traced function that is run again when its values are there: nothing stays.

In: the ``Recorder`` of a trace, and code that is run on stand-ins (a hook, whose gradient is known
later). Out: whether it changed anything of Python's state or of the memory of tensors
(``has_effects``). Invariant: after ``undo`` state and memory are what they were at the beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.autograd.rules import record_gradients_rule
from flamec.errors import CompileError, DataDependentError, user_location
from flamec.growing_lists import Growing
from flamec.guarded_values import Guard, same_content
from flamec.host_numbers import Place
from flamec.ir.custom import RecordedRule, same_rule
from flamec.ir.graph import Value
from flamec.ir.types import TensorType
from flamec.restoring import restore
from flamec.roots import Root
from flamec.varying_state import place_of

if TYPE_CHECKING:
    from flamec.guards import Recorder
    from flamec.trace import Trace

_CONTAINERS = (dict, list, set, deque, np.ndarray)


Function = Callable[[Sequence[Any]], Sequence[Any]]


def try_out(
    recorder: Recorder,
    trace: Trace,
    types: Sequence[TensorType],
    hook: Function,
    name: str,
    count: int | None = None,
) -> tuple[RecordedRule, Function | None]:
    """What a hook makes of gradients, as a rule; if it has effects, the hook to be called again.

    That is done with the gradients themselves, for the effects alone. So what the hook makes of
    gradients must not depend on what it changes: CompileError if it does. One that asks for their
    values must leave them as they are, which is seen when it is called.

    ``types``: those of what it is given, of which it gives back the first ``count``, or all.
    """
    run = TrialRun(recorder, trace)
    try:
        rule = record_gradients_rule(types, hook)
    except DataDependentError:
        run.undo(forget=True)
        return record_gradients_rule(types, lambda seeds: seeds[:count]), partial(
            _only_looking, hook, name
        )
    if not run.has_effects:
        return rule, None
    changes = rule.results != rule.gradients[: len(rule.results)]
    again = record_gradients_rule(types, hook) if changes else rule
    run.undo(forget=not changes)
    if not same_rule(rule, again):
        raise CompileError(
            f"the backward hook {name} changes state on which the gradient that it returns depends "
            "(a counter, a draw, a running mean), and backward begins outside of the compiled "
            f"function (at {user_location()}); call backward inside"
        )
    return rule, hook


def _only_looking(hook: Function, name: str, gradients: Sequence[Any]) -> Sequence[Any]:
    """Call a hook that is taken for one that returns None. RuntimeError if it does not."""
    found = hook(gradients)
    if any(one is not other for one, other in zip(found, gradients, strict=False)):
        raise RuntimeError(
            f"the backward hook {name} returned another gradient, which depends on the values of "
            "the one that it was given, and backward began outside of the compiled function; call "
            "backward inside"
        )
    return found


class TrialRun:
    """One run; it begins when it is made."""

    def __init__(self, recorder: Recorder, trace: Trace) -> None:
        self._recorder, self._trace, self._host = recorder, trace, recorder.host
        self._effects = len(recorder.effects.found), len(self._host.effects)
        self._contents = _contents(recorder.guards.values())
        self._places = _places(recorder.guards.values())
        self._roots = {s: (r.value, r.written) for s, r in trace.roots.items()}
        self._lists = {growing: growing.state for growing in self._host.lists}
        self._known = [(known, known.copy()) for known in self._what_is_known()]

    def _what_is_known(self) -> list[Any]:
        recorder, host = self._recorder, self._host
        guarded = [recorder.guards, recorder.read, recorder.codes, recorder.visited]
        return [*guarded, host.swaps, host.conditions]

    @property
    def has_effects(self) -> bool:
        """Whether something is another than before, or happened outside of Python's state."""
        if (len(self._recorder.effects.found), len(self._host.effects)) != self._effects:
            return True
        if not all(_holds(owner, content) for owner, content in self._contents):
            return True
        if not all(place.present() is value for place, value in self._places):
            return True
        if any(map(self._has_grown, self._host.lists)):
            return True
        return bool(self._written()) or any(self._is_changed(g) for g in self._new_guards())

    def undo(self, forget: bool) -> None:
        """Let all be as before; ``forget``: also what the trace came to rely on."""
        recorder, host = self._recorder, self._host
        del recorder.effects.found[self._effects[0] :], host.effects[self._effects[1] :]
        swaps = self._known[4][1]
        met = [s for identity, s in host.swaps.items() if identity not in swaps]
        restore(self._new_guards(), {})
        for owner, content in self._contents:
            if not _holds(owner, content):
                _refill(owner, content)
        for place, value in self._places:
            if place.present() is not value:
                place.put(value)
        for swap in met:
            swap.place.put(swap.value if forget else swap.in_place)
        for root, (value, written) in self._written():
            root.value, root.written = value, written
            root.version += 1
        for growing in self._host.lists:
            was_read = growing.tracer.was_read
            growing.reset(self._lists.get(growing))
            growing.tracer.was_read |= was_read and not forget
        for known, before in self._known if forget else ():
            known.clear()
            known.update(before)

    def _new_guards(self) -> list[Guard]:
        before = self._known[0][1]
        return [g for identity, g in self._recorder.guards.items() if identity not in before]

    def _has_grown(self, growing: Growing) -> bool:
        _, calls, _, is_cleared = self._lists.get(growing, ((), (), False, False))
        tracer = growing.tracer
        return len(tracer.calls) != len(calls) or tracer.is_cleared != is_cleared

    def _is_changed(self, guard: Guard) -> bool:
        swap = self._host.swaps.get((id(guard.owner), guard.key))
        if swap is None or guard.kind in ("length", "keys", "content", "entries"):
            return not guard.holds()
        return swap.place.present() is not swap.in_place

    def _written(self) -> list[tuple[Root, tuple[Value, bool]]]:
        """The memory from outside the run whose values are others now, with those from before."""
        inputs = self._trace.builder.graph_inputs
        found = []
        for storage, root in self._trace.roots.items():
            before = self._roots.get(storage)
            if before is None and root.input_position is not None:
                before = inputs[root.input_position], False
            if before is not None and root.value is not before[0]:
                found.append((root, before))
        return found


def _contents(guards: Iterable[Guard]) -> list[tuple[Any, Any]]:
    """The containers that guards are about, with copies."""
    owners = {id(g.owner): g.owner for g in guards if isinstance(g.owner, _CONTAINERS)}
    return [(owner, owner.copy()) for owner in owners.values()]


def _places(guards: Iterable[Guard]) -> list[tuple[Place, Any]]:
    """The variables of closures and the attributes without a dictionary, with their values."""
    found = []
    for guard in guards:
        place = None if isinstance(guard.owner, _CONTAINERS) else place_of(guard)
        if place is not None:
            found.append((place, place.present()))
    return found


def _holds(owner: Any, content: Any) -> bool:
    if isinstance(owner, dict):
        same = len(owner) == len(content)
        return same and all(k in owner and owner[k] is v for k, v in content.items())
    if isinstance(owner, list):
        return len(owner) == len(content) and all(map(_is, owner, content))
    return same_content(owner, content)


def _is(one: Any, other: Any) -> bool:
    return one is other


def _refill(owner: Any, content: Any) -> None:
    if isinstance(owner, np.ndarray):
        owner[...] = content
        return
    owner.clear()
    if isinstance(owner, (list, deque)):
        owner.extend(content)
    else:
        owner.update(content)
