"""What a plan does, as data: launches, copies, calls of the host, loops and branches.

In a program for a GPU they stand in order; one in C has its loops and branches in its text.
``unrolled`` turns loops into what is done step by step; ``action_of`` reads an action back from
JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flamec.ir.shape import Dim, evaluate_dim, parse_dim
from flamec.ir.types import DType, dtype_named


@dataclass(frozen=True, slots=True)
class Argument:
    """What a launch passes for one parameter that is not a constant.

    A number: ``value``, where ``buffer`` is -1. A pointer: ``value`` bytes behind the start of
    a buffer. A tensor descriptor: ``shape`` and ``strides`` (in elements, the last is 1) of the
    array that starts there, too.
    """

    buffer: int = -1
    value: Dim | float = 0
    shape: tuple[Dim, ...] = ()
    strides: tuple[Dim, ...] = ()


@dataclass(frozen=True, slots=True)
class Launch:
    """Run ``ExecutionPlan.kernels[kernel]``; nothing happens if a dimension of the grid is 0.

    Bounds of the first dimension of the grid for persistent kernels, 0 for none: ``most_blocks``,
    and ``per_processor`` blocks for each multiprocessor of the device. ``step``: the plan's step
    that the launch belongs to, -1 if none.
    """

    kernel: int
    grid: tuple[Dim, Dim, Dim]
    arguments: tuple[Argument, ...]
    most_blocks: int = 0
    per_processor: int = 0
    step: int = -1


@dataclass(frozen=True, slots=True)
class Fill:
    """Set the first ``bytes`` bytes of a buffer to ``byte``."""

    buffer: int
    bytes: Dim
    byte: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy ``bytes`` bytes of ``source`` to ``target``, which must not overlap it.

    The offsets say at which byte of the buffers they begin.
    """

    source: int
    target: int
    bytes: Dim
    source_offset: int = 0
    target_offset: int = 0


@dataclass(frozen=True, slots=True)
class HostOperand:
    """A buffer as a dense array that begins ``offset`` bytes behind its start."""

    buffer: int
    shape: tuple[Dim, ...]
    dtype: DType
    offset: int = 0


@dataclass(frozen=True, slots=True)
class HostCall:
    """Compute the operation ``op`` by its NumPy meaning, in the host's memory.

    All operands are read before a result is written. ``attributes`` are numbers, bools and text;
    ``location`` is the user's line; ``sizes``: attributes that are symbolic sizes.
    """

    op: str
    attributes: Mapping[str, Any]
    operands: tuple[HostOperand, ...]
    results: tuple[HostOperand, ...]
    location: str = ""
    sizes: Mapping[str, Dim] = field(default_factory=dict)

    def bound(self, bindings: Mapping[str, int]) -> HostCall:
        """The call with the sizes among its attributes."""
        found = {name: evaluate_dim(size, bindings) for name, size in self.sizes.items()}
        return replace(self, attributes={**self.attributes, **found}, sizes={}) if found else self


@dataclass(frozen=True, slots=True)
class Window:
    """In a loop the buffer ``buffer`` is element i of the array ``base``: ``stride`` bytes."""

    buffer: int
    base: int
    stride: Dim


@dataclass(frozen=True, slots=True)
class Carried:
    """A value of ``bytes`` bytes that each step of a loop reads as ``old`` and writes as ``new``.

    ``old`` is ``start`` in the first step, then what ``new`` was; ``new`` is ``other`` and ``last``
    in turns, in the last step ``last``. Without steps ``last`` becomes a copy of ``start``.
    """

    old: int
    new: int
    start: int
    last: int
    other: int
    bytes: Dim


@dataclass(frozen=True, slots=True)
class Loop:
    """Do ``actions`` ``count`` times, with the windows at element 0, 1, … (``reverse``: from the
    last to the first). A program in C has the loop in its text; then ``actions`` is empty.

    How many steps there are may be known to the running program alone; ``count`` is then the most,
    None for any number. Where ``counter`` is a buffer, the int64 in it says how many (from element
    0 on, in both directions). Where ``predicate`` is one, ``test`` is done before each step, and
    then the bool in it says whether there is one. ``made``: the buffer that gets the number of
    steps. Elements of the windows ``stacked`` without a step become zero. ``location`` is the
    user's line, ``step`` the plan's step.
    """

    count: Dim | None
    reverse: bool
    windows: tuple[Window, ...]
    carried: tuple[Carried, ...]
    actions: tuple[Action, ...]
    counter: int = -1
    test: tuple[Action, ...] = ()
    predicate: int = -1
    made: int = -1
    stacked: tuple[Window, ...] = ()
    location: str = ""
    step: int = -1

    @property
    def is_counted_before(self) -> bool:
        """Whether the sizes alone say how many steps there are."""
        return self.counter < 0 and self.predicate < 0


@dataclass(frozen=True, slots=True)
class Branch:
    """Do ``first`` if the bool in the buffer ``predicate`` is true, else ``second``.

    A program in C has the branch in its text; then there are no actions.
    """

    predicate: int
    first: tuple[Action, ...]
    second: tuple[Action, ...]
    location: str = ""
    step: int = -1


Action = Launch | Fill | Copy | HostCall | Loop | Branch


Places = Mapping[int, tuple[int, int]]  # of windows: a buffer, and a place in it in bytes


@dataclass(frozen=True, slots=True)
class Undecided:
    """A loop or branch whose steps only the running program knows, in a list that was unrolled.

    ``places``: of the windows of loops around it.
    """

    action: Loop | Branch
    places: Places

    def place(self, buffer: int) -> tuple[int, int]:
        """The buffer and the place in it that a buffer of the action is."""
        return _place(self.places, buffer)


def _place(places: Places, buffer: int) -> tuple[int, int]:
    return places.get(buffer, (buffer, 0))


def unrolled(
    actions: Sequence[Action], bindings: Mapping[str, int], places: Places | None = None
) -> Iterator[Action | Undecided]:
    """The actions in the order in which they are done, those of a loop once for each step.

    They are about whole buffers and places in them: there are no loops and no windows any more,
    but those inside of a ``Undecided``. ``places``: where windows are from the start.
    """
    places = places or {}
    for action in actions:
        if isinstance(action, Branch) or (
            isinstance(action, Loop) and not action.is_counted_before
        ):
            yield Undecided(action, places)
            continue
        if not isinstance(action, Loop):
            yield _placed(action, places) if places else action
            continue
        assert action.count is not None
        count = evaluate_dim(action.count, bindings)
        strides = [evaluate_dim(w.stride, bindings) for w in action.windows]
        if count == 0:
            for c in action.carried:
                yield _placed(Copy(c.start, c.last, c.bytes), places)
        for step in range(count):
            element = count - 1 - step if action.reverse else step
            inside = dict(places)
            for window, stride in zip(action.windows, strides, strict=True):
                base, offset = _place(places, window.base)
                inside[window.buffer] = base, offset + element * stride
            for c in action.carried:
                turns = (c.last, c.other)
                old = c.start if step == 0 else turns[(count - step) % 2]
                new = turns[(count - 1 - step) % 2]
                inside[c.old] = _place(places, old)
                inside[c.new] = _place(places, new)
            yield from unrolled(action.actions, bindings, inside)


def _placed(action: Action, places: Places) -> Action:
    """An action with places in whole buffers in place of windows."""
    place = partial(_place, places)
    match action:
        case Launch():
            arguments = []
            for a in action.arguments:
                buffer, offset = place(a.buffer)
                arguments.append(
                    replace(a, buffer=buffer, value=a.value + offset)
                    if offset
                    else replace(a, buffer=buffer)
                )
            return replace(action, arguments=tuple(arguments))
        case Copy():
            source, behind = place(action.source)
            target, offset = place(action.target)
            return Copy(
                source,
                target,
                action.bytes,
                action.source_offset + behind,
                action.target_offset + offset,
            )
        case HostCall():
            return replace(
                action,
                operands=tuple(_placed_operand(o, *place(o.buffer)) for o in action.operands),
                results=tuple(_placed_operand(o, *place(o.buffer)) for o in action.results),
            )
        case Fill() if action.buffer not in places:
            return action
    raise ValueError(f"{action} cannot stand in a loop")


def _placed_operand(operand: HostOperand, buffer: int, offset: int) -> HostOperand:
    return replace(operand, buffer=buffer, offset=operand.offset + offset)


# from JSON --------------------------------------------------------------------------------


def action_of(data: dict[str, Any]) -> Action:
    """The action with these fields; each kind of action has a field that no other has."""
    if "windows" in data:
        return Loop(
            count=None if data["count"] is None else dim_of(data["count"]),
            reverse=data["reverse"],
            windows=tuple(map(_window, data["windows"])),
            carried=tuple(Carried(**{**c, "bytes": dim_of(c["bytes"])}) for c in data["carried"]),
            actions=tuple(map(action_of, data["actions"])),
            counter=data["counter"],
            test=tuple(map(action_of, data["test"])),
            predicate=data["predicate"],
            made=data["made"],
            stacked=tuple(map(_window, data["stacked"])),
            location=data["location"],
            step=data["step"],
        )
    if "first" in data:
        first, second = (tuple(map(action_of, data[k])) for k in ("first", "second"))
        return Branch(data["predicate"], first, second, data["location"], data["step"])
    if "kernel" in data:
        x, y, z = data["grid"]
        return Launch(
            kernel=data["kernel"],
            grid=(dim_of(x), dim_of(y), dim_of(z)),
            arguments=tuple(
                Argument(
                    buffer=a["buffer"],
                    value=a["value"] if isinstance(a["value"], float) else dim_of(a["value"]),
                    shape=tuple(dim_of(d) for d in a["shape"]),
                    strides=tuple(dim_of(d) for d in a["strides"]),
                )
                for a in data["arguments"]
            ),
            most_blocks=data["most_blocks"],
            per_processor=data["per_processor"],
            step=data["step"],
        )
    if "op" in data:
        return HostCall(
            op=data["op"],
            attributes={k: _tuples(v) for k, v in data["attributes"].items()},
            operands=tuple(_host_operand(o) for o in data["operands"]),
            results=tuple(_host_operand(o) for o in data["results"]),
            location=data["location"],
            sizes={k: dim_of(v) for k, v in data["sizes"].items()},
        )
    if "byte" in data:
        return Fill(data["buffer"], dim_of(data["bytes"]), data["byte"])
    return Copy(**{**data, "bytes": dim_of(data["bytes"])})


def _window(data: dict[str, Any]) -> Window:
    return Window(data["buffer"], data["base"], dim_of(data["stride"]))


def _tuples(value: Any) -> Any:
    """What JSON made lists of."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _host_operand(data: dict[str, Any]) -> HostOperand:
    shape = tuple(dim_of(d) for d in data["shape"])
    return HostOperand(data["buffer"], shape, dtype_named(data["dtype"]), data["offset"])


def dim_of(data: int | str) -> Dim:
    """A size, which is a text where it is symbolic."""
    return data if isinstance(data, int) else parse_dim(data)
