"""Row programs whose lanes are rows: groups of rows side by side, element after element.

This is for folds and scans along an axis that is not the innermost in memory. Row values
are arrays with one vector for each sixteen rows (``name[q]``).
"""

from __future__ import annotations

from typing import Any

from flamec.codegen.c.fold_text import accumulate
from flamec.codegen.c.program_writer import ProgramWriter
from flamec.codegen.c.rendering import decomposed, render
from flamec.codegen.c.statements import VectorAxis
from flamec.codegen.c.text import dim, factor, identity
from flamec.codegen.schedule import GRAIN
from flamec.ir.kernel import (
    Fold,
    Keep,
    Pass,
    Store,
    lane_of,
)
from flamec.ir.shape import product


class SideBySideWriter(ProgramWriter):
    """Form "along rows"; also scans."""

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
        program = self.program
        lane = program.rows[-1] if program.rows else None
        lane_loop, lane_size = (lane.name, dim(lane.size)) if lane else ("lane", "1")
        declarations = self.declarations()
        declarations.append(f"const int64_t group_count = {self._groups()};")
        passes = [self._pass(block, lane_loop, declarations) for block in program.passes]
        holes = {
            "name": self.name,
            "declarations": "\n".join(declarations),
            "width": self.schedule.width,
            "lane_loop": lane_loop,
            "lane_size": lane_size,
            "row_indices": decomposed(program.rows[:-1], "group / group_count"),
            "inner": [{"name": l.name, "size": dim(l.size)} for l in program.inner],
            "passes": passes,
        }
        return render("along_rows.c.j2", holes)

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
        before: list[str] = []
        full: list[str] = []
        tail: list[str] = []
        for s in block.element:
            if not isinstance(s, Fold):
                full += writer.write(s, VectorAxis(lane_loop))
                tail += writer.write(s, axis)
                continue
            text = self._fold(s, before, declarations)
            full += text
            tail += text
        return {
            "row_full": "\n".join(row),
            "before": "\n".join(before),
            "full": "\n".join(full),
            "tail": "\n".join(tail),
        }

    def _array(self, lane: str, name: str) -> str:
        return f"v_{lane} {name}[{self.schedule.width} / FLAMEC_LANES];"

    def _fold(self, s: Fold, before: list[str], declarations: list[str]) -> list[str]:
        """Text that joins one more element; the accumulators are set up ``before``."""
        accumulator = f"acc_{s.name}"
        start = "for (int64_t q = 0; q * FLAMEC_LANES < high - low; q++)"
        declarations.append(self._array(s.lane, accumulator))
        before.append(f"{start} {accumulator}[q] = {identity(s.op, s.lane)};")
        result = accumulator
        if s.position:
            result = f"{accumulator}_at"
            declarations.append(self._array("i64", result))
            before.append(f"{start} {result}[q] = vsplat_i64(-1);")
        operand = self.writer.reference(s.operand)
        text = accumulate(s, f"{accumulator}[q]", operand, s.position, "")
        if s.scope == "scan":
            text.append(f"const v_{s.lane} {s.name} = {accumulator}[q];")
            text += [f"const v_i64 {name} = {result}[q];" for name in s.names]
        else:
            self.writer.aliases[s.name] = result
            self.writer.arrays.add(s.name)
        return text
