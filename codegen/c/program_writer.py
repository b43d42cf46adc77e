"""Write one row program as C functions: what all forms share.

``rows_writer.RowsWriter`` lets the lanes run inside the row, ``side_by_side.SideBySideWriter``
makes each lane a row. Both fill a template and tell how the function is to be called.
"""

from __future__ import annotations

from dataclasses import dataclass

from flamec.codegen.c.fold_text import accumulator, is_compensated, join, settled
from flamec.codegen.c.product import product_memory
from flamec.codegen.c.rendering import RowPlaces, decomposed, render, size_declarations, symbols_in
from flamec.codegen.c.statements import StatementWriter, VectorAxis
from flamec.codegen.c.text import C_TYPES, dim, factor
from flamec.codegen.lower.lanes import LANE_BYTES, spill_type
from flamec.codegen.lower.row_program import CHUNK_ROWS, CHUNKS, ROWS_OF_ONE
from flamec.codegen.schedule import Schedule
from flamec.ir.kernel import Fold, RandomBits, RowProgram
from flamec.ir.shape import Dim, product

LANES_AT_MOST = 16


@dataclass(frozen=True)
class EmittedProgram:
    """C functions of one program and how to call them.

    ``jobs`` and ``grain`` are C text of the length of the parallel loop and of its smallest
    useful piece; ``chunks`` of the number of partial results ("" without any). They may
    mention the program's own sizes. ``after`` is the function that follows, or "".
    """

    name: str
    functions: tuple[str, ...]
    jobs: str
    grain: str
    chunks: str
    folds: tuple[Fold, ...]
    after: str
    after_jobs: str
    scratch: Dim
    symbols: frozenset[str]


class ProgramWriter:
    """What both forms share: sizes, declarations, private memory."""

    def __init__(
        self, program: RowProgram, schedule: Schedule, name: str, symbols: tuple[str, ...]
    ) -> None:
        self.program, self.schedule, self.name = program, schedule, name
        self.flat = program.kind == "flat"
        self.rows = tuple(loop.name for loop in program.rows)
        self.inner = tuple(loop.name for loop in program.inner)
        self.all_folds = tuple(program.folds("all", "rows"))
        self.column_folds = program.folds("column")
        self.chunked = bool(self.all_folds or self.column_folds)
        self.inner_size = product(loop.size for loop in program.inner)
        self.last: Dim = program.inner[-1].size if program.inner else 1
        self.places: RowPlaces | None = None
        self.writer = self.new_writer()
        self.symbols = frozenset(symbols_in(program)) - frozenset(program.sizes)
        self.scratch: Dim = 0
        self._all_symbols = symbols

    def new_writer(self) -> StatementWriter:
        """What writes the statements of all passes, one after the other."""
        writer = StatementWriter(self.rows, self.inner, self.inner_index(padded=True))
        writer.scalars.update(name for name, _ in self.program.imports)
        writer.places = self.places
        return writer

    def emit(self) -> EmittedProgram:
        """Write everything."""
        functions = [self.main_function()]
        after, after_jobs = "", ""
        if self.program.after:
            after = f"{self.name}_after"
            text, after_jobs = self._after_function(after)
            functions.append(text)
        return EmittedProgram(
            self.name,
            tuple(functions),
            self.jobs(),
            self.grain(),
            self.chunk_count() if self.chunked else "",
            self.all_folds,
            after,
            after_jobs,
            self.scratch,
            self.symbols,
        )

    def main_function(self) -> str:
        raise NotImplementedError

    def jobs(self) -> str:
        raise NotImplementedError

    def grain(self) -> str:
        raise NotImplementedError

    # sizes ---------------------------------------------------------------------------
    def inner_index(self, padded: bool) -> str:
        """The position inside a row, row-major; padded so that whole vectors fit."""
        text = ""
        for loop in self.program.inner:
            size = dim(loop.size)
            if padded and loop is self.program.inner[-1]:
                size = f"(flamec_ceil({size}, {LANES_AT_MOST}) * {LANES_AT_MOST})"
            text = f"({text} * ({size}) + {loop.name})" if text else loop.name
        return text or "0"

    def row_count(self) -> str:
        """Rows, or blocks of a flat loop."""
        if self.flat:
            return f"flamec_ceil({dim(self.inner_size)}, {self.schedule.block})"
        return dim(product(loop.size for loop in self.program.rows))

    def chunk_count(self) -> str:
        """Partial results of folds over rows (or blocks)."""
        rows, each = f"({self.row_count()})", 1 if self.flat else CHUNK_ROWS
        most = str(CHUNKS) if self.all_folds else f"{CHUNKS} + {rows} / {ROWS_OF_ONE}"
        return f"flamec_max(1, flamec_min({most}, {rows} / {each}))"

    # text ----------------------------------------------------------------------------
    def declarations(self) -> list[str]:
        lines = ["const Frame *frame = context;", "(void)thread;"]
        lines += size_declarations(self._all_symbols, self.symbols, "frame->call")
        lines += [
            f"const int64_t {name} = frame->n[{i}];" for i, name in enumerate(self.program.sizes)
        ]
        for i, parameter in enumerate(self.program.parameters):
            const = "" if parameter.written else "const "
            lines.append(f"{const}{C_TYPES[parameter.memory]} *p{i} = frame->p[{i}];")
        for i, (name, lane) in enumerate(self.program.imports):
            lines.append(f"const v_{lane} {name} = vsplat_{lane}(frame->u[{i}].{lane});")
        for statement in self.program.statements():
            if isinstance(statement, RandomBits):
                words = f"words_{statement.name}"
                lines.append(f"FlamecWords {words}; {words}.start = FLAMEC_NO_WORDS;")
        return lines

    def private_memory(self) -> list[str]:
        """Pointers to what is kept for a row, and to the panel of a product."""
        kept = self.program.kept()
        contraction = self.program.contraction
        panel = contraction is not None and contraction.result < 0 and self.program.passes
        uneven = contraction is not None and contraction.is_uneven
        if not kept and not panel and not uneven:
            return []
        lines = [
            "char *private = (char *)frame->call->scratch + thread * flamec_scratch(frame->call);"
        ]
        total: Dim = 0
        outer = product(loop.size for loop in self.program.inner[:-1])
        for keep in kept:
            kind = C_TYPES[spill_type(keep.lane)]
            lines.append(f"{kind} *keep{keep.slot} = ({kind} *)({_aligned(total)});")
            room = outer * (self.program.inner[-1].size + LANES_AT_MOST)
            total = total + room * LANE_BYTES[keep.lane] + 64
        if panel and contraction is not None:
            kind = C_TYPES[contraction.memory]
            lines.append(f"{kind} *panel_memory = ({kind} *)({_aligned(total)});")
            size = LANE_BYTES[contraction.lane] * self.schedule.panel
            total = total + contraction.columns * size + 64
        if uneven and contraction is not None:
            lines.append(f"void *product_memory = {_aligned(total)};")
            total = total + product_memory(contraction) + 64
        self.scratch = total
        return lines

    def _after_function(self, name: str) -> tuple[str, str]:
        """What follows a fold over rows: its text, and the length of its parallel loop."""
        program, width = self.program, self.schedule.block
        lane = program.inner[-1]
        outer = program.inner[:-1]
        declarations = self.declarations()
        declarations.append(f"const int64_t chunk_count = {self.chunk_count()};")
        declarations.append(f"const int64_t block_count = flamec_ceil({dim(lane.size)}, {width});")
        body = []
        for fold in self.column_folds:
            memory = spill_type(fold.lane)
            place = f"p{fold.target} + i * {factor(self.inner_size)} + {self.inner_index(False)}"
            partial = f"vload_n_{memory}({place}, n)"
            body += accumulator(fold, fold.name, exact=True)
            joined = " ".join(join(fold, fold.name, partial))
            body.append(f"for (int64_t i = 0; i < chunk_count; i++) {{ {joined} }}")
            if is_compensated(fold):
                body.append(f"{fold.name} = {settled(fold, fold.name)};")
        writer = StatementWriter(self.rows, self.inner, "0")
        writer.scalars.update(name for name, _ in program.imports)
        for statement in program.after:
            body += writer.write(statement, VectorAxis(lane.name, "n"))
        holes = {
            "name": name,
            "declarations": "\n".join(declarations),
            "width": width,
            "lane_loop": lane.name,
            "lane_size": dim(lane.size),
            "indices": decomposed(outer, "block / block_count"),
            "body": "\n".join(body),
        }
        count = dim(product(loop.size for loop in outer))
        jobs = f"({count}) * flamec_ceil({dim(lane.size)}, {width})"
        return render("after.c.j2", holes), jobs


def _aligned(offset: Dim) -> str:
    return f"private + ({dim(offset)} + 63) / 64 * 64"
