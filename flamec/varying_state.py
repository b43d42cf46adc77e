"""Which places of Python's state a function's programs take as inputs, and which they write.

In: guards of traces that do not hold when the function has returned, or no longer hold at a later
call. Out: the places (``Lifted``) where the next trace puts tracers, or whose values its program
writes at each call. A number varies when another is found there; a tensor when the function itself
puts one there, or when others did so twice.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FunctionType, MemberDescriptorType
from typing import Any

from flamec.growing_lists import can_grow
from flamec.guarded_values import MISSING, Guard, class_attribute, is_constant
from flamec.host_numbers import Inherited, Place
from flamec.ir.shape import SymbolicDim
from flamec.structures import Structure, flatten
from flamec.tensor import RuntimeNumber, Size, Tensor

MOST_PLACES = 1024  # of each kind, that a function remembers
OFTEN = 2  # times that others put a tensor in a place before it is an input
Identity = tuple[int, Any]


class StateVaries(BaseException):  # code that handles errors must not handle it
    """Python's state changed in the trace; it must start again, knowing which places do."""

    def __init__(
        self, guards: Sequence[Guard] = (), grown: Sequence[Place] = (), read: Sequence[Place] = ()
    ) -> None:
        super().__init__("state changes")
        self.guards = guards
        self.grown = grown  # places of lists that may be tracers
        self.read = read  # and of those that may not


# guards and places --------------------------------------------------------------------------


def place_of(guard: Guard) -> Place | None:
    """Where the value of a guard is kept; None where the function cannot put another."""
    owner, key = guard.owner, guard.key
    if guard.kind in ("attribute", "item", "cell"):
        return Place(owner, key, guard.name)
    if guard.kind != "slot" or key.startswith("__"):
        return None
    if isinstance(owner, type):
        return Place(owner, key, guard.name) if key in vars(owner) else None
    found = class_attribute(type(owner), key)
    if isinstance(found, MemberDescriptorType):
        return Place(owner, key, guard.name)
    if isinstance(found, FunctionType) or hasattr(found, "__set__"):
        return None
    try:  # what the class has; the instance gets one of its own
        held = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    if found is guard.expected and (found is None or type(found) is bool or _is_numbers(found)):
        return Inherited(held, key, guard.name, kind=type(owner))
    return Place(held, key, guard.name)


def can_vary(guard: Guard) -> bool:
    """Whether a guard is on a number, or a tuple of numbers, whose place can hold another."""
    if guard.kind == "slot":
        is_own = isinstance(guard.owner, type) and guard.key in vars(guard.owner)
        if not is_own and not isinstance(place_of(guard), Inherited):
            return False
    elif guard.kind not in ("attribute", "item", "cell"):
        return False
    if issubclass(type(guard.expected), RuntimeNumber) or not _is_numbers(guard.expected):
        return False
    present = guard.present()
    return isinstance(present, SymbolicDim) or _is_numbers(present)


def _is_numbers(value: Any) -> bool:
    if type(value) in (tuple, Size):
        return bool(value) and all(is_number(v) for v in value)
    return is_number(value)


def places_of_grown(guards: Sequence[Guard], lifted: Lifted) -> list[Place]:
    """Where the lists and deques are whose length is another than when the trace found them."""
    changed = {
        id(guard.owner)
        for guard in guards
        if guard.kind in ("length", "content") and can_grow(guard.owner) and not guard.holds()
    }
    places = [place_of_list(g) for g in guards if id(g.expected) in changed] if changed else []
    return [p for p in places if p is not None and not lifted.knows(p.identity)]


def place_of_list(guard: Guard) -> Place | None:
    """As ``place_of``; of a list that an instance has from its class, there."""
    owner, key = guard.owner, guard.key
    if guard.kind != "slot" or isinstance(owner, type):
        return place_of(guard)
    for base in type(owner).__mro__:
        if vars(base).get(key) is guard.expected:
            return Place(base, key, guard.name)
    return place_of(guard)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) or issubclass(type(value), RuntimeNumber)


def is_settable(value: Any) -> bool:
    """Whether a value is a number, or a tuple or list of numbers."""
    if type(value) in (tuple, list):
        return bool(value) and all(map(is_number, value))
    return is_number(value)


def holds_tensors(value: Any) -> bool:
    """Whether a value is a tensor or a container of some."""
    if isinstance(value, Tensor):
        return not isinstance(value, RuntimeNumber)
    if is_constant(value):
        return False
    return any(isinstance(leaf, Tensor) for leaf in flatten(value)[0])


def is_unchangeable(structure: Structure) -> bool:
    """Whether all containers are tuples, so that nobody can tell equal ones apart."""
    kind = structure.kind
    if kind is None:
        return True
    return issubclass(kind, tuple) and all(map(is_unchangeable, structure.children))


def changeable_parts(value: Any) -> Iterator[Any]:
    """The lists, dicts and dataclasses in a value, itself included."""
    if isinstance(value, Tensor) or is_constant(value):
        return
    structure = flatten(value)[1]
    if structure.kind is None:
        return
    if not issubclass(structure.kind, tuple):
        yield value
    if isinstance(value, (list, tuple)):
        parts: Iterable[Any] = value
    elif isinstance(value, dict):
        parts = value.values()
    else:
        parts = [getattr(value, name) for name in structure.keys]
    for part in parts:
        yield from changeable_parts(part)


def is_written(guard: Guard, is_old: Callable[[int], bool]) -> bool:
    """Whether a traced function put something in a guard's place that a program can put there.

    What a call makes anew each time: tensors, tuples of them, constants in place of those, flags,
    shapes, numbers in the place of None; where it has not read what was there, any number, and
    lists, dicts and dataclasses with tensors that are not ``is_old``, by id.
    """
    present = guard.present()
    if present is MISSING:
        return False
    leaves, structure = flatten(present)
    if not all(isinstance(v, (Tensor, SymbolicDim, Size)) or is_constant(v) for v in leaves):
        return False
    if any(is_old(id(part)) for part in changeable_parts(present)):
        return False
    if guard.unread:
        return holds_tensors(present) or isinstance(present, (int, float, type(None)))
    if not is_unchangeable(structure):
        return False
    if any(isinstance(v, Tensor) and v._trace is not None for v in leaves):
        return True
    if holds_tensors(guard.expected):
        return True
    if all(isinstance(v, SymbolicDim) or _is_numbers(v) for v in (present, guard.expected)):
        return False  # such places are inputs, see ``can_vary``
    return _is_setting(present) and _is_setting(guard.expected)


def _is_setting(value: Any) -> bool:
    """Whether a value is None, a flag, a number or a tuple of such values, as shapes are."""
    if isinstance(value, tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, (int, float, SymbolicDim))


def holds_tracers(value: Any) -> bool:
    """Whether a value is a tensor of a trace or a container of some."""
    if is_constant(value):
        return False
    return any(isinstance(v, Tensor) and v._trace is not None for v in flatten(value)[0])


# memory -------------------------------------------------------------------------------------


class SizesOfState:
    """The sizes that tensors in places had, and which of them have been others since.

    ``vary``: None: a size is symbolic from its second value on; True: from the first; False: never.
    """

    def __init__(self) -> None:
        self.vary: bool | None = None
        self._first: dict[Any, tuple[int, ...]] = {}
        self._varying: dict[Any, set[int]] = {}

    def varying(self, key: Any, tensor: Tensor) -> dict[int, tuple[int, int]]:
        """The axes of a tensor whose sizes vary, each with its first size and the one now."""
        shape: Any = tensor._type.shape
        key = (key, len(shape), tensor._type.dtype.name)
        first = self._first.setdefault(key, shape)
        axes = self._varying.setdefault(key, set())
        if self.vary is not False:
            axes |= {i for i, size in enumerate(shape) if size != first[i]}
        if self.vary:
            axes |= {i for i, size in enumerate(shape) if size > 1}
        return {} if self.vary is False else {i: (first[i], shape[i]) for i in sorted(axes)}

    def clear(self) -> None:
        self._first.clear()
        self._varying.clear()


class Lifted:
    """The places of a function whose values vary; it keeps their owners alive.

    ``raises``: when a trace in which others vary ends: ``"at once"``, when the function has
    returned, ``"at last"``, if it then has no other effects, or ``"never"``. ``sizes``: of tensors.
    """

    def __init__(self, raises: str = "at once") -> None:
        self._numbers: OrderedDict[Identity, Any] = OrderedDict()
        self._others: OrderedDict[Identity, Any] = OrderedDict()
        self._lists: OrderedDict[Identity, Any] = OrderedDict()
        self._constant: OrderedDict[Identity, Any] = OrderedDict()
        self._replaced: Counter[Identity] = Counter()
        self.raises = raises
        self.sizes = SizesOfState()

    def begin(
        self, programs: Iterable[Sequence[Guard]], runs_python: bool, sizes: bool | None
    ) -> None:
        """A call is to be traced: let places vary that are not what programs were made for, given
        their guards, unless Python code sees plain numbers and sizes."""
        self.raises = "at last" if runs_python else "at once"
        self.sizes.vary = False if runs_python else sizes
        if not runs_python:
            for guards in programs:
                self.add_lists(places_of_grown(guards, self))
                self.replaced([g for g in guards if not g.holds()])

    def __contains__(self, identity: Identity) -> bool:
        return any(identity in known for known in self._kinds)

    def __bool__(self) -> bool:
        return any(self._kinds)

    @property
    def _kinds(self) -> tuple[OrderedDict[Identity, Any], ...]:
        return self._numbers, self._others, self._lists

    @property
    def has_numbers(self) -> bool:
        return bool(self._numbers)

    def is_number(self, identity: Identity) -> bool:
        """Whether numbers of a place vary, so that a tracer may stand for one."""
        return identity in self._numbers

    @property
    def has_lists(self) -> bool:
        return bool(self._lists)

    def is_list(self, identity: Identity) -> bool:
        """Whether a place holds a list to which the function only appends."""
        return identity in self._lists

    def add(self, guards: Iterable[Guard]) -> None:
        """Let places vary from now on."""
        for guard in guards:
            place = place_of(guard)
            if place is not None and place.identity not in self._constant:
                known = self._numbers if can_vary(guard) else self._others
                known[place.identity] = place.owner
        self._bound()

    def add_lists(self, places: Iterable[Place]) -> None:
        """Let lists in these places be tracers from now on."""
        self._lists.update(
            {p.identity: p.owner for p in places if p.identity not in self._constant}
        )
        self._bound()

    def make_constant(self, places: Iterable[Place]) -> None:
        """Let places hold what they hold: the function reads it."""
        for place in places:
            self._constant[place.identity] = place.owner
            for known in self._kinds:
                known.pop(place.identity, None)

    def _bound(self) -> None:
        for known in self._kinds:
            while len(known) > MOST_PLACES:
                known.popitem(last=False)

    def replaced(self, guards: Iterable[Guard]) -> None:
        """Note that between calls others have put something else in the places of ``guards``."""
        found: dict[Identity, Guard] = {}
        for guard in guards:
            if can_vary(guard):
                self.add([guard])
            elif type(guard.present()) is Tensor and guard.kind not in ("content", "entries"):
                place = place_of(guard)
                if place is not None:
                    found[place.identity] = guard
        for identity, guard in found.items():
            self._replaced[identity] += 1
            if self._replaced[identity] >= OFTEN:
                self.add([guard])

    def knows(self, identity: Identity) -> bool:
        return identity in self or identity in self._constant

    def with_fewer(self) -> Lifted:
        """What to try where a trace fails: first without numbers that vary, then with nothing."""
        if not self._numbers and not self._lists:
            return Lifted("never")
        fewer = Lifted(self.raises)
        fewer._others.update(self._others)
        fewer._constant.update(self._constant | self._numbers | self._lists)
        fewer.sizes = self.sizes
        return fewer

    def keep(self, fewer: Lifted) -> None:
        """Take all values for constants that vary, but not in ``fewer``: Python asks for them."""
        for known in self._kinds:
            for identity in [i for i in known if i not in fewer]:
                self._constant[identity] = known.pop(identity)
        while len(self._constant) > MOST_PLACES:
            self._constant.popitem(last=False)

    def clear(self) -> None:
        for known in (*self._kinds, self._constant):
            known.clear()
        self._replaced.clear()
        self.sizes.clear()
