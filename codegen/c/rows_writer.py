"""Row programs whose lanes run inside the row.

In: a program of kind "rows", "flat" or "scatter". Out: its C function. Where the length of a row
is known only when the program runs, the loop over rows is written once for each *form* that rows
may have: the shortest need no loop over vectors, long ones have several accumulators and add them
up in stretches. Invariant: a row gets the bits that a program for rows of its length alone gives it
(but for rows at the border of two forms whose pass is too large for several accumulators).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flamec.codegen.c.fold_text import (
    PassText,
    Positions,
    accumulate,
    accumulator,
    begin,
    can_unroll,
    fold_lanes,
    is_compensated,
    join,
    join_lanes,
    settled,
)
from flamec.codegen.c.narrow_positions import (
    NARROW,
    folds_narrow,
    folds_of,
    narrow_positions,
    with_narrow_positions,
)
from flamec.codegen.c.product import product_holes, row_unit
from flamec.codegen.c.program_writer import LANES_AT_MOST, ProgramWriter
from flamec.codegen.c.rendering import RowPlaces, indices_of_rows, render
from flamec.codegen.c.statements import VectorAxis, is_zero
from flamec.codegen.c.text import combine, dim, factor, identity
from flamec.codegen.lower.lanes import spill_type
from flamec.codegen.schedule import GRAIN, LARGEST_UNROLLED_BODY, UNROLLED_LENGTH
from flamec.ir.kernel import (
    Contraction,
    Fold,
    Keep,
    Load,
    Pass,
    Store,
)

ADDITIONS = 8  # of floats one after the other, before their sum is joined with others exactly
LARGEST_SPLIT_BODY = 20  # statements, of which there is another copy for the inside of images
STRIP = 256  # elements of each row that one job of a scatter adds


@dataclass(frozen=True)
class RowForm:
    """Rows that have the same loops.

    ``condition``: C text of whether rows have this form and not one before, "" for all that are
    left; ``vectors``: how many whole ones a row has, -1 if that is not known; ``whole``: whether it
    has at least one; ``long``: whether folds have several accumulators, and sums are joined stretch
    by stretch; ``narrow``: whether a position in the row is a 32-bit number.
    """

    condition: str = ""
    vectors: int = -1
    whole: bool = True
    long: bool = True
    narrow: bool = False


class RowsWriter(ProgramWriter):
    """Lanes inside the row: forms "rows", "flat" and "scatter"."""

    @property
    def scatter(self) -> bool:
        return self.program.kind == "scatter"

    def jobs(self) -> str:
        if self.scatter:  # divided along its rows, which stay in order
            return f"flamec_ceil({dim(self.last)}, {STRIP})"
        contraction = self.program.contraction
        if contraction is not None and not self.chunked:
            unit = row_unit(contraction, self.schedule.panel)
            return f"{factor(contraction.batch)} * flamec_units({dim(contraction.rows)}, {unit})"
        return self.chunk_count() if self.chunked else self.row_count()

    def grain(self) -> str:
        contraction = self.program.contraction
        inner = contraction.columns if contraction else self.inner_size
        weight = self.schedule.weight
        if self.chunked:
            rows = "1" if self.flat else f"({self.row_count()})"
            total = f"{rows} * {factor(inner)} * {weight}"
            return f"flamec_max(1, {self.jobs()} * {GRAIN} / flamec_max(1, {total}))"
        if self.scatter:
            return f"flamec_max(1, {GRAIN} / flamec_max(1, ({self.row_count()}) * {STRIP}))"
        if self.flat:
            return str(max(1, GRAIN // (self.schedule.block * weight)))
        if contraction is not None:
            weight = f"{weight} * {row_unit(contraction, self.schedule.panel)}"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {factor(inner)} * {weight}))"

    def main_function(self) -> str:
        program = self.program
        declarations = self.declarations()
        if self.chunked:
            declarations.append(f"const int64_t row_count = {self.row_count()};")
            declarations.append(f"const int64_t chunk_count = {self.chunk_count()};")
        elif program.contraction is not None:
            declarations += self._units(program.contraction)
        declarations += self.private_memory()
        lane_loop = self.inner[-1] if self.inner else ""
        low, high = "0", dim(self.last)
        if self.flat:
            low = f"row * {self.schedule.block}"
            high = f"flamec_min({high}, {low} + {self.schedule.block})"
        if self.scatter and self.inner:
            low = f"strip * {STRIP}"
            high = f"flamec_min({high}, {low} + {STRIP})"
        known = isinstance(self.last, int)
        if low == "0" and not known:  # what no row changes is computed once
            declarations.append(f"const int64_t n = ({high}) % FLAMEC_LANES, whole = {high} - n;")
        region = self._region()
        if not self.flat and self.rows:
            self.places = RowPlaces(self.rows[-1])
        forms = list(self._written_forms(lane_loop))
        holes = {
            "name": self.name,
            "declarations": "\n".join(declarations),
            "region": region,
            "first": "first" if region else "first_row" if program.contraction else "begin",
            "last": "last" if region else "last_row" if program.contraction else "end",
            "outer": [{"name": l.name, "size": dim(l.size)} for l in program.inner[:-1]],
            "lane_loop": lane_loop,
            "low": low,
            "high": high,
            "has_tail": not isinstance(self.last, int) or self.last % LANES_AT_MOST != 0,
            "whole": low == "0" and not known,
            "forms": forms,
            **self._row_indices(),
            "chunk_begin": "\n".join(self._chunk_begin()),
            "chunk_end": "\n".join(self._chunk_end()),
            "product": product_holes(program, self.schedule),
        }
        return render("rows.c.j2", holes)

    def _row_indices(self) -> dict[str, str]:
        """Definitions of the indices of the loops over rows."""
        loops = () if self.flat else self.program.rows
        return indices_of_rows(loops, "row", "row_first", self.places)

    def _units(self, c: Contraction) -> list[str]:
        """The rows of a thread's units of a product."""
        return [
            f"const int64_t unit = {row_unit(c, self.schedule.panel)};",
            *(
                f"const int64_t {row} = flamec_unit_row({number}, {dim(c.rows)}, unit);"
                for row, number in (("first_row", "begin"), ("last_row", "end"))
            ),
        ]

    def _region(self) -> dict[str, str] | None:
        """The loop around the rows: chunks of them, or strips along all of them."""
        if self.chunked:
            bounds = (
                "const int64_t first = chunk * row_count / chunk_count,"
                " last = (chunk + 1) * row_count / chunk_count;"
            )
            return {"name": "chunk", "bounds": bounds}
        if self.scatter:
            bounds = f"const int64_t first = 0, last = {self.row_count()};"
            return {"name": "strip", "bounds": bounds}
        return None

    # forms of rows -------------------------------------------------------------------
    def _forms(self) -> list[RowForm]:
        """The forms that rows may have; more than one where their length is not known."""
        if isinstance(self.last, int) or self.flat or self.scatter:
            whole = isinstance(self.last, int) and self.last >= LANES_AT_MOST
            narrow = isinstance(self.inner_size, int) and self.inner_size < NARROW
            return [RowForm(whole=whole, narrow=narrow)]
        size, narrow = dim(self.last), len(self.inner) == 1
        shortest = RowForm(f"{size} < FLAMEC_LANES", 0, whole=False, long=False, narrow=narrow)
        if not any(self.program.folds("row", "all", "column")):
            small = sum(len(b.element) for b in self.program.passes) <= LARGEST_UNROLLED_BODY
            forms = [shortest] if small else []
            if self._has_parts_of_vectors():  # which are the same in all rows of few vectors
                one = f"{size} < 2 * FLAMEC_LANES"
                forms = [shortest, RowForm(one, 1, long=False, narrow=narrow)]
            return [*forms, RowForm(whole=bool(forms), long=False)]
        forms = [shortest]
        if len(self.program.passes) > 1:  # that find what they read again in registers
            forms.append(RowForm(f"{size} < 2 * FLAMEC_LANES", 1, long=False, narrow=narrow))
        if any(self._unroll(b) > 1 or _adds(b) for b in self.program.passes):
            forms.append(RowForm(f"{size} < {UNROLLED_LENGTH}", long=False, narrow=narrow))
        if narrow and any(narrow_positions(b) for b in self.program.passes):
            forms.append(RowForm(f"{size} < {NARROW}", narrow=True))
        return [*forms, RowForm()]

    def _has_parts_of_vectors(self) -> bool:
        """Whether a pass that is not long loads lanes that are not all neighbours, or that exist
        only between bounds."""

        def in_parts(s: Load) -> bool:
            guarded = any(not is_zero(guard.inner[-1]) for guard, _ in s.place.guards)
            step = s.place.at.inner[-1]
            return guarded or (isinstance(step, int) and step not in (0, 1))

        return any(
            len(block.element) <= LARGEST_SPLIT_BODY
            and any(isinstance(s, Load) and in_parts(s) for s in block.element)
            for block in self.program.passes
        )

    def _written_forms(self, lane_loop: str) -> Iterator[dict[str, Any]]:
        forms = self._forms()
        for number, form in enumerate(forms):
            self.writer = self.new_writer()
            opening = "" if len(forms) == 1 else "} else {"
            if form.condition:
                opening = f"{'} else ' if number else ''}if ({form.condition}) {{"
            yield {
                "opening": opening,
                "vectors": form.vectors,
                "passes": [self._pass(block, lane_loop, form) for block in self.program.passes],
            }

    def _pass(self, block: Pass, lane_loop: str, form: RowForm | None = None) -> dict[str, Any]:
        form = form or RowForm()
        self.writer.hoisted = None
        row = self._row_text(block)
        self.writer.hoisted = []
        single = self._element_text(block, None, 0) if not lane_loop else []
        unroll = self._unroll(block) if form.long else 1
        stretch = self._stretch(block, unroll) if form.long else 0
        if form.narrow:
            block = with_narrow_positions(block)
        begun = form.whole and not stretch and len(self.inner) == 1
        self.positions = Positions("i32" if folds_narrow(block) else "i64", begun)
        first: list[str] = []
        if begun and any(f.position for f in folds_of(block)):
            first = self._element_text(block, VectorAxis(lane_loop), 0, first=True)
        full = self._element_text(block, VectorAxis(lane_loop), 0)
        tail = self._element_text(block, VectorAxis(lane_loop, "n"), 0)
        unrolled = [
            "\n".join(self._element_text(block, VectorAxis(lane_loop), u)) for u in range(unroll)
        ]
        inside, bounds = [], self._bounds(block, lane_loop) if unroll == 1 else None
        if bounds:
            inside = self._element_text(block, VectorAxis(lane_loop, inside=True), 0)
        text = PassText([*self.writer.hoisted])
        whole = ""
        if stretch and not self.flat and not isinstance(self.last, int):
            whole = f"{dim(self.last)} <= {2 * stretch}"
        for fold in folds_of(block):
            if fold.scope != "column":
                self._fold_text(fold, unroll, text, bool(stretch), whole)
        return {
            "row": "\n".join(row),
            "before": "\n".join(text.before),
            "behind": "\n".join(text.behind),
            "stretch": f"{whole} ? {dim(self.last)} : {stretch}" if whole else stretch,
            "stretch_begin": "\n".join(text.stretch_begin),
            "stretch_end": "\n".join(text.stretch_end),
            "unrolled": unrolled if unroll > 1 else [],
            "single": "\n".join(single),
            "first": "\n".join(first),
            "full": "\n".join(full),
            "tail": "\n".join(tail),
            "inside": "\n".join(inside),
            "inside_low": bounds[0] if bounds else "",
            "inside_high": bounds[1] if bounds else "",
        }

    def _bounds(self, block: Pass, lane_loop: str) -> tuple[str, str] | None:
        """Between which places along the lanes' loop all loads are inside their bounds; None if
        there are no bounds, or a loop of its own for the inside is not worth it."""
        loads = [s for s in block.element if isinstance(s, Load) and s.place.guards]
        if not loads or not lane_loop or len(block.element) > LARGEST_SPLIT_BODY:
            return None
        found = {self.writer.lanes_inside(s, VectorAxis(lane_loop)) for s in loads}
        ends = [pair for pair in sorted(filter(None, found)) if pair[1]]
        if None in found or not ends:
            return None
        low, high = ends[0]
        for other_low, other_high in ends[1:]:
            low, high = f"flamec_max({low}, {other_low})", f"flamec_min({high}, {other_high})"
        return low, high

    def _stretch(self, block: Pass, unroll: int) -> int:
        """Elements that are added before their sums are joined: errors grow with their number.

        NumPy adds up to 16 one after the other. A row of so many in each lane stays in one piece.
        """
        stretch = ADDITIONS * LANES_AT_MOST * unroll
        short = isinstance(self.last, int) and self.last <= 2 * stretch
        return stretch if _adds(block) and not short else 0

    def _unroll(self, block: Pass) -> int:
        """How many accumulators each fold has in a long row."""
        if len(block.element) > LARGEST_UNROLLED_BODY or not can_unroll(folds_of(block)):
            return 1
        return self.schedule.unroll

    def _row_text(self, block: Pass) -> list[str]:
        lines = []
        for s in block.row:
            if isinstance(s, Fold):
                lines += join(s, f"all_{s.name}", s.operand)
                continue
            lines += self.writer.write(s, None)
            if not isinstance(s, (Store, Keep)):
                self.writer.scalars.add(s.name)
        return lines

    def _element_text(
        self, block: Pass, axis: VectorAxis | None, copy: int, first: bool = False
    ) -> list[str]:
        """``first``: of a vector with which folds of positions begin."""
        lines = []
        for s in block.element:
            if not isinstance(s, Fold):
                lines += self.writer.write(s, axis)
                continue
            assert axis is not None, "a fold has elements"
            if s.scope == "column":
                lines += self._column_fold(s, axis)
                continue
            mask = "" if axis.is_full else "flamec_first(n)"
            name = f"acc_{s.name}{_suffix(copy)}"
            if first and s.position:
                lines += begin(s, name, s.operand, s.position)
            else:
                lines += accumulate(s, name, s.operand, s.position, mask, self.positions)
        return lines

    def _fold_text(
        self, fold: Fold, unroll: int, text: PassText, stretches: bool, whole: str
    ) -> None:
        """Accumulators before the loop over elements, and what becomes of them behind it.

        ``whole``: C text of whether the row turns out to be one stretch, "" where it is known.
        """
        names = [f"acc_{fold.name}{_suffix(u)}" for u in range(unroll)]
        start = text.stretch_begin if stretches else text.before
        end = text.stretch_end if stretches else text.behind
        for name in names:
            start += accumulator(fold, name, positions=self.positions)
        while len(names) > 1:  # by pairs
            half = (len(names) + 1) // 2
            for name, other in zip(names, names[half:], strict=False):
                end += accumulate(fold, name, other, f"{other}_at", "", self.positions)
            names = names[:half]
        total = names[0]
        if stretches:
            total = f"sum_{fold.name}"
            text.before += accumulator(fold, total, True, self.positions)
            end += join(fold, total, names[0], positions=self.positions)
        if fold.scope == "all":
            lost = f"{total}_lost" if stretches else ""
            text.behind += join(fold, f"all_{fold.name}", total, lost)
            return
        if not stretches:
            text.behind += fold_lanes(fold, total, self.positions)
        elif whole and is_compensated(fold):  # nothing was lost
            many = [*join_lanes(fold, total), f"{total} = {settled(fold, total)};"]
            text.behind += [f"if ({whole}) {{", *fold_lanes(fold, total), "} else {", *many, "}"]
        else:
            text.behind += join_lanes(fold, total, self.positions)
            total = settled(fold, total)
        self._row_result(fold, total, text)

    def _row_result(self, fold: Fold, total: str, text: PassText) -> None:
        lane = "i64" if fold.position else fold.lane
        result = f"{total}_at" if fold.position else total
        if fold.position and self.positions.lane != lane:
            result = f"FLAMEC_CONVERT({result}, {lane})"
        text.behind.append(f"const v_{lane} {fold.name} = {result};")
        self.writer.scalars.add(fold.name)

    def _column_fold(self, fold: Fold, axis: VectorAxis) -> list[str]:
        memory = spill_type(fold.lane)
        chunk = f"chunk * {factor(self.inner_size)}"
        place = f"p{fold.target} + {chunk} + {self.inner_index(False)}"
        if axis.is_full:
            joined = combine(fold.op, fold.lane, f"vload_{memory}({place})", fold.operand)
            return [f"vstore_{memory}({place}, {joined});"]
        joined = combine(fold.op, fold.lane, f"vload_n_{memory}({place}, n)", fold.operand)
        return [f"vstore_n_{memory}({place}, {joined}, n);"]

    def _chunk_begin(self) -> list[str]:
        lines = []
        for fold in self.all_folds:
            lines += accumulator(fold, f"all_{fold.name}", exact=True)
        for fold in self.column_folds:
            memory = spill_type(fold.lane)
            size = dim(self.inner_size)
            place = f"p{fold.target} + chunk * {factor(self.inner_size)} + i"
            lines.append(
                f"for (int64_t i = 0; i < {size}; i += FLAMEC_LANES) vstore_n_{memory}({place}, "
                f"{identity(fold.op, fold.lane)}, flamec_min(FLAMEC_LANES, {size} - i));"
            )
        return lines

    def _chunk_end(self) -> list[str]:
        lines = []
        for number, fold in enumerate(self.all_folds):
            name = f"all_{fold.name}"
            if fold.scope == "all":
                lines += join_lanes(fold, name)
            place = f"frame->partial[(chunk * {len(self.all_folds)} + {number}) * 2"
            lines.append(f"{place}].{fold.lane} = {name}[0];")
            if is_compensated(fold):
                lines.append(f"{place} + 1].{fold.lane} = {name}_lost[0];")
        return lines


def _suffix(copy: int) -> str:
    return f"_{copy}" if copy else ""


def _adds(block: Pass) -> bool:
    """Whether a pass has sums that lose digits the longer they are."""
    return any(f.scope != "column" and is_compensated(f) for f in folds_of(block))
