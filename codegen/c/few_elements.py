"""Row programs of few elements whose lanes are rows: a vector of rows is finished before the next.

In: a program "along rows" whose rows have a small, known number of elements (windows of images,
channels of pixels). Out: its C function. Loops over elements are unrolled, and all that belongs to
a row stays in registers: there are no arrays between the passes, and no vector of rows waits for
another. The same text serves sizes that are known and those that are not.
"""

from __future__ import annotations

from flamec.codegen.c.fold_text import index_of
from flamec.codegen.c.rendering import RowPlaces, render
from flamec.codegen.c.side_by_side import (
    SideBySideWriter,
    has_pieces,
    is_in_blocks,
)
from flamec.codegen.c.statements import VectorAxis
from flamec.codegen.c.text import dim, factor, identity
from flamec.codegen.schedule import GRAIN, is_few
from flamec.ir.kernel import Compute, Fold, Load, Pass, RowProgram, Store
from flamec.ir.op import lookup

UNROLLED = 32  # elements that are written one after the other


def is_finished_by_vector(program: RowProgram) -> bool:
    """Whether a program is written so; where rows lie along their elements and are long enough,
    blocks of them are transposed instead."""
    if program.kind != "along rows" or not program.inner:
        return False
    sizes = [loop.size for loop in program.inner]
    elements = [s for block in program.passes for s in block.element]
    placed = [s for s in elements if isinstance(s, (Load, Store))]
    if not is_few(sizes, [s.place.at.inner for s in placed]):
        return False
    if any(isinstance(s, Compute) and lookup(s.op).expensive for s in elements):
        return False  # whose latency neighbouring vectors hide
    size = sizes[-1]
    return isinstance(size, int) and not any(is_in_blocks(s, size) for s in placed)


class FewElementsWriter(SideBySideWriter):
    """Form "along rows" with few elements."""

    def grain(self) -> str:
        size = self.program.rows[-1].size if self.program.rows else 1
        width = f"flamec_min({dim(size)}, {self.schedule.width})"
        each = f"{factor(self.inner_size)} * {self.schedule.weight} * {width}"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {each}))"

    def main_function(self) -> str:
        program = self.program
        declarations = self._declarations()
        unrolled = isinstance(self.inner_size, int) and self.inner_size <= UNROLLED
        self.places = RowPlaces(program.rows[-2].name if len(program.rows) > 1 else "")
        lane_loop, _ = self._lane()
        full = self._vector(VectorAxis(lane_loop))
        tail = self._vector(VectorAxis(lane_loop, "n"))
        holes = {
            **self._holes(declarations),
            "unrolled": unrolled,
            "short": not isinstance(program.rows[-1].size, int) if program.rows else False,
            "full": full,
            "tail": tail,
        }
        return render("few_elements.c.j2", holes)

    def _vector(self, axis: VectorAxis) -> list[dict[str, str]]:
        """All passes for one vector of rows."""
        self.writer = self.new_writer()
        return [self._pass_text(block, axis) for block in self.program.passes]

    def _pass_text(self, block: Pass, axis: VectorAxis) -> dict[str, str]:
        block, _ = self._with_narrow_positions(block)
        row = [line for s in block.row for line in self.writer.write(s, axis)]
        before: list[str] = []
        behind: list[str] = []
        for s in block.element:
            if isinstance(s, Fold):
                begin, end = self._accumulator(s)
                before += begin
                behind += end if s.scope != "scan" else []  # its results belong to elements
        element = []
        for s in block.element:
            if isinstance(s, Fold):
                element += self._joined_in_registers(s)
            else:
                element += self.writer.write(s, axis)
        self.positions = SideBySideWriter.positions
        texts = {"row": row, "before": before, "element": element, "behind": behind}
        return {key: "\n".join(lines) for key, lines in texts.items()}

    def _accumulator(self, s: Fold) -> tuple[list[str], list[str]]:
        """What sets up a fold in registers, and its result."""
        now, start = f"now_{s.name}", identity(s.op, s.lane)
        if has_pieces(s):
            loop = f"for (int i = 0; i < FLAMEC_PIECES({s.lane}); i++)"
            begin = [
                f"n_{s.lane} {now}[FLAMEC_PIECES({s.lane})];",
                f"{{ const parts_{s.lane} start = {{{start}}}; "
                f"{loop} {now}[i] = start.piece[i]; }}",
            ]
            end = [
                f"parts_{s.lane} all_{s.name};",
                f"{loop} all_{s.name}.piece[i] = {now}[i];",
                f"const v_{s.lane} {s.name} = all_{s.name}.whole;",
            ]
            return begin, end
        begin, result = [f"v_{s.lane} {now} = {start};"], now
        at = self._positions_of(s).lane
        if at:
            result = index_of(now)
            begin.append(f"v_{at} {result} = vsplat_{at}(0);")
            result = result if at == "i64" else f"FLAMEC_CONVERT({result}, i64)"
        return begin, [f"const v_{'i64' if s.position else s.lane} {s.name} = {result};"]
