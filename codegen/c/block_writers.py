"""Forms of programs that are cut into blocks of rows and elements: lone products, transposes."""

from __future__ import annotations

from flamec.codegen.c.product import column_unit, is_wide, lone_product_holes, row_unit
from flamec.codegen.c.rendering import decomposed, render
from flamec.codegen.c.rows_writer import RowsWriter
from flamec.codegen.c.statements import VectorAxis
from flamec.codegen.c.text import C_TYPES, dim, factor
from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.schedule import GRAIN, TILE, is_transposed
from flamec.ir.kernel import Contraction, Load, Place
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
        each = f"{factor(self.inner_size)} * {self.schedule.weight} * ({self._tile()})"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {each}))"

    def _tile(self) -> str:
        """Rows of a block: as many as short rows leave room for, if they are copied to it."""
        size = dim(self.program.inner[-1].size)
        return f"FLAMEC_BLOCK / flamec_block_width({size})" if self._gathered() else str(TILE)

    def _tile_count(self) -> str:
        return f"flamec_ceil({dim(self.program.rows[self.schedule.tiled].size)}, {self._tile()})"

    def _gathered(self) -> dict[Place, Load]:
        """Loads from arrays that lie along the rows."""
        return {
            s.place: s
            for s in self.program.passes[0].element
            if isinstance(s, Load) and is_transposed(s, self.schedule.tiled)
        }

    def main_function(self) -> str:
        program = self.program
        tiled = program.rows[self.schedule.tiled]
        others = tuple(loop for loop in program.rows if loop is not tiled)
        declarations = [
            *self.declarations(),
            f"const int64_t tile = {self._tile()}, tile_count = {self._tile_count()};",
        ]
        gather = self._gather(tiled.name, declarations)
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

    def _gather(self, row_loop: str, declarations: list[str]) -> list[str]:
        """Transposed copies of the blocks that lie along the rows: whole cache lines are read
        once, and lanes find neighbours."""
        lane_loop, lines = self.inner[-1], []
        for place, s in self._gathered().items():
            name = f"block_{s.name}"
            declarations.append(f"{C_TYPES[s.memory]} {name}[FLAMEC_BLOCK + FLAMEC_LANES] = {{0}};")
            index, step = self.writer.linear(place.at, VectorAxis(lane_loop))
            lines.append(
                f"flamec_transpose_{8 * MEMORY_BYTES[s.memory]}({name}, width, "
                f"p{place.parameter} + ({index}), {dim(step)}, high - low, to - from);"
            )
            self.writer.blocks[place] = (
                f"{name} + (({row_loop} - from) * width + {lane_loop} - low)"
            )
        if lines:
            size = dim(self.program.inner[-1].size)
            declarations.append(f"const int64_t width = flamec_block_width({size});")
        return lines
