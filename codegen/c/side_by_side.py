"""Row programs whose lanes are rows: groups of rows side by side, element after element.

This is for folds along an axis that is not the innermost in memory, and for scans. Row values
are arrays with one vector for each sixteen rows (``name[q]``). A pass goes through its elements
with all vectors, or with one vector after the other (``SideBySideWriter._tiled``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeGuard

from flamec.codegen.c.fold_text import Positions, accumulate, index_of, is_compensated
from flamec.codegen.c.narrow_positions import (
    NARROW,
    folds_narrow,
    read_by,
    with_narrow_positions,
)
from flamec.codegen.c.program_writer import LANES_AT_MOST, ProgramWriter
from flamec.codegen.c.rendering import RowPlaces, indices_of_rows, render
from flamec.codegen.c.statements import VectorAxis
from flamec.codegen.c.text import C_TYPES, combine, dim, factor, identity
from flamec.codegen.lower.lanes import LANE_BYTES, MEMORY_BYTES
from flamec.codegen.schedule import GRAIN, LARGEST_UNROLLED_BODY
from flamec.ir.kernel import (
    Compute,
    Fold,
    Keep,
    Load,
    Pass,
    Statement,
    Store,
    lane_of,
)
from flamec.ir.op import lookup
from flamec.ir.shape import product, structurally_equal

# Elements of a row from which blocks are worth it, by the bytes of the smallest ones.
LONG_ENOUGH = {2: 16, 4: 6, 8: 6}
TOGETHER = 16  # vectors of neighbouring rows
VECTORS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)  # for which there are loops
STRIPS = 4  # of so many vectors, each of which goes through all elements
SHORT_BODY = 4  # cheap statements; of more there are copies for a quarter of the vectors
STRETCH = 128  # elements that are added one after the other, before their sum is joined exactly
WINDOW = 64  # elements that are folded for one vector of neighbouring rows after the other


class SideBySideWriter(ProgramWriter):
    """Form "along rows"; also scans."""

    positions = Positions(full=True)  # of the loop that is written: rows begin with an element

    @cached_property
    def _read(self) -> frozenset[str]:
        """Names that statements read."""
        return frozenset(name for s in self.program.statements() for name in read_by(s))

    def _groups(self) -> str:
        size = self.program.rows[-1].size if self.program.rows else 1
        return f"flamec_ceil({dim(size)}, {self.schedule.width})"

    def jobs(self) -> str:
        outer = product(loop.size for loop in self.program.rows[:-1])
        return f"({dim(outer)}) * {self._groups()}"

    def grain(self) -> str:
        each = f"{factor(self.inner_size)} * {self.schedule.weight * self.schedule.width}"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {each}))"

    def main_function(self) -> str:
        declarations = self._declarations()
        self.places = self.writer.places = RowPlaces(self.rows[-2] if len(self.rows) > 1 else "")
        lane_loop, _ = self._lane()
        passes = [self._pass(block, lane_loop, declarations) for block in self.program.passes]
        holes = {
            **self._holes(declarations),
            "passes": passes,
            "transposes": any("flamec_transpose" in str(block["tiled"]) for block in passes),
        }
        return render("along_rows.c.j2", holes)

    def _lane(self) -> tuple[str, str]:
        """Name and size of the loop that the lanes go along."""
        lane = self.program.rows[-1] if self.program.rows else None
        return (lane.name, dim(lane.size)) if lane else ("lane", "1")

    def _declarations(self) -> list[str]:
        return [*self.declarations(), f"const int64_t group_count = {self._groups()};"]

    def _holes(self, declarations: Sequence[str]) -> dict[str, Any]:
        """What the templates of all forms along rows have in common."""
        lane_loop, lane_size = self._lane()
        return {
            "name": self.name,
            "declarations": "\n".join(declarations),
            "width": self.schedule.width,
            "lane_loop": lane_loop,
            "lane_size": lane_size,
            **self._row_indices(),
            "inner": self._levels(),
        }

    def _levels(self, stretched: bool = False) -> list[dict[str, str]]:
        """The loops over elements; the first of them over a stretch if they are ``stretched``."""
        levels = [{"name": l.name, "low": "0", "size": dim(l.size)} for l in self.program.inner]
        if stretched:
            levels[0] |= {"low": "stretch", "size": "stretch_end"}
        return levels

    def _row_indices(self) -> dict[str, str]:
        """Definitions of the indices of the loops over rows but the last, and what a group is."""
        first = "begin / flamec_max(1, group_count)"
        return indices_of_rows(self.program.rows[:-1], "group / group_count", first, self.places)

    def _pass(self, block: Pass, lane_loop: str, declarations: list[str]) -> dict[str, Any]:
        writer = self.writer
        axis = VectorAxis(lane_loop, "n")
        row: list[str] = []
        for s in block.row:
            if not isinstance(s, (Store, Fold, Keep)):
                lane = lane_of(s)
                declarations.append(self._array(lane, s.name))
                writer.arrays.add(s.name)
            row += writer.write(s, axis)
        before, before_scans = self._accumulators(block, declarations)
        stretches = self._stretches(block, declarations)
        full, tail = self._element_text(
            block, lane_loop, lambda s: self._joined(s, f"acc_{s.name}[q]")
        )
        return {
            "row_full": "\n".join(row),
            "before": "\n".join(before),
            "before_scans": "\n".join(before_scans),
            "full": "\n".join(full),
            "tail": "\n".join(tail),
            "tiled": self._tiled(block, lane_loop, declarations, bool(stretches)),
            "together": self._together(block, lane_loop),
            "inner": self._levels(bool(stretches)),
            "stretches": stretches,
        }

    def _stretches(self, block: Pass, declarations: list[str]) -> dict[str, str] | None:
        """What long sums need to lose nothing to rounding: their accumulators are joined after each
        stretch of elements. None where there are no sums, or they are short."""
        sums = [s for s in block.element if isinstance(s, Fold) and is_compensated(s)]
        sums = [s for s in sums if s.scope == "row" and not s.factor]
        loops = self.program.inner
        count = product(loop.size for loop in loops)
        if not sums or not loops or (isinstance(count, int) and count <= 2 * STRETCH):
            return None
        within = product(loop.size for loop in loops[1:])
        length = f"flamec_max(1, {STRETCH} / flamec_max(1, {dim(within)}))"
        if isinstance(within, int):
            length = str(max(1, STRETCH // max(1, within)))
        start = "for (int64_t q = 0; q * FLAMEC_LANES < high - low; q++)"
        before, end, behind = [], [], []
        if not isinstance(count, int):  # a row that turns out to be short is one stretch
            long = f"{dim(count)} > {2 * STRETCH}"
            length = f"{long} ? {length} : flamec_max(1, {dim(loops[0].size)})"
            start = f"if ({long}) {start}"
        for s in sums:
            acc, total = f"acc_{s.name}[q]", f"sum_{s.name}"
            declarations.append(self._array(s.lane, total))
            declarations.append(self._array(s.lane, f"{total}_lost"))
            before.append(f"{start} {total}[q] = {total}_lost[q] = vsplat_{s.lane}(0);")
            zero = identity(s.op, s.lane)
            join = f"vadd_exactly_{s.lane}(&{total}[q], &{total}_lost[q], {acc}); {acc} = {zero};"
            end.append(f"{start} {{ {join} }}")
            behind.append(f"{start} {acc} = vsettled_{s.lane}({total}[q], {total}_lost[q]);")
        texts = {"before": before, "end": end, "behind": behind}
        found = {key: "\n".join(lines) for key, lines in texts.items()}
        return {**found, "size": dim(loops[0].size), "length": length}

    def _element_text(
        self, block: Pass, lane_loop: str, joined: Callable[[Fold], list[str]]
    ) -> tuple[list[str], list[str]]:
        """Text for one element of whole vectors of rows, and of those that are left."""
        full: list[str] = []
        tail: list[str] = []
        for s in block.element:
            if not isinstance(s, Fold):
                full += self.writer.write(s, VectorAxis(lane_loop))
                tail += self.writer.write(s, VectorAxis(lane_loop, "n"))
                continue
            text = joined(s)
            full += text
            tail += text
        return full, tail

    def _tiled(
        self, block: Pass, lane_loop: str, declarations: list[str], stretched: bool
    ) -> dict[str, Any] | None:
        """The loop over elements with a vector of rows at a time, whose folds stay in registers;
        None where it is not worth it.

        Where lanes are far apart and what follows in a row are neighbours, blocks of both are
        transposed. Where rows are neighbours, only few of them go without the others.
        """
        apart = [s for s in block.element if _lies_along_elements(s)]
        choice = self._choice(block, apart)
        if choice is None:
            return None
        *outer, last = self._levels(stretched)
        block, short = self._with_narrow_positions(block)
        begin, end = self._registers(block)
        gather = self._blocks(apart, Load, lane_loop, declarations)
        scatter = self._blocks(apart, Store, lane_loop, declarations)
        full, tail = self._element_text(block, lane_loop, self._joined_in_registers)
        self.writer.blocks, self.writer.stored_blocks = {}, {}
        self.positions = SideBySideWriter.positions
        return {
            "element": last["name"],
            "low": last["low"],
            "size": last["size"],
            "outer": outer,
            "choice": " && ".join(filter(None, (short, choice))),
            "begin": "\n".join(begin),
            "gather": "\n".join(gather),
            "full": "\n".join(full),
            "tail": "\n".join(tail) if tail != full else "",
            "scatter": "\n".join(scatter),
            "end": "\n".join(end),
        }

    def _together(self, block: Pass, lane_loop: str) -> dict[str, Any] | None:
        """The loop over elements for some vectors of neighbouring rows at once, whose folds stay in
        registers. There are such loops for numbers of vectors up to some; of more, strips of so
        many go through all elements. None where it is not worth it."""
        folds = [s for s in block.element if isinstance(s, Fold)]
        width = self.program.rows[-1].size if self.program.rows else 1
        positions = any(s.position for s in folds)
        if not self.program.inner or (isinstance(width, int) and not positions):
            return None  # where their number is known, gcc keeps other folds in registers
        if len(block.element) > LARGEST_UNROLLED_BODY:
            return None
        if not all(has_pieces(s) or s.position for s in folds):
            return None
        if any(map(_lies_along_elements, block.element)):
            return None
        vectors = []
        block, short = self._with_narrow_positions(block)
        costly = any(isinstance(s, Compute) and lookup(s.op).expensive for s in block.element)
        heavy = costly or len(block.element) > SHORT_BODY
        most = TOGETHER // 4 if heavy else TOGETHER // 2 if positions else TOGETHER
        strips = 1 if heavy or positions else STRIPS
        counts = [n for n in VECTORS if n <= most]
        if isinstance(width, int):
            counts = _counts_of(width, most)
        widest = max((s.lane for s in folds), key=LANE_BYTES.__getitem__, default="f32")
        for number in range(most):
            copy = f"_{number}"
            begin, end = self._registers(block, copy)
            join = partial(self._joined_in_registers, copy=copy)
            full, tail = self._element_text(block, lane_loop, join)
            texts = {"begin": begin, "full": full, "tail": tail, "end": end}
            vectors.append({key: "\n".join(lines) for key, lines in texts.items()})
        self.positions = SideBySideWriter.positions
        few = f"high - low <= FLAMEC_LANES * {most * strips}"
        return {
            "vectors": vectors,
            "counts": counts,
            # registers of half the size have room for half as many
            "most": f"{most} / FLAMEC_PIECES({widest})" if most == TOGETHER else most,
            "choice": f"{short} && {few}" if short else few,
        }

    def _choice(self, block: Pass, apart: list[Load | Store]) -> str | None:
        """C text of whether that loop is worth it, "" if it always is, None if it never is."""
        folds = [s for s in block.element if isinstance(s, Fold)]
        if not self.program.inner:
            return None
        if not apart:
            if not folds or any(s.position for s in folds):
                return None
            width = self.program.rows[-1].size if self.program.rows else 1
            if isinstance(width, int) and width > LANES_AT_MOST:
                return None  # where their number is known, loops over vectors are as fast
            count = product(loop.size for loop in self.program.inner)
            return "" if isinstance(count, int) and count <= WINDOW else None
        enough = LONG_ENOUGH.get(min(MEMORY_BYTES[s.memory] for s in apart))
        if enough is None:
            return None
        size = self.program.inner[-1].size
        if isinstance(size, int) and size < enough:
            return None
        always = isinstance(size, int) and size >= 2 * LANES_AT_MOST
        if always:
            return ""
        long = f"{dim(size)} >= flamec_enough({enough})"
        dense = all(structurally_equal(s.place.at.rows[-1], size) for s in apart)
        if dense and min(MEMORY_BYTES[s.memory] for s in apart) == 4:
            return f"({long} || flamec_is_dense(32, {dim(size)}, {dim(size)}))"
        return long

    def _blocks(
        self,
        apart: list[Load | Store],
        kind: type[Load | Store],
        lane_loop: str,
        declarations: list[str],
    ) -> list[str]:
        """Text that fills the blocks of loads, or empties those of stores, whose lanes are far
        apart; statements that are written next use the blocks."""
        writer, element, lines = self.writer, self.inner[-1], []
        known = writer.blocks if kind is Load else writer.stored_blocks
        for s in apart:
            if not isinstance(s, kind) or s.place in known:
                continue
            name = f"block_{len(declarations)}"
            # Lanes that are no rows are computed, too.
            declarations.append(f"{C_TYPES[s.memory]} {name}[FLAMEC_LANES * FLAMEC_LANES] = {{0}};")
            known[s.place] = f"{name} + ({element} - first) * FLAMEC_LANES"
            index, step = writer.linear(s.place.at, VectorAxis(lane_loop))
            bits, far = 8 * MEMORY_BYTES[s.memory], writer.pointer(s.place, index)
            if kind is Load:
                call = f"{bits}({name}, FLAMEC_LANES, {far}, {dim(step)}, n, count)"
            else:
                call = f"back_{bits}({far}, {dim(step)}, {name}, n, count)"
            lines.append(f"flamec_transpose_{call};")
        return lines

    def _array(self, lane: str, name: str) -> str:
        return f"v_{lane} {name}[{self.schedule.width} / FLAMEC_LANES];"

    def _accumulators(self, block: Pass, declarations: list[str]) -> tuple[list[str], list[str]]:
        """Text that sets up an accumulator for each fold, and for each scan, whose accumulators
        nothing reads behind the loop over elements."""
        start = "for (int64_t q = 0; q * FLAMEC_LANES < high - low; q++)"
        found: tuple[list[str], list[str]] = ([], [])
        for s in block.element:
            if not isinstance(s, Fold):
                continue
            lines = found[s.scope == "scan"]
            result = f"acc_{s.name}"
            declarations.append(self._array(s.lane, result))
            lines.append(f"{start} {result}[q] = {identity(s.op, s.lane)};")
            if self._positions_of(s).lane:
                result = f"{result}_at"
                declarations.append(self._array("i64", result))
                lines.append(f"{start} {result}[q] = vsplat_i64(0);")
            if s.scope != "scan":
                self.writer.aliases[s.name] = result
                self.writer.arrays.add(s.name)
        return found

    def _joined(self, s: Fold, accumulator: str) -> list[str]:
        """Text that joins one more element."""
        text = []
        if s.factor:
            text.append(f"{accumulator} *= {self.writer.reference(s.factor)};")
        operand = self.writer.reference(s.operand)
        positions = self._positions_of(s)
        text += accumulate(s, accumulator, operand, s.position, "", positions)
        if s.scope == "scan":
            text.append(f"const v_{s.lane} {s.name} = {accumulator};")
        if s.scope == "scan" and positions.lane:
            at = index_of(accumulator)
            at = at if positions.lane == "i64" else f"FLAMEC_CONVERT({at}, i64)"
            text += [f"const v_i64 {name} = {at};" for name in s.names]
        return text

    def _joined_in_registers(self, s: Fold, copy: str = "") -> list[str]:
        """``copy``: what the name of the accumulator ends with."""
        if not has_pieces(s):
            return self._joined(s, f"now_{s.name}{copy}")
        now, more, sums = f"now_{s.name}{copy}", f"more_{s.name}", f"sums_{s.name}"
        before, text = f"{now}[i]", []
        if s.factor:
            factor = f"factor_{s.name}"
            text.append(f"const parts_{s.lane} {factor} = {{{self.writer.reference(s.factor)}}};")
            before = f"({before} * {factor}.piece[i])"
        joined = combine(s.op, s.lane, before, f"{more}.piece[i]")
        text += [
            f"const parts_{s.lane} {more} = {{{self.writer.reference(s.operand)}}};",
            f"for (int i = 0; i < FLAMEC_PIECES({s.lane}); i++) {now}[i] = {joined};",
        ]
        if s.scope == "scan":
            text.append(f"parts_{s.lane} {sums};")
            text.append(
                f"for (int i = 0; i < FLAMEC_PIECES({s.lane}); i++) {sums}.piece[i] = {now}[i];"
            )
            text.append(f"const v_{s.lane} {s.name} = {sums}.whole;")
        return text

    def _registers(self, block: Pass, copy: str = "") -> tuple[list[str], list[str]]:
        """Text that has what folds keep in registers, and stores it; scans begin there, and nothing
        is stored of them."""
        begin, end = [], []
        for s in block.element:
            if not isinstance(s, Fold):
                continue
            now, acc = f"now_{s.name}{copy}", f"acc_{s.name}"
            scan = s.scope == "scan"
            lane = self._positions_of(s).lane
            if has_pieces(s):
                loop = f"for (int i = 0; i < FLAMEC_PIECES({s.lane}); i++)"
                place = f"((n_{s.lane} *)({acc} + q))[i]"
                begin.append(f"n_{s.lane} {now}[FLAMEC_PIECES({s.lane})];")
                if scan:
                    start = f"const parts_{s.lane} start = {{{identity(s.op, s.lane)}}};"
                    begin.append(f"{{ {start} {loop} {now}[i] = start.piece[i]; }}")
                else:
                    begin.append(f"{loop} {now}[i] = {place};")
                    end.append(f"{loop} {place} = {now}[i];")
                continue
            begin.append(f"v_{s.lane} {now} = {identity(s.op, s.lane) if scan else f'{acc}[q]'};")
            if lane:
                at = f"FLAMEC_CONVERT({acc}_at[q], i32)" if lane == "i32" else f"{acc}_at[q]"
                begin.append(f"v_{lane} {now}_at = {f'vsplat_{lane}(0)' if scan else at};")
            if not scan:
                end.append(f"{acc}[q] = {now};")
            if lane and not scan:
                at = f"FLAMEC_CONVERT({now}_at, i64)" if lane == "i32" else f"{now}_at"
                end.append(f"{acc}_at[q] = {at};")
        return begin, end

    def _positions_of(self, s: Fold) -> Positions:
        """How a fold keeps positions in the loop that is written."""
        unread = not s.position or (s.scope == "scan" and self._read.isdisjoint(s.names))
        return replace(self.positions, lane="") if unread else self.positions

    def _with_narrow_positions(self, block: Pass) -> tuple[Pass, str]:
        """A pass that keeps positions in 32 bits where they can be, as what is written next does,
        and C text of whether rows turn out to be short enough, "" if they are known to be."""
        narrow = with_narrow_positions(block)
        known = isinstance(self.inner_size, int)
        if not folds_narrow(narrow) or (known and self.inner_size >= NARROW):
            return block, ""
        self.positions = replace(self.positions, lane="i32")
        return narrow, "" if known else f"{dim(self.inner_size)} < {NARROW}"


def has_pieces(s: Fold) -> bool:
    """Whether an accumulator is kept in parts that fit registers: gcc has wider ones in memory,
    where each element waits for the one before. Truths have none."""
    return s.lane != "b" and "_" not in combine(s.op, s.lane, "a", "b") and not s.position


def _counts_of(width: int, most: int) -> list[int]:
    """How many vectors so many neighbouring rows are, ``most`` at once, whatever a vector holds."""
    numbers = [-(-width // lanes) for lanes in (LANES_AT_MOST, LANES_AT_MOST // 2, 4)]
    left = {n % most or most for n in numbers}
    return sorted(left | {most for n in numbers if n > most})


def is_in_blocks(s: Statement, size: int) -> bool:
    """Whether blocks of what is loaded or stored are transposed in rows of ``size`` elements."""
    if not _lies_along_elements(s):
        return False
    enough = LONG_ENOUGH.get(MEMORY_BYTES[s.memory])
    return enough is not None and size >= enough


def _lies_along_elements(s: Statement) -> TypeGuard[Load | Store]:
    """Whether lanes are far apart and what follows in a row are neighbours."""
    if not isinstance(s, (Load, Store)) or (isinstance(s, Store) and s.combine):
        return False
    at = s.place.at
    if s.place.indices or s.place.guards or not at.rows:
        return False
    return at.rows[-1] not in (0, 1) and at.inner[-1:] == (1,)
