"""Write the statements of a program as C over vectors.

A ``VectorAxis`` says along which loop the lanes run and how many are in use; without
one, a statement's values are the same in all lanes. Row programs have their lanes along
the last inner loop, or ("along rows") along the last row loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.c.rendering import RowPlaces
from flamec.codegen.c.text import (
    C_TYPES,
    combine,
    dim,
    factor,
    number,
    operation,
    splat,
)
from flamec.codegen.lower.lanes import MEMORY_BYTES, spill_type
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
)
from flamec.ir.op import lookup
from flamec.ir.shape import Dim, SymbolicDim, structurally_equal


@dataclass(frozen=True)
class VectorAxis:
    """The loop along which lanes run, and the C text of the number of lanes in use.

    ``inside``: all lanes are known to be inside the bounds of all loads.
    """

    loop: str
    count: str = "FLAMEC_LANES"
    inside: bool = False

    @property
    def is_full(self) -> bool:
        return self.count == "FLAMEC_LANES"


def is_zero(size: Dim) -> bool:
    return structurally_equal(size, 0)


class StatementWriter:
    """Writes statements for one program.

    ``rows`` and ``inner`` are the names of the loop variables; ``arrays`` the names that hold
    a vector for each group of rows and are read as ``name[q]``; ``scalars`` those that are the
    same in all lanes; ``inner_index`` is the C text of the position inside a row.
    """

    def __init__(self, rows: tuple[str, ...], inner: tuple[str, ...], inner_index: str) -> None:
        self.rows, self.inner, self.inner_index = rows, inner, inner_index
        self.arrays: set[str] = set()
        self.scalars: set[str] = set()
        self.aliases: dict[str, str] = {}
        self.blocks: dict[Place, str] = {}  # copies of parts, with room behind: pointer at lane 0
        self.stored_blocks: dict[Place, str] = {}  # the same for stores
        self.hoisted: list[str] | None = None  # where indices that do not vary are computed
        self._hoisted_before: set[str] = set()
        self._defined_inside: set[str] = set()  # of the loops before which they would be computed
        self.places: RowPlaces | None = None

    def reference(self, name: str) -> str:
        return f"{self.aliases.get(name, name)}[q]" if name in self.arrays else name

    # addresses -----------------------------------------------------------------------
    def linear(self, at: Linear, axis: VectorAxis | None) -> tuple[str, Dim]:
        """The index at lane 0, and the stride from lane to lane."""
        step: Dim = 0
        row_step: Dim = 0
        of_row: list[str] = []
        terms: list[str] = []
        symbolic = False
        loops = [*zip(self.rows, at.rows, strict=False), *zip(self.inner, at.inner, strict=False)]
        for name, stride in loops:
            along = axis is not None and name == axis.loop
            if along:
                step = stride
            if is_zero(stride):
                continue
            term = name if structurally_equal(stride, 1) else f"{name} * {factor(stride)}"
            if along or name not in self.rows:
                terms.append(term)
                continue
            of_row.append(term)
            symbolic = symbolic or isinstance(stride, SymbolicDim)
            if self.places is not None and name == self.places.innermost:
                row_step = stride
        if self.places is not None and symbolic:
            of_row = [self.places.name(" + ".join(of_row), row_step)]
        offset = [] if is_zero(at.offset) and (of_row or terms) else [dim(at.offset)]
        return " + ".join([*offset, *of_row, *terms]), step

    def pointer(self, place: Place, index: str, extra: str = "") -> str:
        base = "panel" if place.parameter < 0 else f"p{place.parameter}"
        return f"{base} + ({index}{extra})"

    def scalar_index(self, index: ComputedIndex) -> str:
        """An index that is the same in all lanes, checked if it may be none."""
        first = f"{self.reference(index.name)}[0]"
        if index.inside:
            return f" + {first} * {factor(index.stride)}"
        error = str(index.error)
        if index.along:
            some = " && ".join(f"{factor(size)} > 0" for size in index.along)
            error = f"{some} ? {error} : 0"
        at = f"flamec_index(frame, {first}, {dim(index.size)}, {error})"
        known = index.name in self.scalars and index.name not in self._defined_inside
        if self.hoisted is not None and known and not index.along:
            name = f"at_{index.name}_{index.error}"
            line = f"const int64_t {name} = {at};"
            if line not in self._hoisted_before:
                self._hoisted_before.add(line)
                self.hoisted.append(line)
            at = name
        return f" + {at} * {factor(index.stride)}"

    def vector_index(self, index: ComputedIndex, axis: VectorAxis) -> str:
        return (
            f"flamec_indices(frame, {self.reference(index.name)}, {dim(index.size)}, "
            f"{index.error}, {axis.count}) * {factor(index.stride)}"
        )

    # statements ----------------------------------------------------------------------
    def write(self, statement: Statement, axis: VectorAxis | None) -> list[str]:
        match statement:
            case Load():
                lanes = self._lanes(statement, axis)
                text = self._define(statement.name, statement.lane, self._load(statement, axis))
                return [*lanes, text]
            case CheckedIndex():
                text = self._checked(statement, axis)
                return [self._define(statement.name, statement.lane, text)]
            case Constant():
                self.scalars.add(statement.name)
                text = splat(statement.lane, statement.value)
                return [self._define(statement.name, statement.lane, text)]
            case Position():
                place = self._position(statement, axis)
                return [self._define(statement.name, statement.lane, place)]
            case Compute():
                return [self._define(statement.name, statement.lane, self._compute(statement))]
            case RandomBits():
                return [self._define(statement.name, "i32", self._random(statement, axis))]
            case Store():
                return self._store(statement, axis)
            case Keep():
                place = f"keep{statement.slot} + {self.inner_index}"
                memory = spill_type(statement.lane)
                return [f"vstore_{memory}({place}, {self.reference(statement.operand)});"]
            case Recall():
                memory = spill_type(statement.lane)
                text = f"vload_{memory}(keep{statement.slot} + {self.inner_index})"
                return [self._define(statement.name, statement.lane, text)]
            case Fold() | Call():
                raise AssertionError("folds are written by the emitter; C has no library of calls")

    def _checked(self, s: CheckedIndex, axis: VectorAxis | None) -> str:
        index = self.reference(s.index)
        if s.lane == "b":
            return f"flamec_holds(frame, {index}, {s.error}, {axis.count if axis else 1})"
        if axis is None:
            return f"vsplat_i64(flamec_index(frame, {index}[0], {dim(s.size)}, {s.error}))"
        return f"flamec_indices(frame, {index}, {dim(s.size)}, {s.error}, {axis.count})"

    def _define(self, name: str, lane: str, text: str) -> str:
        if self.hoisted is not None:
            self._defined_inside.add(name)
        if name in self.arrays:
            return f"{name}[q] = {text};"
        return f"const v_{lane} {name} = {text};"

    def _load(self, s: Load, axis: VectorAxis | None) -> str:
        if s.place in self.blocks:
            return f"vload_{s.memory}({self.blocks[s.place]})"
        index, step = self.linear(s.place.at, axis)
        if s.place.guards:
            return self._guarded(s, index, step, axis)
        varying = [i for i in s.place.indices if axis is not None and i.name not in self.scalars]
        fixed = "".join(self.scalar_index(i) for i in s.place.indices if i not in varying)
        if varying:
            assert axis is not None
            terms = " + ".join(self.vector_index(i, axis) for i in varying)
            ramp = "" if is_zero(step) else f" + viota_i64(0) * {factor(step)}"
            pointer = self.pointer(s.place, index, fixed)
            if axis.is_full:
                return f"vgather_{s.memory}({pointer}, {terms}{ramp})"
            return f"vgather_n_{s.memory}({pointer}, {terms}{ramp}, {axis.count})"
        return self._plain_load(s.memory, self.pointer(s.place, index, fixed), step, axis)

    def _plain_load(self, memory: str, pointer: str, step: Dim, axis: VectorAxis | None) -> str:
        if axis is None or is_zero(step):
            return f"vone_{memory}({pointer})"
        if structurally_equal(step, 1):
            if axis.is_full:
                return f"vload_{memory}({pointer})"
            return f"vload_n_{memory}({pointer}, {axis.count})"
        if axis.is_full:
            return f"vloads_{memory}({pointer}, {dim(step)})"
        return f"vloads_n_{memory}({pointer}, {dim(step)}, {axis.count})"

    def _guarded(self, s: Load, index: str, step: Dim, axis: VectorAxis | None) -> str:
        """A load that exists only inside bounds; at most one guard runs along the lanes."""
        conditions = []
        window = ""
        pointer = self.pointer(s.place, index)
        fill = self.reference(s.fill)
        for guard, size in s.place.guards:
            at, guard_step = self.linear(guard, axis)
            if axis is None or is_zero(guard_step):
                conditions.append(f"(uint64_t)({at}) < (uint64_t)({dim(size)})")
            elif axis.inside:
                continue
            elif self._are_neighbours(step, guard_step):
                window = f"vload_lanes_{s.memory}({pointer}, lanes_{s.name}, {fill})"
            else:
                window = (
                    f"vwindow_{s.memory}({pointer}, {MEMORY_BYTES[s.memory]}, {dim(step)}, {at}, "
                    f"{dim(guard_step)}, {dim(size)}, {axis.count}, {fill})"
                )
        inside = window or self._plain_load(s.memory, pointer, step, axis)
        return f"{' && '.join(conditions)} ? {inside} : {fill}" if conditions else inside

    def _lanes(self, s: Load, axis: VectorAxis | None) -> list[str]:
        """C text of which lanes of a load of neighbours exist, whether its row does or not: loads
        that have the same ones share them, as the compiler sees."""
        if axis is None or axis.inside or s.place in self.blocks:
            return []
        _, step = self.linear(s.place.at, axis)
        for guard, size in s.place.guards:
            at, guard_step = self.linear(guard, axis)
            if not is_zero(guard_step) and self._are_neighbours(step, guard_step):
                lanes = f"flamec_lanes({at}, {dim(size)}, {axis.count})"
                return [f"const unsigned lanes_{s.name} = {lanes};"]
        return []

    @staticmethod
    def _are_neighbours(step: Dim, guard_step: Dim) -> bool:
        return structurally_equal(step, 1) and structurally_equal(guard_step, 1)

    def lanes_inside(self, s: Load, axis: VectorAxis) -> tuple[str, str] | None:
        """C text of the first place along the lanes' loop that is inside the bounds of a load, and
        of the end of such places; None where they are not one after the other."""
        bounds = ("0", "")
        for guard, size in s.place.guards:
            _, step = self.linear(guard, axis)
            if structurally_equal(step, 1):
                names, strides = (*self.rows, *self.inner), (*guard.rows, *guard.inner)
                at = "".join(
                    f" + {name} * {factor(stride)}"
                    for name, stride in zip(names, strides, strict=True)
                    if name != axis.loop and not is_zero(stride)
                )
                rest = f"({dim(guard.offset)}{at})"
                bounds = f"-{rest}", f"{dim(size)} - {rest}"
            elif not is_zero(step):
                return None
        return bounds

    def position_vector(self, at: Linear, axis: VectorAxis | None) -> str:
        index, step = self.linear(at, axis)
        if axis is None or is_zero(step):
            return f"vsplat_i64({index})"
        if structurally_equal(step, 1):
            return f"viota_i64({index})"
        return f"vsplat_i64({index}) + viota_i64(0) * {factor(step)}"

    def _position(self, s: Position, axis: VectorAxis | None) -> str:
        index, step = self.linear(s.at, axis)
        if s.lane == "i32" and axis is not None and structurally_equal(step, 1):
            return f"(int32_t)({index}) + (v_i32){{FLAMEC_COUNT}}"
        if s.lane == "i32" and (axis is None or is_zero(step)):
            return f"vsplat_i32((int32_t)({index}))"
        vector = self.position_vector(s.at, axis)
        return vector if s.lane == "i64" else f"vcast_i64_{s.lane}({vector})"

    def _compute(self, s: Compute) -> str:
        operands = tuple(self.reference(o) for o in s.operands)
        if all(o in self.scalars for o in s.operands):
            self.scalars.add(s.name)
        text = operation(lookup(s.op), s.lanes, s.lane, operands)
        return f"vround_{s.rounds}({text})" if s.rounds else text

    def _random(self, s: RandomBits, axis: VectorAxis | None) -> str:
        state = f"p{s.state.parameter}[{dim(s.state.at.offset)}"
        state = f"{state}], {state} + 1]"
        index, step = self.linear(s.at, axis)
        if axis is not None and structurally_equal(step, 1):
            return f"vphilox_run_i32(&words_{s.name}, {index}, {state})"
        return f"vphilox_i32({self.position_vector(s.at, axis)}, {state})"

    def _store(self, s: Store, axis: VectorAxis | None) -> list[str]:
        condition = f"if ({self.reference(s.where)}[0]) " if s.where else ""
        return [condition + self._store_text(s, axis)]

    def _store_text(self, s: Store, axis: VectorAxis | None) -> str:
        value = self.reference(s.operand)
        if s.place in self.stored_blocks:
            return f"vstore_{s.memory}({self.stored_blocks[s.place]}, {value});"
        index, step = self.linear(s.place.at, axis)
        fixed = "".join(self.scalar_index(i) for i in s.place.indices)
        pointer = self.pointer(s.place, index, fixed)
        if s.combine:
            there = self._plain_load(s.memory, pointer, step, axis)
            value = combine(s.combine, s.lane, there, value)
        if axis is None or is_zero(step):
            return f"vstore_n_{s.memory}({pointer}, {value}, 1);"
        if structurally_equal(step, 1):
            if axis.is_full:
                return f"vstore_{s.memory}({pointer}, {value});"
            return f"vstore_n_{s.memory}({pointer}, {value}, {axis.count});"
        if axis.is_full:
            return f"vstores_{s.memory}({pointer}, {dim(step)}, {value});"
        return f"vstores_n_{s.memory}({pointer}, {dim(step)}, {value}, {axis.count});"


__all__ = [
    "C_TYPES",
    "StatementWriter",
    "VectorAxis",
    "is_zero",
    "number",
]
