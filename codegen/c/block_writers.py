"""Forms of programs that are cut into blocks of rows and elements: lone products, transposes."""

from __future__ import annotations

from flamec.codegen.c.product import column_unit, is_wide, lone_product_holes, row_unit
from flamec.codegen.c.rendering import decomposed, render
from flamec.codegen.c.rows_writer import RowsWriter
from flamec.codegen.c.text import C_TYPES, dim, factor
from flamec.codegen.schedule import GRAIN, TILE
from flamec.ir.kernel import Contraction, Load
from flamec.ir.shape import product


class ProductWriter(RowsWriter):
    """A matrix product without an epilogue."""

    @property
    def product(self) -> Contraction:
        assert self.program.contraction is not None
        return self.program.contraction

    def jobs(self) -> str:
        c = self.product
        strips = f"flamec_units({dim(c.columns)}, {column_unit(c)})"
        units = f"{factor(c.batch)} * flamec_units({dim(c.rows)}, {row_unit(c)})"
        return f"{is_wide(c)} ? {strips} : {units}"

    def grain(self) -> str:
        c = self.product
        weight = f"{factor(c.depth)} / 8"
        strip = f"{dim(c.batch * c.rows)} * {column_unit(c)} * {weight}"
        rows = f"flamec_min({dim(c.rows)}, {row_unit(c)}) * {factor(c.columns)} * {weight}"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {is_wide(c)} ? {strip} : {rows}))"

    def main_function(self) -> str:
        declarations = [*self.declarations(), *self.private_memory()]
        holes = {"name": self.name, "declarations": "\n".join(declarations)}
        return render("product.c.j2", holes | lone_product_holes(self.product))


class TiledWriter(RowsWriter):
    """Form "rows" in blocks of rows and elements, for programs that transpose."""

    def jobs(self) -> str:
        others = [l.size for i, l in enumerate(self.program.rows) if i != self.schedule.tiled]
        return f"({dim(product(others))}) * {self._tile_count()}"

    def grain(self) -> str:
        each = f"{factor(self.inner_size)} * {self.schedule.weight * TILE}"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {each}))"

    def _tile_count(self) -> str:
        return f"flamec_ceil({dim(self.program.rows[self.schedule.tiled].size)}, {TILE})"

    def main_function(self) -> str:
        program = self.program
        tiled = program.rows[self.schedule.tiled]
        others = tuple(loop for loop in program.rows if loop is not tiled)
        declarations = [
            *self.declarations(),
            f"const int64_t tile_count = {self._tile_count()};",
        ]
        gather = self._gathered(tiled.name, declarations)
        block = self._pass(program.passes[0], self.inner[-1])
        holes = {
            "name": self.name,
            "declarations": "\n".join(declarations),
            "gather": "\n".join(gather),
            "tile": TILE,
            "row_size": dim(tiled.size),
            "row_indices": decomposed(others, "job / tile_count"),
            "outer": [{"name": l.name, "size": dim(l.size)} for l in program.inner[:-1]],
            "lane_loop": self.inner[-1],
            "lane_size": dim(program.inner[-1].size),
            "row_loop": tiled.name,
            "row": "\n".join((block["row"], block["before"])),
            "full": block["full"],
            "tail": block["tail"],
        }
        return render("tiled.c.j2", holes)

    def _gathered(self, row_loop: str, declarations: list[str]) -> list[str]:
        """Copies of the blocks that lie along the rows: whole cache lines are read once, and
        the strided reading happens in the copy."""
        lane_loop, lines = self.inner[-1], []
        stride = TILE + 1  # odd, so that the lanes fall into different cache sets
        self.writer.block_stride = stride
        for s in self.program.passes[0].element:
            if not isinstance(s, Load) or s.place in self.writer.blocks:
                continue
            at = s.place.at
            plain = not s.place.indices and not s.place.guards
            if at.inner[-1] in (0, 1) or at.rows[self.schedule.tiled] != 1 or not plain:
                continue
            name = f"block_{s.name}"
            kind = C_TYPES[s.memory]
            declarations.append(f"{kind} {name}[{TILE} * {stride}];")
            index, _ = self.writer.linear(at, None)
            lines.append(
                f"flamec_copy_run({name} + ({lane_loop} - low) * {stride}, "
                f"p{s.place.parameter} + ({index}), (to - from) * sizeof({kind}));"
            )
            self.writer.blocks[s.place] = (
                f"{name} + (({lane_loop} - low) * {stride} + {row_loop} - from)"
            )
        return lines
