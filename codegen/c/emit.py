"""Kernel IR to C: one translation unit with one entry point.

In: kernels with the buffers of their parameters. Out: C text. The templates own the
loops; this module fills their holes with the statements' text. Programs that are equal
become one C function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flamec.codegen.c.product import product_holes
from flamec.codegen.c.statements import StatementWriter, VectorAxis, accumulate, fold_lanes
from flamec.codegen.c.text import C_TYPES, combine, dim, factor, identity
from flamec.codegen.lower.lanes import LANE_BYTES, spill_type
from flamec.codegen.lower.row_program import CHUNK_ROWS, CHUNKS
from flamec.codegen.schedule import GRAIN, Schedule, propose
from flamec.ir.kernel import Fold, Kernel, Part, Pass, RowProgram, Statement, Store
from flamec.ir.plan import Buffer
from flamec.ir.shape import Dim, product, symbols_of

if TYPE_CHECKING:
    import jinja2

LANES_AT_MOST = 16
STRIP = 256  # elements of each row that one job of a scatter adds


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    loader = jinja2.PackageLoader("flamec.codegen.c", "templates")
    return jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def _render(template: str, holes: dict[str, Any]) -> str:
    text = _environment().get_template(template).render(holes)
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


@dataclass(frozen=True)
class EmittedProgram:
    """C functions of one program and how to call them."""

    name: str
    jobs: str  # iterations of the parallel loop
    grain: str
    serial: bool
    chunks: str  # how many partial results there are; "" without any
    folds: tuple[Fold, ...]
    after: str  # function that follows, or ""
    after_jobs: str
    after_serial: bool
    symbols: frozenset[str]


@dataclass
class Emitter:
    """Collects the functions of a translation unit."""

    symbols: tuple[str, ...]
    functions: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    scratch: Dim = 0
    _programs: dict[tuple[RowProgram, Schedule], EmittedProgram] = field(default_factory=dict)
    _scratch_seen: set[Any] = field(default_factory=set)

    # programs ------------------------------------------------------------------------
    def program(self, program: RowProgram, schedule: Schedule) -> EmittedProgram:
        """The C functions of a program; written once for equal programs."""
        key = (program, schedule)
        if key not in self._programs:
            name = f"{'product' if program.contraction else 'loop'}_{len(self._programs)}"
            writer = ProgramWriter(program, schedule, name, self)
            self._programs[key] = writer.emit()
        return self._programs[key]

    def size_declarations(self, names: frozenset[str] | set[str], source: str) -> list[str]:
        return [
            f"const int64_t {name} = {source}->sizes[{i}];"
            for i, name in enumerate(self.symbols)
            if name in names
        ]

    def need_scratch(self, size: Dim) -> None:
        """Constant sizes share the largest; each symbolic size is added once."""
        if isinstance(size, int):
            constant = self.scratch if isinstance(self.scratch, int) else 0
            self.scratch = max(constant, size) if isinstance(self.scratch, int) else self.scratch
            if not isinstance(self.scratch, int):
                self._add_scratch(size)
        else:
            self._add_scratch(size)

    def _add_scratch(self, size: Dim) -> None:
        if size not in self._scratch_seen:
            self._scratch_seen.add(size)
            self.scratch = self.scratch + size

    # steps ---------------------------------------------------------------------------
    def kernel(self, kernel: Kernel, buffers: tuple[int, ...]) -> None:
        """One step: ``buffers[i]`` is the plan's buffer of kernel parameter i."""
        name = f"step_{len(self.steps)}"
        writer = StatementWriter((), (), "0")
        uniform = [line for s in kernel.uniform for line in writer.write(s, None)]
        programs = [self.program(p.program, propose(p.program)) for p in kernel.parts]
        symbols = _symbols(kernel.uniform) | _symbols(kernel.finish)
        for emitted in programs:
            symbols |= emitted.symbols
        parts = [
            self._part(i, p, e) for i, (p, e) in enumerate(zip(kernel.parts, programs, strict=True))
        ]
        used = _parameters(kernel.uniform) | _parameters(kernel.finish)
        pointers = [
            f"{'' if p.written else 'const '}{C_TYPES[p.memory]} *p{i} = call->buffers[{buffers[i]}];"
            for i, p in enumerate(kernel.parameters)
            if i in used
        ]
        arguments = ", ".join(f"call->buffers[{b}]" for b in buffers) or "0"
        if any("(frame," in line for line in uniform):
            pointers.append("const Frame uniform_frame = {call, 0, 0, 0, &error};")
            pointers.append("const Frame *frame = &uniform_frame;")
        if kernel.parts:
            pointers.append(f"void *const arguments[] = {{{arguments}}};")
        finish = [line for i, part in enumerate(kernel.parts) for line in _joined(i, part, programs[i])]
        finish += [line for s in kernel.finish for line in writer.write(s, None)]
        comment = [f"{kernel.name}: {', '.join(kernel.operations)}", *kernel.locations]
        holes = {
            "name": name,
            "comment": "\n * ".join(line.replace("*/", "* /") for line in comment),
            "sizes": "\n".join(self.size_declarations(symbols, "call")),
            "pointers": "\n".join(pointers),
            "uniform": "\n".join(uniform),
            "parts": parts,
            "run": _run(programs),
            "finish": "\n".join(finish),
        }
        self.functions.append(_render("step.c.j2", holes))
        self.steps.append(name)

    def copy(self, source: int, target: int, buffer: Buffer) -> None:
        """A step that copies a whole buffer."""
        symbols = symbols_of(buffer.elements)
        name = f"step_{len(self.steps)}"
        size = dim(buffer.bytes)
        holes = {
            "name": name,
            "comment": f"write back into {buffer.name}",
            "sizes": "\n".join(self.size_declarations(symbols, "call")),
            "pointers": "",
            "uniform": "",
            "parts": [],
            "run": f"__builtin_memcpy(call->buffers[{target}], call->buffers[{source}], {size});",
            "finish": "",
        }
        self.functions.append(_render("step.c.j2", holes))
        self.steps.append(name)

    def _part(self, number: int, part: Part, emitted: EmittedProgram) -> dict[str, str]:
        lines = [
            f"void *const p_{number}[] = {{{', '.join(f'arguments[{a}]' for a in part.arguments)}}};"
        ]
        uniforms = "0"
        if part.imports:
            values = ", ".join(
                f"{{.{lane} = {name}[0]}}"
                for name, (_, lane) in zip(part.imports, part.program.imports, strict=True)
            )
            lines.append(f"const Scalar u_{number}[] = {{{values}}};")
            uniforms = f"u_{number}"
        partial = "0"
        if emitted.folds:
            lines.append(f"Scalar partial_{number}[{CHUNKS * len(emitted.folds)}];")
            partial = f"partial_{number}"
        lines.append(
            f"Frame frame_{number} = {{call, p_{number}, {uniforms}, {partial}, &error}};"
        )
        after = ""
        if emitted.after:
            after = _call(emitted.after, f"&frame_{number}", emitted.after_jobs, "4", emitted.after_serial)
        return {"frame": "\n".join(lines), "after": after}

    def text(self) -> str:
        """The whole translation unit."""
        prelude = _render("prelude.c.j2", {})
        scratch = self.scratch + 64
        lines = self.size_declarations(symbols_of(scratch), "call")
        body = "\n".join(f"    {line}" for line in (*lines, "(void)call;"))
        prelude += (
            "\n/* Bytes of private memory of one thread. */\n"
            "static inline __attribute__((unused)) int64_t flamec_scratch(const FlamecCall *call) "
            f"{{\n{body}\n    return ({dim(self.scratch)} + 63) / 64 * 64;\n}}\n"
        )
        return _render(
            "program.c.j2",
            {"prelude": prelude, "functions": self.functions, "steps": self.steps},
        )


def _run(programs: list[EmittedProgram]) -> str:
    if not programs:
        return ""
    if len(programs) == 1:
        (p,) = programs
        return _call(p.name, "&frame_0", p.jobs, p.grain, p.serial)
    rows = ", ".join(
        f"{{{p.name}, frame_{i}, {p.jobs}}}" for i, p in enumerate(programs)
    )
    total = " + ".join(f"({p.jobs})" for p in programs)
    lines = [
        f"const Part part[] = {{{rows}}};",
        f"Parts parts = {{part, {len(programs)}}};",
        _call("flamec_parts", "&parts", total, "4", all(p.serial for p in programs)),
    ]
    return "\n".join(lines)


def _call(function: str, context: str, jobs: str, grain: str, serial: bool) -> str:
    if serial:
        return f"{function}((void *){context}, 0, {jobs}, 0);"
    return f"call->runtime->parallel_for({function}, (void *){context}, {jobs}, {grain});"


def _joined(number: int, part: Part, emitted: EmittedProgram) -> list[str]:
    """Join the partial results of the folds over everything."""
    lines = []
    count = len(emitted.folds)
    for position, (fold, name) in enumerate(zip(emitted.folds, part.results, strict=True)):
        partial = f"vsplat_{fold.lane}(partial_{number}[i * {count} + {position}].{fold.lane})"
        joined = combine(fold.op, fold.lane, name, partial)
        lines.append(f"v_{fold.lane} {name} = {identity(fold.op, fold.lane)};")
        lines.append(f"for (int64_t i = 0; i < {emitted.chunks}; i++) {name} = {joined};")
    return lines


def _symbols(statements: tuple[Statement, ...]) -> set[str]:
    found: set[str] = set()
    for statement in statements:
        found |= _symbols_in(statement)
    return found


def _symbols_in(value: object) -> set[str]:
    """Names of all symbols anywhere inside a statement or program."""
    from flamec.ir.shape import SymbolicDim

    if isinstance(value, SymbolicDim):
        return symbols_of(value)
    if isinstance(value, tuple):
        return set().union(*(_symbols_in(v) for v in value))
    if hasattr(value, "__dataclass_fields__"):
        return set().union(*(_symbols_in(getattr(value, f)) for f in value.__dataclass_fields__))
    return set()


def _parameters(statements: tuple[Statement, ...]) -> set[int]:
    found = set()
    for s in statements:
        for name in ("place", "state"):
            if hasattr(s, name):
                found.add(getattr(s, name).parameter)
    return found


class ProgramWriter:
    """Fills the template of one program."""

    def __init__(self, program: RowProgram, schedule: Schedule, name: str, emitter: Emitter) -> None:
        self.program, self.schedule, self.name, self.emitter = program, schedule, name, emitter
        self.along = program.kind == "along rows"
        self.flat = program.kind == "flat"
        self.scatter = program.kind == "scatter"
        self.rows = tuple(loop.name for loop in program.rows)
        self.inner = tuple(loop.name for loop in program.inner)
        self.all_folds = tuple(program.folds("all", "rows"))
        self.column_folds = program.folds("column")
        self.chunked = bool(self.all_folds or self.column_folds)
        self.writer = StatementWriter(self.rows, self.inner, self._inner_index(padded=True))
        self.writer.scalars.update(name for name, _ in program.imports)
        self.symbols = frozenset(_symbols_in(program))

    # sizes ---------------------------------------------------------------------------
    def _inner_index(self, padded: bool) -> str:
        """The position inside a row, row-major; padded so that whole vectors fit."""
        text = ""
        for loop in self.program.inner:
            size = dim(loop.size)
            if padded and loop is self.program.inner[-1]:
                size = f"(flamec_ceil({size}, {LANES_AT_MOST}) * {LANES_AT_MOST})"
            text = f"({text} * ({size}) + {loop.name})" if text else loop.name
        return text or "0"

    def row_count(self) -> str:
        if self.flat:
            return f"flamec_ceil({dim(self._inner_size())}, {self.schedule.block})"
        return dim(product(loop.size for loop in self.program.rows))

    def strip_count(self) -> str:
        """A scatter is divided among threads along its rows, which stay in order."""
        last = self.program.inner[-1].size if self.program.inner else 1
        return f"flamec_ceil({dim(last)}, {STRIP})"

    def _inner_size(self) -> Dim:
        return product(loop.size for loop in self.program.inner)

    def chunk_count(self) -> str:
        """Partial results of folds over rows (or blocks)."""
        each = 1 if self.flat else CHUNK_ROWS
        return f"flamec_max(1, flamec_min({CHUNKS}, ({self.row_count()}) / {each}))"

    def grain(self, jobs: str) -> str:
        """Jobs that are worth another thread."""
        contraction = self.program.contraction
        inner = contraction.columns if contraction else self._inner_size()
        if self.chunked:
            total = f"({self.row_count()}) * {factor(inner)} * {self.schedule.weight}"
            if self.flat:
                total = f"{factor(inner)} * {self.schedule.weight}"
            return f"flamec_max(1, {jobs} * {GRAIN} / flamec_max(1, {total}))"
        if self.scatter:
            return f"flamec_max(1, {GRAIN} / flamec_max(1, ({self.row_count()}) * {STRIP}))"
        if self.flat:
            return str(max(1, GRAIN // (self.schedule.block * self.schedule.weight)))
        each = f"{factor(inner)} * {self.schedule.weight}"
        if self.along:
            each += f" * {self.schedule.width}"
        return f"flamec_max(1, {GRAIN} / flamec_max(1, {each}))"

    # text ----------------------------------------------------------------------------
    def declarations(self) -> list[str]:
        lines = ["const Frame *frame = context;", "(void)thread;"]
        lines += self.emitter.size_declarations(self.symbols, "frame->call")
        for i, parameter in enumerate(self.program.parameters):
            const = "" if parameter.written else "const "
            lines.append(f"{const}{C_TYPES[parameter.memory]} *p{i} = frame->p[{i}];")
        for i, (name, lane) in enumerate(self.program.imports):
            lines.append(f"const v_{lane} {name} = vsplat_{lane}(frame->u[{i}].{lane});")
        return lines

    def emit(self) -> EmittedProgram:
        lines = self.declarations()
        if self.chunked:
            lines.append(f"const int64_t row_count = {self.row_count()};")
            lines.append(f"const int64_t chunk_count = {self.chunk_count()};")
        lines += self._scratch()
        if self.along:
            jobs = self._emit_along_rows(lines)
        else:
            self._emit_rows(lines)
            jobs = self.chunk_count() if self.chunked else self.row_count()
            if self.scatter:
                jobs = self.strip_count()
        after = self._emit_after() if self.program.after else ("", "")
        return EmittedProgram(
            self.name,
            jobs,
            self.grain(jobs),
            self.schedule.serial,
            self.chunk_count() if self.chunked else "",
            self.all_folds,
            after[0],
            after[1],
            self.schedule.serial,
            self.symbols,
        )

    def _scratch(self) -> list[str]:
        """Pointers to what is kept for a row, and to the panel of a product."""
        kept = self.program.kept()
        contraction = self.program.contraction
        private_panel = contraction is not None and contraction.result < 0 and self.program.passes
        if not kept and not private_panel:
            return []
        lines = ["char *private = (char *)frame->call->scratch + thread * flamec_scratch(frame->call);"]
        total: Dim = 0
        room: Dim = 0
        if self.program.inner:
            outer = product(loop.size for loop in self.program.inner[:-1])
            room = outer * (self.program.inner[-1].size + LANES_AT_MOST)
        for keep in kept:
            memory = spill_type(keep.lane)
            where = f"private + ({dim(total)} + 63) / 64 * 64"
            lines.append(f"{C_TYPES[memory]} *keep{keep.slot} = ({C_TYPES[memory]} *)({where});")
            total = total + room * LANE_BYTES[keep.lane] + 64
        if private_panel and contraction is not None:
            where = f"private + ({dim(total)} + 63) / 64 * 64"
            kind = C_TYPES[contraction.memory]
            lines.append(f"{kind} *panel_memory = ({kind} *)({where});")
            size = LANE_BYTES[contraction.lane] * self.schedule.panel
            total = total + contraction.columns * size + 64
        self.emitter.need_scratch(total)
        return lines

    # rows ----------------------------------------------------------------------------
    def _emit_rows(self, declarations: list[str]) -> None:
        program = self.program
        lane_loop = self.inner[-1] if self.inner else ""
        low, high = "0", dim(program.inner[-1].size) if program.inner else "1"
        if self.flat:
            low = f"row * {self.schedule.block}"
            high = f"flamec_min({high}, {low} + {self.schedule.block})"
        if self.scatter and self.inner:
            low = f"strip * {STRIP}"
            high = f"flamec_min({high}, {low} + {STRIP})"
        whole = program.inner and isinstance(program.inner[-1].size, int)
        has_tail = not (whole and program.inner[-1].size % LANES_AT_MOST == 0)
        holes = {
            "name": self.name,
            "declarations": "\n".join(declarations),
            "region": self._region(),
            "first": "first" if self._region() else "begin",
            "last": "last" if self._region() else "end",
            "outer": [{"name": l.name, "size": dim(l.size)} for l in program.inner[:-1]],
            "lane_loop": lane_loop,
            "low": low,
            "high": high,
            "has_tail": has_tail,
            "row_indices": "" if self.flat else _decomposed(program.rows, "row"),
            "passes": [self._row_pass(block, lane_loop) for block in program.passes],
            "chunk_begin": "\n".join(self._chunk_begin()),
            "chunk_end": "\n".join(self._chunk_end()),
            "product": product_holes(program, self.schedule),
        }
        self.emitter.functions.append(_render("rows.c.j2", holes))

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

    def _row_pass(self, block: Pass, lane_loop: str) -> dict[str, Any]:
        writer = self.writer
        row = []
        for s in block.row:
            if isinstance(s, Fold):
                row += accumulate(s, f"all_{s.name}", s.operand, "", "")
                continue
            row += writer.write(s, None)
            if not isinstance(s, Store):
                writer.scalars.add(s.name)
        folds = [s for s in block.element if isinstance(s, Fold)]
        writer.hoisted = []
        single = self._element_text(block, None, 0) if not lane_loop else []
        full = self._element_text(block, VectorAxis(lane_loop), 0)
        tail = self._element_text(block, VectorAxis(lane_loop, "n"), 0)
        unroll = self.schedule.unroll if folds else 1
        unrolled = [
            "\n".join(self._element_text(block, VectorAxis(lane_loop), u)) for u in range(unroll)
        ]
        before = [*writer.hoisted]
        behind = []
        for fold in folds:
            if fold.scope == "column":
                continue
            names = [f"acc_{fold.name}{_suffix(u)}" for u in range(unroll)]
            for name in names:
                before.append(f"v_{fold.lane} {name} = {identity(fold.op, fold.lane)};")
                if fold.position:
                    before.append(f"v_i64 {name}_at = vsplat_i64(-1);")
            for name in names[1:]:
                behind += accumulate(fold, names[0], name, "", "")
            if fold.scope == "all":
                behind += accumulate(fold, f"all_{fold.name}", names[0], "", "")
                continue
            behind += fold_lanes(fold, names[0])
            lane = "i64" if fold.position else fold.lane
            result = f"{names[0]}_at" if fold.position else names[0]
            behind.append(f"const v_{lane} {fold.name} = {result};")
            writer.scalars.add(fold.name)
        return {
            "row": "\n".join(row),
            "before": "\n".join(before),
            "behind": "\n".join(behind),
            "unrolled": unrolled if unroll > 1 else [],
            "single": "\n".join(single),
            "full": "\n".join(full),
            "tail": "\n".join(tail),
        }

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

    def _column_fold(self, fold: Fold, axis: VectorAxis) -> list[str]:
        memory = spill_type(fold.lane)
        place = f"p{fold.target} + chunk * {factor(self._inner_size())} + {self._inner_index(False)}"
        if axis.is_full:
            joined = combine(fold.op, fold.lane, f"vload_{memory}({place})", fold.operand)
            return [f"vstore_{memory}({place}, {joined});"]
        joined = combine(fold.op, fold.lane, f"vload_n_{memory}({place}, n)", fold.operand)
        return [f"vstore_n_{memory}({place}, {joined}, n);"]

    def _chunk_begin(self) -> list[str]:
        lines = []
        for fold in self.all_folds:
            lines.append(f"v_{fold.lane} all_{fold.name} = {identity(fold.op, fold.lane)};")
        for fold in self.column_folds:
            memory = spill_type(fold.lane)
            size = dim(self._inner_size())
            place = f"p{fold.target} + chunk * {factor(self._inner_size())} + i"
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
                lines += fold_lanes(fold, name)
            place = f"frame->partial[chunk * {len(self.all_folds)} + {number}].{fold.lane}"
            lines.append(f"{place} = {name}[0];")
        return lines

    # rows side by side ---------------------------------------------------------------
    def _emit_along_rows(self, declarations: list[str]) -> str:
        program, width = self.program, self.schedule.width
        lane = program.rows[-1] if program.rows else None
        lane_loop, lane_size = (lane.name, dim(lane.size)) if lane else ("lane", "1")
        outer = program.rows[:-1]
        groups = f"flamec_ceil({lane_size}, {width})"
        declarations.append(f"const int64_t group_count = {groups};")
        passes = [self._along_pass(block, lane_loop, declarations) for block in program.passes]
        holes = {
            "name": self.name,
            "declarations": "\n".join(declarations),
            "width": width,
            "lane_loop": lane_loop,
            "lane_size": lane_size,
            "row_indices": _decomposed(outer, "group / group_count"),
            "inner": [{"name": l.name, "size": dim(l.size)} for l in program.inner],
            "passes": passes,
        }
        self.emitter.functions.append(_render("along_rows.c.j2", holes))
        count = dim(product(l.size for l in outer))
        return f"({count}) * {groups}"

    def _along_pass(self, block: Pass, lane_loop: str, declarations: list[str]) -> dict[str, Any]:
        vectors = f"[{self.schedule.width} / FLAMEC_LANES]"
        writer = self.writer
        axis = VectorAxis(lane_loop, "n")
        row = []
        for s in block.row:
            if not isinstance(s, Store):
                lane = "i32" if s.__class__.__name__ == "RandomBits" else s.lane
                declarations.append(f"v_{lane} {s.name}{vectors};")
                writer.arrays.add(s.name)
            row += writer.write(s, axis)
        before, full, tail = [], [], []
        for s in block.element:
            if not isinstance(s, Fold):
                full += writer.write(s, VectorAxis(lane_loop))
                tail += writer.write(s, axis)
                continue
            more_before, text = self._along_fold(s, vectors, declarations)
            before += more_before
            full += text
            tail += text
        return {
            "row_full": "\n".join(row),
            "before": "\n".join(before),
            "full": "\n".join(full),
            "tail": "\n".join(tail),
        }

    def _along_fold(
        self, s: Fold, vectors: str, declarations: list[str]
    ) -> tuple[list[str], list[str]]:
        writer = self.writer
        name = s.name
        start = f"for (int q = 0; q < {self.schedule.width} / FLAMEC_LANES; q++) "
        accumulator = f"acc_{name}"
        declarations.append(f"v_{s.lane} {accumulator}{vectors};")
        before = [f"{start}{accumulator}[q] = {identity(s.op, s.lane)};"]
        result = accumulator
        if s.position:
            declarations.append(f"v_i64 {accumulator}_at{vectors};")
            before.append(f"{start}{accumulator}_at[q] = vsplat_i64(-1);")
            result = f"{accumulator}_at"
        operand = writer.reference(s.operand)
        text = accumulate(s, f"{accumulator}[q]", operand, s.position, "")
        if s.scope == "scan":
            text.append(f"const v_{s.lane} {name} = {accumulator}[q];")
            if s.names:
                text.append(f"const v_i64 {s.names[0]} = {accumulator}_at[q];")
            return before, text
        writer.aliases[name] = result
        writer.arrays.add(name)
        return before, text

    # after ---------------------------------------------------------------------------
    def _emit_after(self) -> tuple[str, str]:
        program, width = self.program, self.schedule.block
        name = f"{self.name}_after"
        lane = program.inner[-1]
        outer = program.inner[:-1]
        axis = VectorAxis(lane.name, "n")
        declarations = self.declarations()
        declarations.append(f"const int64_t chunk_count = {self.chunk_count()};")
        declarations.append(f"const int64_t block_count = flamec_ceil({dim(lane.size)}, {width});")
        body = []
        for fold in self.column_folds:
            memory = spill_type(fold.lane)
            place = f"p{fold.target} + i * {factor(self._inner_size())} + {self._inner_index(False)}"
            joined = combine(fold.op, fold.lane, fold.name, f"vload_n_{memory}({place}, n)")
            body.append(f"v_{fold.lane} {fold.name} = {identity(fold.op, fold.lane)};")
            body.append(f"for (int64_t i = 0; i < chunk_count; i++) {fold.name} = {joined};")
        writer = StatementWriter(self.rows, self.inner, "0")
        writer.scalars.update(name for name, _ in program.imports)
        for statement in program.after:
            body += writer.write(statement, axis)
        holes = {
            "name": name,
            "declarations": "\n".join(declarations),
            "width": width,
            "lane_loop": lane.name,
            "lane_size": dim(lane.size),
            "indices": _decomposed(outer, "block / block_count"),
            "body": "\n".join(body),
        }
        self.emitter.functions.append(_render("after.c.j2", holes))
        count = dim(product(l.size for l in outer))
        return name, f"({count}) * flamec_ceil({dim(lane.size)}, {width})"


def _suffix(copy: int) -> str:
    return f"_{copy}" if copy else ""


def _decomposed(loops: tuple[Any, ...], index: str) -> str:
    """The indices of nested loops from their common counter."""
    if len(loops) == 1:
        return f"const int64_t {loops[0].name} = {index};"
    lines = []
    rest = index
    for position, loop in enumerate(reversed(loops)):
        if position == len(loops) - 1:
            lines.append(f"const int64_t {loop.name} = {rest};")
        else:
            lines.append(f"const int64_t {loop.name} = ({rest}) % ({dim(loop.size)});")
            rest = f"({rest}) / ({dim(loop.size)})"
    return "\n".join(lines)
