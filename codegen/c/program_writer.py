"""Write one row program as C functions.

``RowsWriter`` lets the lanes run inside the row; ``side_by_side.SideBySideWriter`` makes each
lane a row. Both fill a template and tell how the function is to be called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flamec.codegen.c.fold_text import (
    PassText,
    accumulate,
    accumulator,
    can_unroll,
    fold_lanes,
    is_compensated,
    join,
    join_lanes,
    settled,
)
from flamec.codegen.c.product import PRODUCT_MEMORY, product_holes, row_unit
from flamec.codegen.c.rendering import (
    counting,
    decomposed,
    render,
    size_declarations,
    symbols_in,
)
from flamec.codegen.c.statements import StatementWriter, VectorAxis
from flamec.codegen.c.text import C_TYPES, combine, dim, factor, identity
from flamec.codegen.lower.lanes import LANE_BYTES, spill_type
from flamec.codegen.lower.row_program import CHUNK_ROWS, CHUNKS
from flamec.codegen.schedule import GRAIN, LARGEST_UNROLLED_BODY, Schedule
from flamec.ir.kernel import Contraction, Fold, Keep, Pass, RowProgram, Store
from flamec.ir.shape import Dim, product

LANES_AT_MOST = 16
ADDITIONS = 8  # of floats one after the other, before their sum is joined with others exactly
STRIP = 256  # elements of each row that one job of a scatter adds


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
        self.writer = StatementWriter(self.rows, self.inner, self.inner_index(padded=True))
        self.writer.scalars.update(name for name, _ in program.imports)
        self.symbols = frozenset(symbols_in(program)) - frozenset(program.sizes)
        self.scratch: Dim = 0
        self._all_symbols = symbols

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
        each = 1 if self.flat else CHUNK_ROWS
        return f"flamec_max(1, flamec_min({CHUNKS}, ({self.row_count()}) / {each}))"

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
        if uneven:
            lines.append(f"void *product_memory = {_aligned(total)};")
            total = total + PRODUCT_MEMORY + 64
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
            joined = combine(fold.op, fold.lane, fold.name, f"vload_n_{memory}({place}, n)")
            body.append(f"v_{fold.lane} {fold.name} = {identity(fold.op, fold.lane)};")
            body.append(f"for (int64_t i = 0; i < chunk_count; i++) {fold.name} = {joined};")
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


class RowsWriter(ProgramWriter):
    """Lanes inside the row: forms "rows", "flat" and "scatter"."""

    @property
    def scatter(self) -> bool:
        return self.program.kind == "scatter"

    def jobs(self) -> str:
        if self.scatter:  # divided along its rows, which stay in order
            last = self.program.inner[-1].size if self.program.inner else 1
            return f"flamec_ceil({dim(last)}, {STRIP})"
        contraction = self.program.contraction
        if contraction is not None and not self.chunked:
            unit = row_unit(contraction, self.schedule.panel)
            return f"{factor(contraction.batch)} * flamec_ceil({dim(contraction.rows)}, {unit})"
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
        low, high = "0", dim(program.inner[-1].size) if program.inner else "1"
        if self.flat:
            low = f"row * {self.schedule.block}"
            high = f"flamec_min({high}, {low} + {self.schedule.block})"
        if self.scatter and self.inner:
            low = f"strip * {STRIP}"
            high = f"flamec_min({high}, {low} + {STRIP})"
        last = program.inner[-1].size if program.inner else 1
        region = self._region()
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
            "has_tail": not isinstance(last, int) or last % LANES_AT_MOST != 0,
            **self._row_indices(),
            "passes": [self._pass(block, lane_loop) for block in program.passes],
            "chunk_begin": "\n".join(self._chunk_begin()),
            "chunk_end": "\n".join(self._chunk_end()),
            "product": product_holes(program, self.schedule),
        }
        return render("rows.c.j2", holes)

    def _row_indices(self) -> dict[str, str]:
        """Definitions of the indices of the loops over rows."""
        loops = () if self.flat else self.program.rows
        if all(isinstance(loop.size, int) for loop in loops[1:]):
            return {"row_indices": decomposed(loops, "row"), "row_start": "", "row_step": ""}
        start, step = counting(loops, "row_first")
        return {"row_indices": "", "row_start": start, "row_step": step}

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

    # one pass ------------------------------------------------------------------------
    def _pass(self, block: Pass, lane_loop: str) -> dict[str, Any]:
        self.writer.hoisted = None
        row = self._row_text(block)
        folds = [s for s in block.element if isinstance(s, Fold)]
        self.writer.hoisted = []
        single = self._element_text(block, None, 0) if not lane_loop else []
        full = self._element_text(block, VectorAxis(lane_loop), 0)
        tail = self._element_text(block, VectorAxis(lane_loop, "n"), 0)
        unroll = self._unroll(block, folds)
        unrolled = [
            "\n".join(self._element_text(block, VectorAxis(lane_loop), u)) for u in range(unroll)
        ]
        text = PassText([*self.writer.hoisted])
        stretch = self._stretch(folds, unroll)
        short = self._short(stretch)
        for fold in folds:
            if fold.scope != "column":
                self._fold_text(fold, unroll, text, bool(stretch), bool(short))
        return {
            "short": short,
            "short_end": "\n".join(text.short_end),
            "long_begin": "\n".join(text.long_begin),
            "long_end": "\n".join(text.long_end),
            "row": "\n".join(row),
            "before": "\n".join(text.before),
            "behind": "\n".join(text.behind),
            "stretch": stretch,
            "stretch_begin": "\n".join(text.stretch_begin),
            "stretch_end": "\n".join(text.stretch_end),
            "unrolled": unrolled if unroll > 1 else [],
            "single": "\n".join(single),
            "full": "\n".join(full),
            "tail": "\n".join(tail),
        }

    def _stretch(self, folds: list[Fold], unroll: int) -> int:
        """Elements that are added before their sums are joined: errors grow with their number.

        NumPy adds up to 16 one after the other. A row of so many in each lane stays in one piece.
        """
        last = self.program.inner[-1].size if self.program.inner else 0
        stretch = ADDITIONS * LANES_AT_MOST * unroll
        short = isinstance(last, int) and last <= 2 * stretch
        adds = any(f.scope != "column" and is_compensated(f) for f in folds)
        return stretch if adds and not short else 0

    def _unroll(self, block: Pass, folds: list[Fold]) -> int:
        """How many accumulators each fold has."""
        last = self.program.inner[-1].size if self.program.inner else 0
        if len(block.element) > LARGEST_UNROLLED_BODY or not can_unroll(folds):
            return 1
        # A row of unknown size has them where it is found to be long.
        sized = isinstance(last, int) or any(map(is_compensated, folds))
        return self.schedule.unroll if sized else 1

    def _short(self, stretch: int) -> str:
        """C text of whether a row of symbolic size is one stretch, "" where it is known."""
        last = self.program.inner[-1].size if self.program.inner else 0
        known = isinstance(last, int) or self.flat
        return f"{dim(last)} <= {2 * stretch}" if stretch and not known else ""

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

    def _element_text(self, block: Pass, axis: VectorAxis | None, copy: int) -> list[str]:
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
            lines += accumulate(s, f"acc_{s.name}{_suffix(copy)}", s.operand, s.position, mask)
        return lines

    def _fold_text(
        self, fold: Fold, unroll: int, text: PassText, stretches: bool, short: bool
    ) -> None:
        """Accumulators before the loop over elements, and what becomes of them behind it.

        ``short``: a row may turn out to be short; then it is a plain loop with one accumulator.
        """
        names = [f"acc_{fold.name}{_suffix(u)}" for u in range(unroll)]
        begin = text.stretch_begin if stretches else text.before
        end = text.stretch_end if stretches else text.behind
        for name in names:
            begin += accumulator(fold, name)
        while len(names) > 1:  # by pairs
            half = (len(names) + 1) // 2
            for name, other in zip(names, names[half:], strict=False):
                end += accumulate(fold, name, other, f"{other}_at", "")
            names = names[:half]
        total = names[0]
        if stretches:
            total = f"sum_{fold.name}"
            long = text.long_begin if short else text.before
            long += accumulator(fold, total, exact=True)
            end += join(fold, total, names[0])
        if short:
            self._short_or_long(fold, names[0], total, text)
            return
        if fold.scope == "all":
            lost = f"{total}_lost" if stretches else ""
            text.behind += join(fold, f"all_{fold.name}", total, lost)
            return
        text.behind += join_lanes(fold, total) if stretches else fold_lanes(fold, total)
        self._row_result(fold, settled(fold, total) if stretches else total, text)

    def _short_or_long(self, fold: Fold, plain: str, total: str, text: PassText) -> None:
        """What becomes of the accumulator of a short row, and of the total of a long one."""
        text.before += accumulator(fold, plain)
        if fold.scope == "all":
            text.short_end += join(fold, f"all_{fold.name}", plain)
            text.long_end += join(fold, f"all_{fold.name}", total, f"{total}_lost")
            return
        text.short_end += fold_lanes(fold, plain)
        text.long_end += join_lanes(fold, total)
        text.long_end.append(f"{plain} = {settled(fold, total)};")
        if fold.position:
            text.long_end.append(f"{plain}_at = {total}_at;")
        self._row_result(fold, plain, text)

    def _row_result(self, fold: Fold, total: str, text: PassText) -> None:
        lane = "i64" if fold.position else fold.lane
        result = f"{total}_at" if fold.position else total
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


def _aligned(offset: Dim) -> str:
    return f"private + ({dim(offset)} + 63) / 64 * 64"


def _suffix(copy: int) -> str:
    return f"_{copy}" if copy else ""
