"""Write a program with tables: what its rows leave in a table is combined in shared memory.

In: a program of kind "tables" and its tile. Out: one launch. A block has a row, or, of a program
without rows, a share of the elements. Triton has no word for shared memory: library functions
combine, put and get numbers there (``radix_sort``).
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.lower.lanes import MEMORY_BYTES
from flamec.codegen.triton.program_writer import Uniform, ceil_div, decomposed
from flamec.codegen.triton.radix_sort import shared_memory
from flamec.codegen.triton.rounded_values import rounding_of
from flamec.codegen.triton.source import EmittedLaunch, emit
from flamec.codegen.triton.statements import StatementWriter, TableRoom
from flamec.codegen.triton.text import POINTERS, dim, size_name
from flamec.codegen.triton.tiling import Tile
from flamec.ir.kernel import Loop, Pass, RowProgram, Table, name_of
from flamec.ir.shape import Dim, is_multiple, product, substitute


def rooms(tables: tuple[Table, ...], columns: int) -> tuple[list[TableRoom], int]:
    """Where tables begin, of whole blocks of columns, and how many bytes they take."""
    found, offset = [], 0
    for table in tables:
        plane = 4 * -(-table.elements // columns) * columns
        found.append(TableRoom(table.memory, table.start, offset, plane))
        offset += plane * MEMORY_BYTES[table.memory] // 4
    return found, offset


@dataclass
class TableWriter:
    """``own``: values of the program's own sizes; ``strict``: see ``CodegenOptions``."""

    program: RowProgram
    tile: Tile
    name: str
    doc: str
    uniform: Uniform
    own: dict[str, Dim]
    wide: bool
    strict: bool = False
    _loops: tuple[Loop, ...] = ()

    def emit(self) -> EmittedLaunch:
        program, columns = self.program, self.tile.columns
        tables, nbytes = rooms(program.tables, columns)
        rows = product(loop.size for loop in program.rows)
        elements = product(loop.size for loop in program.inner)
        blocks: Dim = substitute(rows, self.own)
        if not program.rows:
            blocks = ceil_div(substitute(elements, self.own), columns * self.tile.chunks)
        holes: dict[str, object] = {
            "name": self.name,
            "doc": self.doc,
            "index": "tl.int64" if self.wide else "tl.int32",
            "columns": columns,
            "shared": shared_memory(nbytes),
            "uniform": "\n".join(self.uniform.lines),
            "row_indices": decomposed(program.rows, "row"),
            "tables": [(r, t.elements) for r, t in zip(tables, program.tables, strict=True)],
            "passes": [self._pass(block, tables) for block in program.passes],
        }
        pointers = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(program.parameters)}
        sizes = {size_name(name): value for name, value in self.own.items()}
        pointers |= self.uniform.pointers
        return emit(
            "tables.py.j2",
            holes,
            pointers,
            blocks,
            self.tile.warps,
            sizes,
            wide=self.wide,
            persistent=self.tile.blocks,
        )

    def _pass(self, block: Pass, tables: list[TableRoom]) -> dict[str, str]:
        """Statements, and the loop around them unless a block has room for all columns."""
        columns = self.tile.columns
        own = bool(block.inner)  # of all blocks alike
        loops = block.inner or self.program.inner
        count = product(loop.size for loop in loops)
        known = substitute(count, self.own)
        shares = not self.program.rows and not own
        whole = isinstance(known, int) and known <= columns and not shares
        first, step = "0", str(columns)
        if shares:
            first, step = f"block * {columns}", f"{columns} * tl.num_programs(0)"
        full = is_multiple(known, columns)
        return {
            "range": "" if whole else f"{first}, {dim(count)}, {step}",
            "mask": f"tl.full((1, {columns}), 1, tl.int1)" if full else f"col < {dim(count)}",
            "inner_indices": decomposed(loops, "col"),
            "lines": "\n".join(self._lines(block, loops, tables, whole)),
        }

    def _lines(
        self, block: Pass, loops: tuple[Loop, ...], tables: list[TableRoom], whole: bool
    ) -> list[str]:
        """What a pass before has computed of the same columns is still there if these are all."""
        if not whole or loops != self._loops:
            self._writer = StatementWriter(
                tuple(loop.name for loop in self.program.rows),
                tuple(loop.name for loop in loops),
                reuse=True,
                atomic=True,
                tables=tables,
                rounding=rounding_of(self.program, self.strict),
                written={i for i, p in enumerate(self.program.parameters) if p.written},
            )
            self._known: set[str] = set()
            self._loops = loops if whole else ()
        lines = []
        for s in (*block.row, *block.element):
            if name_of(s) not in self._known or not name_of(s):
                lines += self._writer.write(s, "rc")
                self._known.add(name_of(s))
        return lines
