"""Write the statements of a program as Triton over blocks.

All values are blocks with two dimensions, rows and columns; what does not vary along one has
size 1 there and broadcasts. ``StatementWriter`` remembers for each name along which it varies:
a string with ``r``, ``c``, both or none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flamec.codegen.triton.rounded_values import Rounding
from flamec.codegen.triton.text import TYPES, constant, dim, factor, operation
from flamec.ir.kernel import (
    Call,
    CheckedIndex,
    Compute,
    ComputedIndex,
    Constant,
    Fold,
    Keep,
    Linear,
    Load,
    Place,
    Position,
    RandomBits,
    Recall,
    Statement,
    Store,
    in_table,
)
from flamec.ir.op import lookup
from flamec.ir.shape import Dim, is_multiple, structurally_equal

MASKS = {"": "", "r": "row_mask", "c": "col_mask", "rc": "mask"}

ATOMIC = {"sum": "add", "amax": "max", "amin": "min"}  # what memory combines by itself


def is_zero(size: Dim) -> bool:
    return structurally_equal(size, 0)


def joined(*varying: str) -> str:
    """Along which dimensions a value varies that is made of others."""
    return "".join(axis for axis in "rc" if any(axis in v for v in varying))


@dataclass(frozen=True)
class TableRoom:
    """A table in a block's shared memory: its first bytes begin at ``offset``; what a number has
    beyond 32 bits is ``apart`` bytes behind them, so that neighbours have banks of their own."""

    memory: str
    start: int
    offset: int
    apart: int

    def function(self, name: str, *arguments: str) -> str:
        return f"flamec_table_{name}_{self.memory}({', '.join(arguments)})"

    def at(self, element: str) -> str:
        return f"shared + ({self.offset} + 4 * ({element}).to(tl.int32)), {self.apart}"


@dataclass
class StatementWriter:
    """Writes statements for one kernel.

    ``rows`` and ``inner`` name the loop variables; ``pointer`` is the prefix of parameters;
    ``product`` names the block that holds a matrix product, parameter -1 and the given one;
    ``reuse``: a load of a place that was loaded before gives the same block (not across
    iterations of loops); ``run``: random bits are made for so many elements at a time along the
    only inner loop, whose first ones are ``first_of_run`` (0: for each alone); ``atomic``: stores
    that combine do so at once; ``rounding``: which operations use their cheaper text and which
    need not round. ``tables`` are where the program's are in shared memory.
    """

    rows: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    pointer: str = "p"
    product: str = ""
    product_parameter: int = -1
    reuse: bool = False
    run: int = 0
    atomic: bool = False
    tables: Sequence[TableRoom] = ()
    rounding: Rounding = field(default_factory=Rounding)
    varying: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)
    parameters: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)
    masks: Mapping[str, str] = field(default_factory=lambda: MASKS)
    _loaded: dict[tuple[Place, str, str], str] = field(default_factory=dict)

    def name(self, name: str) -> str:
        return self.aliases.get(name, name)

    def axes(self, name: str) -> str:
        return self.varying.get(self.name(name), "")

    # addresses -----------------------------------------------------------------------
    def linear(self, at: Linear) -> tuple[str, str]:
        """An index as text, and along what it varies."""
        terms, axes = [], set()
        loops = [(name, stride, "r") for name, stride in zip(self.rows, at.rows, strict=False)]
        loops += [(name, stride, "c") for name, stride in zip(self.inner, at.inner, strict=False)]
        for name, stride, axis in loops:
            if is_zero(stride):
                continue
            axes.add(axis)
            terms.append(name if structurally_equal(stride, 1) else f"{name} * {factor(stride)}")
        if not is_zero(at.offset) or not terms:
            terms.append(factor(at.offset))
        return " + ".join(terms), joined(*axes)

    def _place(self, place: Place, at_least: str) -> tuple[str, str, list[str]]:
        """Pointer, along what it varies, and the conditions under which it may be used."""
        element, axes, conditions = self._element(place, at_least)
        self.parameters.add(place.parameter)
        return f"{self.pointer}{place.parameter} + ({element})", axes, conditions

    def _element(self, place: Place, at_least: str) -> tuple[str, str, list[str]]:
        """The number of an element, along what it varies, and the conditions for using it."""
        at, axes = self.linear(place.at)
        terms: list[str] = [at]
        conditions: list[str] = []
        wanted = at_least  # a block of conditions needs a block of pointers
        for index in place.indices:
            position, inside = self.wrapped(index)
            axes = joined(axes, self.axes(index.name))
            terms.append(f"{position} * {factor(index.stride)}")
            if inside:
                conditions.append(inside)
        for guard, size in place.guards:
            text, guard_axes = self._guard(guard, size)
            wanted = joined(wanted, guard_axes)
            conditions.append(text)
        for axis in wanted:
            if axis not in axes:
                terms.append("no_row" if axis == "r" else "no_col")
        axes = joined(axes, wanted)
        if not axes:
            terms.append("zero")
        mask = self.masks[axes]
        return " + ".join(terms), axes, [*([mask] if mask else []), *conditions]

    def wrapped(self, index: ComputedIndex | CheckedIndex) -> tuple[str, str]:
        """The element that an index means, and whether it exists ("": it does)."""
        name = self.name(index.index if isinstance(index, CheckedIndex) else index.name)
        if isinstance(index, ComputedIndex) and index.inside:
            return name, ""
        position = f"tl.where({name} < 0, {name} + ({dim(index.size)}), {name})"
        return position, f"({position} >= 0) & ({position} < {dim(index.size)})"

    def _reports(self, place: Place) -> list[str]:
        """The lines that report indices of a place that are out of range."""
        used = [text for text, _ in (self._guard(*guard) for guard in place.guards)]
        checked = (i for i in place.indices if i.error and not i.inside)
        return [self._report(i, i.name, used) for i in checked]

    def _report(self, index: ComputedIndex | CheckedIndex, name: str, used: list[str]) -> str:
        if isinstance(index, CheckedIndex) and index.lane == "b":
            inside, detail = self.name(name), "0"
        else:
            (_, inside), detail = self.wrapped(index), self.name(name)
        mask = self.masks[self.axes(name)]
        along = index.along if isinstance(index, ComputedIndex) else ()
        some = [f"((zero + {factor(size)}) > 0)" for size in along]
        bad = " & ".join([*([mask] if mask else []), *some, *used, f"(({inside}) == 0)"])
        return f"flamec_report(errors, {index.error}, zero + {detail}, {bad})"

    def _guard(self, guard: Linear, size: Dim) -> tuple[str, str]:
        """The condition under which a guarded place is there, and along what it varies."""
        text, axes = self.linear(guard)
        index = text if axes else f"(zero + {text})"
        return f"((({index}) >= 0) & (({index}) < {dim(size)}))", axes

    # statements ----------------------------------------------------------------------
    def write(self, s: Statement, at_least: str = "") -> list[str]:
        """The lines of a statement; a store covers at least the dimensions ``at_least``."""
        match s:
            case Load():
                return self._load(s)
            case CheckedIndex():
                return [self._report(s, s.index, []), self._checked(s)]
            case Constant():
                self.varying[s.name] = ""
                return [f"{s.name} = {constant(s.lane, s.value)}"]
            case Position():
                at, axes = self.linear(s.at)
                self.varying[s.name] = axes
                return [f"{s.name} = (zero + {at}).to({TYPES[s.lane]})"]
            case Compute():
                return [self._compute(s)]
            case Call():
                return [self._call(s)]
            case RandomBits():
                return self._random(s)
            case Store():
                return self._store(s, at_least)
            case Keep():
                self.kept[s.slot] = self.name(s.operand)
                return []
            case Recall():
                self.aliases[s.name] = self.kept[s.slot]
                return []
            case Fold():
                raise AssertionError("folds are written by the program's writer")

    def _load(self, s: Load) -> list[str]:
        if self.tables and s.place.parameter <= in_table(0):
            return self._load_of_table(s)
        if s.place.parameter == -1 or (
            self.product and s.place.parameter == self.product_parameter
        ):
            self.aliases[s.name] = self.product
            return []
        key = (s.place, self.name(s.fill), s.lane)
        if self.reuse and s.place.parameter not in self.written:
            if key in self._loaded:
                self.aliases[s.name] = self._loaded[key]
                return []
            self._loaded[key] = s.name
        pointer, axes, conditions = self._place(s.place, "")
        text = self._loaded_text(s, pointer, axes, conditions)
        guards = conditions[1 if self.masks[axes] else 0 :]
        if s.fill and guards:
            fill = self.name(s.fill)
            axes = joined(axes, self.axes(s.fill))
            text = f"tl.where({' & '.join(guards)}, {text}, {fill})"
        self.varying[s.name] = axes
        return [*self._reports(s.place), f"{s.name} = {text}"]

    def _load_of_table(self, s: Load) -> list[str]:
        element, axes, conditions = self._element(s.place, "rc")
        self.varying[s.name] = axes
        room = self.tables[in_table(s.place.parameter)]
        there = f"tl.where({' & '.join(conditions)}, {element}, 0)" if conditions else element
        return [f"{s.name} = {room.function('get', room.at(there))}"]

    def _store_in_table(self, s: Store) -> list[str]:
        element, _, conditions = self._element(s.place, "rc")
        if s.where:
            conditions.append(self.name(s.where))
        room = self.tables[in_table(s.place.parameter)]
        arguments = room.at(element), self.name(s.operand), " & ".join(conditions)
        return [*self._reports(s.place), room.function(ATOMIC[s.combine], *arguments)]

    def looked_up(self, s: Load) -> str:
        """A block as it lies in memory, zeros where there is none."""
        pointer, _, conditions = self._place(s.place, "rc")
        return load(pointer, [f"({condition})" for condition in conditions])

    def _loaded_text(self, s: Load, pointer: str, axes: str, conditions: list[str]) -> str:
        return loaded(s.memory, pointer, conditions, self._in_pairs(s.place, axes))

    def _in_pairs(self, place: Place, axes: str) -> bool:
        """Whether a thread is likely to load neighbours, two in a register."""
        return "c" in axes and place.at.inner[-1:] == (1,) and not place.indices

    def _checked(self, s: CheckedIndex) -> str:
        self.varying[s.name] = self.axes(s.index)
        if s.lane == "b":
            return f"{s.name} = {self.name(s.index)}"
        position, _ = self.wrapped(s)
        return f"{s.name} = tl.maximum(tl.minimum({position}, ({dim(s.size)}) - 1), 0)"

    def _compute(self, s: Compute) -> str:
        operands = tuple(self.name(o) for o in s.operands)
        self.varying[s.name] = joined(*(self.varying.get(o, "") for o in operands))
        approximate = s.name in self.rounding.approximate
        text = operation(lookup(s.op), s.lanes, s.lane, operands, approximate)
        if s.rounds and s.name not in self.rounding.by_store:
            text = rounded(text, s.lane, s.rounds)
        return f"{s.name} = {text}"

    def _call(self, s: Call) -> str:
        operands = [self.name(o) for o in s.operands]
        self.varying[s.name] = joined(*(self.varying.get(o, "") for o in operands))
        return f"{s.name} = {s.function}({', '.join([*operands, *map(str, s.numbers)])})"

    def _random(self, s: RandomBits) -> list[str]:
        at, axes = self.linear(s.at)
        self.varying[s.name] = axes
        state, _, _ = self._place(s.state, "")
        function = "flamec_philox"
        begins = (*s.at.rows, s.at.offset)
        if self.run and s.at.inner == (1,) and all(is_multiple(b, self.run) for b in begins):
            function = "flamec_philox_eights" if self.run == 8 else "flamec_philox_fours"
            at, _ = replace(self, inner=("first_of_run",)).linear(s.at)
        return [
            f"{s.name}_seed = tl.load({state})",
            f"{s.name}_offset = tl.load({state} + 1)",
            f"{s.name} = {function}(zero + {at}, {s.name}_seed, {s.name}_offset)",
        ]

    def _store(self, s: Store, at_least: str) -> list[str]:
        if self.tables and s.place.parameter <= in_table(0):
            return self._store_in_table(s)
        pointer, _, conditions = self._place(s.place, at_least)
        if s.where:
            conditions.append(self.name(s.where))
        value = self.name(s.operand)
        if s.combine and self.atomic:
            mask = f", {' & '.join(conditions)}" if conditions else ""
            value = stored(s.memory, s.lane, value)
            function = f"tl.atomic_{ATOMIC[s.combine]}"
            return [*self._reports(s.place), f'{function}({pointer}, {value}{mask}, sem="relaxed")']
        if s.combine:
            there = loaded(s.memory, pointer, conditions)
            value = operation(lookup(s.combine), (s.lane, s.lane), s.lane, (there, value))
        mask = f", {' & '.join(conditions)}" if conditions else ""
        store = f"tl.store({pointer}, {stored(s.memory, s.lane, value)}{mask})"
        return [*self._reports(s.place), store]


def rounded(value: str, lane: str, to: str) -> str:
    """A value of a lane rounded to a 16-bit type."""
    if (lane, to) == ("f32", "bf16"):  # both halves of a register at a time, which is much faster
        return f"flamec_round_bf16({value})"
    return f"{value}.to({TYPES[to]}).to({TYPES[lane]})"


def loaded(memory: str, pointer: str, conditions: Iterable[str], in_pairs: bool = False) -> str:
    """A load that gives lanes; zeros where a condition fails. ``in_pairs``: see ``_in_pairs``."""
    return in_lanes(memory, load(pointer, conditions), in_pairs)


def load(pointer: str, conditions: Iterable[str]) -> str:
    """A load as it lies in memory; zeros where a condition fails."""
    mask = " & ".join(conditions)
    return f"tl.load({pointer}, {mask}, other=0)" if mask else f"tl.load({pointer})"


def in_lanes(memory: str, value: str, in_pairs: bool) -> str:
    """A value from memory in the type that is computed with."""
    if memory == "bool":
        return f"({value} != 0)"
    if memory == "bf16" and in_pairs:
        return f"flamec_widen_bf16({value})"
    return f"{value}.to(tl.float32)" if memory in ("f16", "bf16") else value


def stored(memory: str, lane: str, value: str) -> str:
    """A value as it lies in memory."""
    same = memory == lane
    return value if same else f"({value}).to({TYPES[memory]})"
