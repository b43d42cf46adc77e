"""Python's state while a function is traced: what varies, and changes that each call makes.

In: the places whose values changed from call to call, or in a call (``Lifted``). While the
function is traced they hold tracers (``host_numbers.py``, ``state_tensors.py``), so whatever reads
them computes with inputs of the program. Out: the conditions under which Python would decide the
same, and the steps that a call makes in Python: what it writes where, and actions that are repeated
as they are (``scheduler.step()``). Invariant: after the trace all places hold what they held before
it; the program's call makes the changes.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flamec.arrays_of_state import StateArrays
from flamec.changed_arguments import Refill
from flamec.effects import Effects
from flamec.errors import unknown_value, user_location
from flamec.first_numbers import FirstNumbers
from flamec.growing_lists import Growing, GrowingLists, can_grow
from flamec.guarded_values import MISSING, Guard, is_constant
from flamec.host_actions import (
    UNREAD,
    UNSET,
    Act,
    Append,
    HostCondition,
    LastAct,
    Swap,
    Write,
)
from flamec.host_numbers import (
    MOST_NODES,
    Argument,
    Expression,
    Extent,
    Place,
    expression_of,
    gives_one_type,
    in_one_step,
    refuse_computed,
)
from flamec.host_sizes import HostSizes
from flamec.ir.graph import Location, Value
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import CPU, TensorType, float64, int64
from flamec.numpy_numbers import NumPyNumber, is_scalar, is_whole
from flamec.restoring import snapshot
from flamec.roots import Root
from flamec.sources import InputSource
from flamec.state import trace_paused
from flamec.state_tensors import StateTensors
from flamec.structures import flatten, unflatten
from flamec.tensor import RuntimeNumber, Size, Tensor
from flamec.varying_state import (
    Lifted,
    StateVaries,
    can_vary,
    changeable_parts,
    is_settable,
    is_written,
    place_of,
    place_of_list,
    places_of_grown,
)

if TYPE_CHECKING:
    from flamec.trace import Trace

_INT64 = 2**63
_OF_TWO_TYPES = (operator.pow, min, max)  # whose results may be an int or a float


@dataclass(eq=False)
class HostState:
    """Of one trace; see the module's docstring.

    ``moment``: how many acts are among ``steps``. ``returned``: the numbers among the function's
    results. ``is_old``: whether the trace met an object, by id, where it was before the trace.
    """

    trace: Trace | None
    lifted: Lifted
    tensors: StateTensors | None = None
    is_old: Callable[[int], bool] = lambda identity: False
    tracing: bool = True
    given_up: bool = False  # state is as it was before the trace
    moment: int = 0
    happened: bool = False  # something outside of Python's state, so it must not happen twice
    happenings: Effects = field(default_factory=Effects)  # so far
    steps: list[Write | Append | Act | Refill] = field(default_factory=list)
    last: list[LastAct] = field(default_factory=list)  # after all steps
    refills: list[Refill] = field(default_factory=list)  # of containers among the arguments
    conditions: dict[Any, HostCondition] = field(default_factory=dict)
    effects: list[str] = field(default_factory=list)
    returned: list[Expression] = field(default_factory=list)
    swaps: dict[tuple[int, Any], Swap] = field(default_factory=dict)
    ignored: list[Any] = field(default_factory=list)
    arrays: StateArrays = field(default_factory=StateArrays)
    _nodes: dict[Any, Expression] = field(default_factory=dict)
    _of_places: dict[Any, list[Expression]] = field(default_factory=dict)  # by identity
    _inputs: dict[Expression, Value] = field(default_factory=dict)
    _numbers: list[weakref.ref[Tensor]] = field(default_factory=list)
    _snapshots: list[Callable[[], None]] = field(default_factory=list)
    _refusal: str = ""  # why numbers that were set last are not known

    def __post_init__(self) -> None:
        self.lists = GrowingLists(self)
        self.sizes = HostSizes(self)
        self.firsts = FirstNumbers(self.swaps)

    # expressions ----------------------------------------------------------------
    def apply(self, function: Callable[..., Any], operands: tuple[Any, ...]) -> Expression:
        """The expression of a function's result; it raises what the function raises."""
        if function is operator.add:
            operands = in_one_step(*operands)
        parts = [o if isinstance(o, Expression) else (type(o), repr(o)) for o in operands]
        key = (function, *parts)
        known = self._nodes.get(key)
        if known is None:
            expressions = [o for o in operands if isinstance(o, Expression)]
            value = function(*[o.value if isinstance(o, Expression) else o for o in operands])
            moment = max(o.moment for o in expressions)
            known = Expression(self, value, moment, None, function, operands)
            self._nodes[key] = known
            if function in _OF_TWO_TYPES and not gives_one_type(function, operands):
                self.require("type", known, type(value))
        return known

    def number(self, expression: Expression) -> Any:
        """A tracer for an expression's number, or the number, on which the program then depends."""
        tracer = self._traced(expression)
        if isinstance(tracer, Tensor):
            self._numbers.append(weakref.ref(tracer))
        return tracer

    def _traced(self, expression: Expression) -> Any:
        value, kind = expression.value, type(expression.value)
        of_numpy = is_scalar(value)
        too_large = is_whole(value) and not -_INT64 <= int(value) < _INT64
        known = kind in (int, float) or of_numpy
        if not known or too_large or expression.size > MOST_NODES:
            return self.settle(expression)
        assert self.trace is not None
        dtype = int64 if is_whole(value) else float64
        mark = NumPyNumber.of if of_numpy else RuntimeNumber.of
        tensor = mark(Tensor._from_trace(self.trace, TensorType((), dtype, CPU)))
        tensor.__dict__["_expression"] = expression
        return tensor

    def argument(self, position: int, value: Any, name: str) -> Any:
        """A tracer for a number among the arguments, the leaf ``position``.

        Whether it is stored outside is asked of it as of other arguments.
        """
        return self._traced(self.place_expression(Argument(position, name), value))

    def place_expression(self, place: Argument | Extent, value: Any) -> Expression:
        """The expression of an argument or a size, whose value in the traced call is given."""
        known = self._nodes.get(place.identity)
        if known is None:
            known = self._nodes[place.identity] = Expression(self, value, 0, place)
        return known

    def decide(self, expression: Expression) -> bool:
        """The truth of an expression, on which the program then depends."""
        truth = bool(expression.value)
        self.require("truth", expression, truth)
        return truth

    def settle(self, expression: Expression) -> Any:
        """The value of an expression, on which the program then depends."""
        self.require("value", expression, expression.value)
        return expression.value

    def require(self, kind: str, expression: Expression, expected: Any) -> None:
        """Let the program hold only if this is so (``HostCondition``)."""
        location = user_location()
        key = kind, expression
        if expression.moment:
            self.effects.append(
                f"Python decides by a number that a step of this call sets (at {location})"
            )
            return
        self.conditions.setdefault(key, HostCondition(kind, expression, expected, location))

    def depends_on_act(self, location: Location | None) -> None:
        """Say that a split needs a number that an act of the same call sets."""
        self.effects.append(f"a value is needed (at {location}) that follows a step of this call")

    def root(self, expression: Expression) -> Root:
        """The graph's view of a number: an input, the same for all tracers of an expression."""
        value = self._inputs.get(expression)
        assert self.trace is not None
        type = TensorType((), int64 if is_whole(expression.value) else float64, CPU)
        if value is None:
            key = getattr(expression.place, "key", None)
            name = key if isinstance(key, str) else "number"
            source = InputSource("number", expression=expression, name=name)
            value = self._inputs[expression] = self.trace.add_input(type, source)
        return Root((), value, type)

    # places -----------------------------------------------------------------------
    def found(self, guard: Guard) -> bool:
        """Put a tracer where a value varies that the trace has just found; False if nothing that it
        holds counts."""
        if guard.kind == "item" and not isinstance(guard.expected, list):
            self.firsts.note(guard.owner, guard.key, guard.expected)
        if self.lifted.has_lists and can_grow(guard.expected):
            return not self._take_list(guard)
        place = place_of(guard)
        if place is None or place.identity not in self.lifted or place.identity in self.swaps:
            return True
        if guard.unread:
            value = place.present()
            self.swaps[place.identity] = Swap(place, value, UNREAD, 0, value)
        elif self.lifted.is_number(place.identity) and can_vary(guard):
            self._swap(place, 0)  # no act changed it yet
        elif not self.take(place):
            value = place.present()
            self.swaps[place.identity] = Swap(place, value, value, 0, value, guarded=True)
        return True

    def _take_list(self, guard: Guard) -> bool:
        """Put a tracer where a list only grows; whether there is one."""
        place = place_of_list(guard)
        if place is None or guard.unread or not self.lifted.is_list(place.identity):
            return False
        if self.lifted.raises == "at last" or place.identity in self.swaps:
            return False
        value, tracer = place.get(), self.lists.take(place)
        if tracer is not None:
            self.swaps[place.identity] = Swap(place, value, tracer, 0, value)
            place.put(tracer)
        return tracer is not None

    def take(self, place: Place) -> bool:
        """Put tracers for tensors where they vary; whether there are any."""
        assert self.tensors is not None
        value = place.present()
        tracer = None if value is MISSING else self.tensors.tracers(place, value)
        if tracer is None:
            return False
        self.swaps[place.identity] = Swap(place, value, tracer, 0, value)
        place.put(tracer)
        return True

    def holds(self, owner: Any, key: Any) -> bool:
        """Whether a place has a tracer, or had one, or a value, that the function replaced."""
        swap = self.swaps.get((id(owner), key))
        if swap is None or not swap.guarded:
            return swap is not None
        return swap.place.present() is not swap.original

    def is_lifted(self, guard: Guard) -> bool:
        """Whether a place had a tracer from the first, so that its value is not guarded."""
        place = place_of(guard)
        swap = None if place is None else self.swaps.get(place.identity)
        return swap is not None and swap.original is not UNSET and not swap.guarded

    def _swap(self, place: Place, moment: int) -> None:
        value = place.get()
        if type(value) in (tuple, list, Size):
            parts = [self._tracer(place.part(i), v, moment) for i, v in enumerate(value)]
            tracer: Any = type(value)(parts)
            self.ignored.append(tracer)
        else:
            tracer = self._tracer(place, value, moment)
        before = self.swaps.get(place.identity)
        original = before.original if before is not None else UNSET
        if moment == 0 and before is None:
            original = value
        self.swaps[place.identity] = Swap(place, value, tracer, moment, original)
        place.put(tracer)

    def _tracer(self, place: Place, value: Any, moment: int) -> Any:
        refusal = self._refusal if moment else ""
        expression = Expression(self, value, moment, place, refusal=refusal)
        self._of_places.setdefault(place.identity, []).append(expression)
        if not moment:
            self.require("type", expression, type(value))
        return self.number(expression)

    def require_constant(self, guards: Iterable[Guard], numbers: bool = True) -> None:
        """StateVaries if the function has changed what it may put tracers for, or write.

        ``numbers``: also where only numbers are written.
        """
        guards = list(guards)
        found, grown = [], places_of_grown(guards, self.lifted) if numbers else []
        for guard in guards:
            if guard.kind not in ("attribute", "item", "cell", "slot"):
                continue
            if guard.holds() and not self.firsts.was_set(guard.owner, guard.key):
                continue
            place = place_of(guard)
            if place is None or place.identity in self.swaps or self.lifted.knows(place.identity):
                continue
            if (numbers and can_vary(guard)) or is_written(guard, self.is_old):
                found.append(guard)
        if found or grown:
            raise StateVaries(found, grown)

    def require_known(self, values: Iterable[Any]) -> None:
        """StateVaries, or CompileError for those of arguments, if a cache of the function's has
        numbers that vary."""
        found = [e for e in map(expression_of, values) if e is not None]
        places = [p.place for e in found for p in e.places() if isinstance(p.place, Place)]
        if places:
            raise StateVaries(read=places)
        if found:
            raise unknown_value("a number that is remembered (functools.lru_cache)")

    # actions ----------------------------------------------------------------------
    def act(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        dictionaries: Sequence[dict[Any, Any]],
        entries: Sequence[tuple[dict[Any, Any], Callable[[Any], bool]]],
        name: str,
    ) -> None:
        """Let each call run ``function(*arguments)``, which changes entries of dictionaries.

        It is run here too, until the end of the trace, unless an argument is known only when the
        program has run. ``entries``: those that are read anew after it, by their keys.
        CompileError where it depends on what the program computes.
        """
        owners = {id(d) for d in dictionaries}
        for swap in [s for k, s in self.swaps.items() if k[0] in owners]:
            self._write_before(swap, name)
        self._snapshots.append(snapshot(dictionaries))
        for dictionary, is_set in entries:
            for key in filter(is_set, dictionary):
                first = dictionary[key]
                refuse_computed(first, name, str(key))
                first = list(first) if isinstance(first, list) else first
                self.firsts.note(dictionary, key, first)
        operands, values = [], []
        later = False
        for argument in arguments:
            expression = expression_of(argument)
            operands.append(argument if expression is None else expression)
            values.append(argument if expression is None else expression.value)
            later |= expression is None and isinstance(argument, Tensor)
        if later:
            self._refusal = (
                f"{name} takes a number that the program computes, so what it sets is not known "
                "in the same call. Call it at the end of the compiled function, after "
                "optimizer.step(), or outside"
            )
        else:
            with trace_paused():
                function(*values)
        self.moment += 1
        self.steps.append(Act(function, tuple(operands)))
        for dictionary, is_set in entries:
            for key, value in list(dictionary.items()):
                if is_set(key) and is_settable(value):
                    self._swap(Place(dictionary, key, str(key)), self.moment)
                    if self.trace is not None:
                        self.trace.exempt(dictionary, key)

    def _write_before(self, swap: Swap, name: str) -> None:
        present = swap.place.get()
        if present is swap.tracer:
            swap.place.put(swap.value)
            return
        leaves, structure = flatten(present)
        expressions = [expression_of(leaf) for leaf in leaves]
        pairs = list(zip(leaves, expressions, strict=True))
        refuse_computed(present, name, swap.place.name)
        values = [leaf if e is None else e.value for leaf, e in pairs]
        operands = tuple([leaf if e is None else e for leaf, e in pairs])
        self.steps.append(Write(swap.place, structure, operands))
        swap.place.put(unflatten(structure, iter(values)))

    def at_last(self, act: LastAct) -> None:
        """Let each call end with an act that sets no numbers."""
        self.last.append(act)

    def change_lists(self, lists: Sequence[Growing]) -> None:
        """Give up that these lists are tracers: StateVaries, or if ``happened``, for this call."""
        places = [place for growing in lists for place in growing.places]
        if places and not self.happened:
            raise StateVaries(read=places)
        self.lifted.make_constant(places)
        for growing in lists:
            growing.change_list()
            name = growing.places[0].name
            self.effects.append(f"{name} is read or given an object (at {user_location()})")

    def give_up_list(self, growing: Growing) -> None:
        """StateVaries as the function reads a list that is a tracer, unless something happened."""
        if self.tracing and not self.happenings.found and not self.happened:
            raise StateVaries(read=growing.places)

    # the end ------------------------------------------------------------------------
    def collect(self, result: Any, guards: Iterable[Guard], shared: frozenset[int]) -> None:
        """Note what the function has written. ``shared``: the containers that it returns, too."""
        old = {id(g.expected) for g in guards}
        appended = list(self.lists.steps())
        written = {i: s.place.present() for i, s in self.swaps.items()}
        written = {i: v for i, v in written.items() if v is not self.swaps[i].tracer}
        given = [value for growing, _ in appended for _, value in growing.calls]
        leaving = (result, *written.values(), *given)
        made = [id(part) for v in leaving for part in changeable_parts(v)]
        for growing, steps in appended:
            parts = [id(part) for _, value in growing.calls for part in changeable_parts(value)]
            leaves = [leaf for step in steps for leaf in step.operands]
            is_shared = any(made.count(p) > 1 or p in shared or self.is_old(p) for p in parts)
            if is_shared or not all(self._is_known(leaf, old) for leaf in leaves):
                self.change_lists([growing])
            else:
                self.steps += steps
        for identity, present in written.items():
            swap = self.swaps[identity]
            if present is MISSING:
                del self.swaps[identity]  # it stays away
                for expression in self._of_places.get(identity, ()):
                    expression.keep()
                self.effects.append(f"{swap.place.name} is deleted")
                continue
            parts = [id(part) for part in changeable_parts(present)]
            leaves, structure = flatten(present)
            is_shared = any(made.count(p) > 1 or p in shared or self.is_old(p) for p in parts)
            if is_shared or not all(self._is_known(leaf, old) for leaf in leaves):
                del self.swaps[identity]  # what is there stays
                self.effects.append(f"{swap.place.name} is given an object (at {user_location()})")
                continue
            self.steps.append(Write(swap.place, structure, tuple(leaves)))
        self.steps += self.refills
        self.refills = [replace(change, operands=()) for change in self.refills]

    def _is_known(self, value: Any, old: set[int]) -> bool:
        """Whether a call can have a part of what is written; ``old``: ids of what was there."""
        if isinstance(value, Tensor):
            return value._trace is self.trace or id(value) in old
        return isinstance(value, (SymbolicDim, Size)) or is_constant(value)

    def finish(self, outputs: Any) -> None:
        """Let the steps know where a call finds what they write, and all places be as before.

        ``outputs`` classifies tensors and numbers (``traced_results.Outputs``).
        """
        for number, step in enumerate(self.steps):
            operands = tuple([_operand(o, outputs) for o in step.operands])
            self.steps[number] = replace(step, operands=operands)
        for number, last in enumerate(self.last):
            given = tuple([outputs.classify(t) for t in last.given])
            operands = tuple([outputs.classify(o) for o in last.operands])
            self.last[number] = replace(last, given=given, operands=operands)
        self.rewind()

    def rewind(self) -> None:
        """Give Python's state the values from before the trace; may be repeated."""
        while self._snapshots:
            self._snapshots.pop()()
        for swap in self.swaps.values():
            if swap.original is UNSET:
                continue
            owner, key = swap.place.owner, swap.place.key
            if type(owner) is list and key >= len(owner):  # cut off; other guards know the rest
                owner.extend([None] * (key + 1 - len(owner)))
            swap.place.put(swap.original)

    def escaped(self) -> list[Tensor]:
        """Tracers that are still alive."""
        self.ignored.clear()
        if self.tensors is not None:
            self.tensors.release()
        for swap in self.swaps.values():
            swap.tracer = None
        alive = (ref() for ref in self._numbers)
        return [t for t in alive if t is not None]

    def release(self) -> None:
        """Let go of the trace: expressions are evaluated from now on."""
        self.trace = None
        self.tracing = False
        self._nodes.clear()
        self._of_places.clear()
        self._inputs.clear()
        self._numbers.clear()
        self.ignored.clear()
        self.swaps.clear()
        self.firsts.clear()
        self.is_old = lambda identity: False  # which knows all guards of the trace
        self.tensors = None


def _operand(value: Any, outputs: Any) -> Any:
    """What a step is given: an expression of numbers, or where a call has it."""
    if isinstance(value, Expression):
        return value
    return expression_of(value) or outputs.classify(value)
