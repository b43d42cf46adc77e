"""Kernel IR to C: one translation unit with one entry point.

In: kernels with the buffers of their parameters. Out: C text. The templates own the
loops; this package fills their holes with the statements' text. Programs that are equal
become one C function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from flamec.codegen.c.block_writers import ProductWriter, TiledWriter
from flamec.codegen.c.bundle import BundleWriter, is_bundle
from flamec.codegen.c.few_elements import FewElementsWriter, is_finished_by_vector
from flamec.codegen.c.fold_text import accumulator, is_compensated, join, settled
from flamec.codegen.c.program_writer import EmittedProgram, ProgramWriter
from flamec.codegen.c.rendering import parameters_in, render, size_declarations, symbols_in
from flamec.codegen.c.repeated_step import COMMENT, NAME, RepeatedStep
from flamec.codegen.c.rows_writer import RowsWriter
from flamec.codegen.c.side_by_side import SideBySideWriter
from flamec.codegen.c.statements import StatementWriter
from flamec.codegen.c.text import C_TYPES, dim, number
from flamec.codegen.lower.lanes import memory_type
from flamec.codegen.lower.row_program import CHUNKS
from flamec.codegen.schedule import Schedule, is_small, propose
from flamec.ir.estimates import typical_sizes
from flamec.ir.kernel import SIZE_BORDERS, Kernel, Load, Part, RowProgram, Store
from flamec.ir.plan import Branch, Buffer, Loop
from flamec.ir.shape import Dim, symbols_of
from flamec.ir.user_kernel import ArrayArgument, CForm, KernelArgument

FEW_STEPS = 32  # that are called one by one
_TYPED_POINTERS = (
    '#pragma GCC diagnostic push\n#pragma GCC diagnostic error "-Wincompatible-pointer-types"'
)


@dataclass
class Emitter:
    """Collects the functions of a translation unit. ``symbols`` are the sizes it is given."""

    symbols: tuple[str, ...]
    functions: list[Callable[[], str]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)  # numbers of their functions, in order
    _count: int = 0
    _user_texts: set[str] = field(default_factory=set)
    _blocks: dict[str, str] = field(default_factory=dict)  # of scalars: text -> function
    _repeated: dict[object, RepeatedStep] = field(default_factory=dict)
    _shared: dict[int, tuple[RepeatedStep, int]] = field(default_factory=dict)  # by step: its use
    _rows: frozenset[int] = frozenset()  # steps without a function of their own
    _programs: dict[tuple[RowProgram, Schedule], EmittedProgram] = field(default_factory=dict)

    @property
    def scratch(self) -> Dim:
        """Bytes of private memory of a thread: the largest constant plus all symbolic needs."""
        needs = {p.scratch for p in self._programs.values()}
        total: Dim = max((n for n in needs if isinstance(n, int)), default=0)
        for need in needs:
            if not isinstance(need, int):
                total = total + need
        return total

    def _program(self, program: RowProgram) -> EmittedProgram:
        """The C functions of a program; written once for equal programs."""
        schedule = propose(program)
        key = (program, schedule)
        if key not in self._programs:
            name = f"{'product' if program.contraction else 'loop'}_{len(self._programs)}"
            form: type[ProgramWriter] = RowsWriter
            if program.contraction is not None and not program.passes:
                form = ProductWriter
            elif is_finished_by_vector(program):
                form = FewElementsWriter
            elif program.kind == "along rows":
                form = SideBySideWriter
            elif schedule.tiled >= 0:
                form = TiledWriter
            emitted = form(program, schedule, name, self.symbols).emit()
            self._programs[key] = emitted
            self._add(*emitted.functions)
        return self._programs[key]

    def _version(self, part: Part) -> EmittedProgram:
        with typical_sizes(dict(part.typical)):
            return self._program(part.program)

    # steps ---------------------------------------------------------------------------
    def kernel(self, kernel: Kernel, buffers: tuple[int, ...]) -> None:
        """One step: ``buffers[i]`` is the plan's buffer of kernel parameter i."""
        name = _function(self._next_number())
        self.steps.append(self._count - 1)
        like = tuple(id(x) for x in (kernel.parts, kernel.uniform, kernel.finish))
        known = self._repeated.get(like)
        if known is None:
            different = {id(p.program): p.program for p in kernel.parts}
            emitted = {key: self._program(program) for key, program in different.items()}
            programs = [emitted[id(p.program)] for p in kernel.parts]
            versions = [self._version(v) for p in kernel.parts for v in p.versions]
            if is_bundle(kernel, programs):
                self._bundle(name, kernel, buffers, programs)
                return
            text = self._step(kernel, programs, versions)
            known = self._repeated.setdefault(text, RepeatedStep(kernel, text))
            if known.kernel is kernel:
                self._repeated[like] = known
        known.uses.append((name, _comment(kernel), buffers))
        self._shared[self._count - 1] = known, len(known.uses) - 1
        self.functions.append(partial(self._repeated_function, self._count - 1))

    def _repeated_function(self, number: int) -> str:
        step, use = self._shared[number]
        return step.function(use, number not in self._rows)

    def _add(self, *functions: str) -> None:
        self.functions += [partial(str, text) for text in functions]

    def _step(
        self, kernel: Kernel, programs: list[EmittedProgram], versions: list[EmittedProgram]
    ) -> str:
        """The function of a kernel, without its name and with its buffers in a table.

        ``versions``: those of its part, which is then the only one.
        """
        buffers = [f"at[{i}]" for i in range(len(kernel.parameters))]
        writer = StatementWriter((), (), "0")
        uniform = [line for s in kernel.uniform for line in writer.write(s, None)]
        numbered = list(enumerate(zip(kernel.parts, programs, strict=True)))
        symbols = symbols_in(kernel.uniform) | symbols_in(kernel.finish)
        for part, emitted in zip(kernel.parts, programs, strict=True):
            symbols |= emitted.symbols | symbols_in(part.sizes)
        serial = is_small(kernel)
        parts = ["\n".join(_part(i, p, e)) for i, (p, e) in numbered]
        run, after = _run(programs, serial), _after(programs, serial)
        if versions:
            (part,) = kernel.parts
            ways = [(way, e) for way, e in zip(part.ways, [*programs, *versions], strict=True)]
            symbols |= {s for e in versions for s in e.symbols} | {*part.symbols}
            parts, run, after = [], _chosen(part, ways, serial), []
        finish = [line for i, (p, e) in numbered for line in _joined(i, p, e)]
        finish += [line for s in kernel.finish for line in writer.write(s, None)]
        holes = {
            "name": NAME,
            "comment": COMMENT,
            "sizes": "\n".join(size_declarations(self.symbols, symbols, "call")),
            "pointers": "\n".join(
                [*_shortcut(kernel, buffers), *_pointers(kernel, buffers, [*uniform, *finish])]
            ),
            "uniform": "\n".join(uniform),
            "parts": parts,
            "run": run,
            "after": "\n".join(after),
            "finish": "\n".join(finish),
        }
        return render("step.c.j2", holes)

    def _bundle(
        self, name: str, kernel: Kernel, buffers: tuple[int, ...], programs: list[EmittedProgram]
    ) -> None:
        writer = BundleWriter(kernel, buffers, programs, self.symbols, self._blocks)
        run = _call("flamec_parts", "&parts", "total", "first_grain", is_small(kernel))
        text = writer.write(name, _comment(kernel), run)
        self._add(*writer.new_functions, text)

    def host_call(self, kernel: Kernel, number: int) -> None:
        """A step that has the runtime make the plan's call of the host with this number."""
        self._plain_step(_comment(kernel), f"error = call->host({number});")

    def user_calls(self, kernel: Kernel, form: CForm, buffers: tuple[int, ...]) -> None:
        """A step that calls the user's functions; ``buffers``: of operands, then of results.

        A function for arrays of another type is an error of the compiler, not only a warning.
        """
        if form.text not in self._user_texts:
            self._user_texts.add(form.text)
            self._add(form.text)
        self._add(_TYPED_POINTERS)
        lines: list[str] = []
        symbols: set[str] = set()
        for position, call in enumerate(form.calls):
            arguments = ", ".join(_user_argument(a, buffers) for a in call.arguments)
            own = {
                s for a in call.arguments if not isinstance(a, ArrayArgument) for s in symbols_in(a)
            }
            if call.jobs is None:
                symbols |= own
                lines.append(f"{call.function}({arguments});")
                continue
            symbols |= symbols_of(call.jobs)
            job = f"user_job_{self._count}_{position}"
            holes = {
                "name": job,
                "function": call.function,
                "arguments": f", {arguments}" if arguments else "",
                "sizes": "\n".join(size_declarations(self.symbols, own, "call")),
            }
            self._add(render("user_job.c.j2", holes))
            lines.append(f"call->runtime->parallel_for({job}, (void *)call, {dim(call.jobs)}, 1);")
        self._plain_step(
            _comment(kernel),
            "\n".join(lines),
            "\n".join(size_declarations(self.symbols, symbols, "call")),
        )
        self._add("#pragma GCC diagnostic pop")

    def copy(self, source: int, target: int, buffer: Buffer) -> None:
        """A step that copies a whole buffer."""
        size = dim(buffer.bytes)
        self._plain_step(
            _in_comment(f"write back into {buffer.name}"),
            f"__builtin_memcpy(call->buffers[{target}], call->buffers[{source}], {size});",
            "\n".join(size_declarations(self.symbols, symbols_of(buffer.elements), "call")),
        )

    @contextmanager
    def body(self) -> Iterator[list[int]]:
        """The steps written inside are those of a loop or branch: their numbers, once written."""
        around, self.steps = self.steps, []
        try:
            yield self.steps
        finally:
            self.steps = around

    def loop(
        self, loop: Loop, kernel: Kernel, body: Sequence[int], test: Sequence[int] = ()
    ) -> None:
        """A step that runs the steps ``body`` for each element, or as long as ``test`` says."""
        number = self._next_number()
        dims = [*(w.stride for w in loop.windows), *(c.bytes for c in loop.carried)]
        dims += [] if loop.count is None else [loop.count]
        symbols = {s for d in dims for s in symbols_of(d)}
        holes = {
            "name": _function(number),
            "comment": _comment(kernel),
            "sizes": "\n".join(size_declarations(self.symbols, symbols, "call")),
            "count": "" if loop.count is None else dim(loop.count),
            "reverse": loop.reverse,
            "windows": [(w.buffer, w.base, dim(w.stride)) for w in loop.windows],
            "stacked": [(w.buffer, w.base, dim(w.stride)) for w in loop.stacked],
            "carried": [
                (c.old, c.new, c.start, c.last, c.other, dim(c.bytes)) for c in loop.carried
            ],
            "counter": loop.counter,
            "predicate": loop.predicate,
            "made": loop.made,
            "test": test,
            "steps": body,
        }
        self._add(render("while.c.j2" if test else "loop.c.j2", holes))
        self.steps.append(number)

    def branch(
        self, branch: Branch, kernel: Kernel, first: Sequence[int], second: Sequence[int]
    ) -> None:
        """A step that runs the steps ``first`` or ``second``."""
        number = self._next_number()
        holes = {
            "name": _function(number),
            "comment": _comment(kernel),
            "predicate": branch.predicate,
            "first": first,
            "second": second,
        }
        self._add(render("branch.c.j2", holes))
        self.steps.append(number)

    def _next_number(self) -> int:
        self._count += 1
        return self._count - 1

    def _plain_step(self, comment: str, run: str, sizes: str = "") -> None:
        """A step of one statement."""
        number = self._next_number()
        holes = {
            "name": _function(number),
            "comment": comment,
            "sizes": sizes,
            "pointers": "",
            "uniform": "",
            "parts": [],
            "run": run,
            "after": "",
            "finish": "",
        }
        self._add(render("step.c.j2", holes))
        self.steps.append(number)

    def text(self) -> str:
        """The whole translation unit.

        The steps of a long program are rows of a table, which takes the compiler no time.
        """
        rows: list[str] = []
        places: list[str] = []
        if len(self.steps) > FEW_STEPS:
            used = {n: self._shared[n] for n in self.steps if n in self._shared}
            self._rows = frozenset(n for n, (step, _) in used.items() if len(step.uses) > 1)
            for number in self.steps:
                if number not in self._rows:
                    rows.append(f"{{{number}, {_function(number)}, 0, 0}},")
                    continue
                step, use = used[number]
                _, comment, buffers = step.uses[use]
                title = comment.replace("\n * ", "; ")
                rows.append(f"{{{number}, 0, {step.shared}, {len(places)}}}, /* {title} */")
                places += map(str, buffers)
        holes = {
            "rows": "\n".join(rows),
            "row_count": len(rows),
            "places": ", ".join(places or ["0"]),
            "prelude": render("prelude.c.j2", {}),
            "sizes": "\n".join(size_declarations(self.symbols, symbols_of(self.scratch), "call")),
            "scratch": dim(self.scratch),
            "functions": [function() for function in self.functions],
            "steps": () if rows else self.steps,
        }
        return render("program.c.j2", holes)


def _function(number: int) -> str:
    """The C function of a step, as the macro ``FLAMEC_STEP`` calls it."""
    return f"step_{number}"


def _comment(kernel: Kernel) -> str:
    """What a step does and where in the user's program, as the text of a comment."""
    lines = [f"{kernel.name}: {', '.join(kernel.operations)}", *kernel.locations]
    return "\n * ".join(map(_in_comment, lines))


def _in_comment(line: str) -> str:
    return line.replace("*/", "* /")


def _user_argument(argument: KernelArgument, buffers: tuple[int, ...]) -> str:
    if isinstance(argument, ArrayArgument):
        kind = C_TYPES[memory_type(argument.dtype)]
        return f"({kind} *)call->buffers[{buffers[argument.index]}]"
    if isinstance(argument, bool):
        return str(int(argument))
    if isinstance(argument, float):
        return number("f64", argument)
    return f"(int64_t)({dim(argument)})"


def _shortcut(kernel: Kernel, buffers: Sequence[str]) -> list[str]:
    """A plain copy does nothing where source and target turn out to share memory."""
    if kernel.uniform or kernel.finish or len(kernel.parts) != 1:
        return []
    program, arguments = kernel.parts[0].program, kernel.parts[0].arguments
    statements = list(program.statements())
    if program.contraction or program.after or len(statements) != 2:
        return []
    load, store = statements
    if not (isinstance(load, Load) and isinstance(store, Store) and store.operand == load.name):
        return []
    plain = not (load.place.guards or load.place.indices or store.place.indices)
    if not plain or load.place.at != store.place.at or load.memory != store.memory:
        return []
    source, target = (buffers[arguments[s.place.parameter]] for s in (load, store))
    return [f"if (call->buffers[{source}] == call->buffers[{target}]) return 0;"]


def _pointers(kernel: Kernel, buffers: Sequence[str], scalars: list[str]) -> list[str]:
    used = parameters_in(kernel.uniform) | parameters_in(kernel.finish)
    lines = [
        f"{'' if p.written else 'const '}{C_TYPES[p.memory]} *p{i} = call->buffers[{buffers[i]}];"
        for i, p in enumerate(kernel.parameters)
        if i in used
    ]
    if any("(frame," in line for line in scalars):
        lines.append("const Frame uniform_frame = {call, 0, 0, 0, 0, &error};")
        lines.append("const Frame *frame = &uniform_frame;")
    if kernel.parts:
        arguments = ", ".join(f"call->buffers[{b}]" for b in buffers)
        lines.append(f"void *const arguments[] = {{{arguments}}};")
    return lines


def _part(number: int, part: Part, emitted: EmittedProgram) -> list[str]:
    """The frame of a part, and how many jobs it has."""
    arguments = ", ".join(f"arguments[{a}]" for a in part.arguments)
    lines = [f"void *const p_{number}[] = {{{arguments}}};"]
    fields = ["call", f"p_{number}", "0", "0", "0", "&error"]
    if part.imports:
        values = ", ".join(
            f"{{.{lane} = {name}[0]}}"
            for name, (_, lane) in zip(part.imports, part.program.imports, strict=True)
        )
        lines.append(f"const Scalar u_{number}[] = {{{values}}};")
        fields[2] = f"u_{number}"
    if emitted.folds:
        lines.append(f"Scalar partial_{number}[{2 * CHUNKS * len(emitted.folds)}];")
        fields[3] = f"partial_{number}"
    if part.sizes:
        lines.append(f"const int64_t n_{number}[] = {{{', '.join(map(dim, part.sizes))}}};")
        fields[4] = f"n_{number}"
    lines.append(f"Frame frame_{number} = {{{', '.join(fields)}}};")
    counts = [("jobs", emitted.jobs), ("grain", emitted.grain)]
    counts += [("chunks", emitted.chunks)] if emitted.chunks else []
    counts += [("after", emitted.after_jobs)] if emitted.after else []
    names = ", ".join(f"{name}_{number}" for name, _ in counts)
    own = [f"const int64_t {name} = n_{number}[{i}];" for i, name in enumerate(part.program.sizes)]
    values = " ".join(f"{name}_{number} = {text};" for name, text in counts)
    lines.append(f"int64_t {names};")
    lines.append(" ".join(["{", *own, values, "}"]))
    return lines


def _run(programs: list[EmittedProgram], serial: bool) -> str:
    if not programs:
        return ""
    if len(programs) == 1:
        return _call(programs[0].name, "&frame_0", "jobs_0", "grain_0", serial)
    rows = ", ".join(f"{{{p.name}, frame_{i}, jobs_{i}}}" for i, p in enumerate(programs))
    total = " + ".join(f"jobs_{i}" for i in range(len(programs)))
    lines = [
        f"const Part part[] = {{{rows}}};",
        f"Parts parts = {{part, {len(programs)}}};",
        _call("flamec_parts", "&parts", total, "grain_0", serial),
    ]
    if not serial:
        lines += [f"(void)grain_{i};" for i in range(1, len(programs))]
    return "\n".join(lines)


def _chosen(part: Part, ways: list[tuple[Part, EmittedProgram]], serial: bool) -> str:
    """Runs the version of a part that is for the classes of its sizes."""
    which = "0"
    for symbol in part.symbols:
        size_class = " + ".join(f"({symbol} >= {border})" for border in SIZE_BORDERS)
        which = f"({which}) * {len(SIZE_BORDERS) + 1} + {size_class}"
    numbers = ", ".join(map(str, part.chosen))
    lines = [f"static const uint8_t versions[] = {{{numbers}}};", f"switch (versions[{which}]) {{"]
    for position, (way, emitted) in enumerate(ways):
        body = [*_part(0, way, emitted), _run([emitted], serial), *_after([emitted], serial)]
        lines += [f"case {position}: {{", *(f"    {line}" for line in body), "    break;", "}"]
    return "\n".join([*lines, "}"])


def _after(programs: list[EmittedProgram], serial: bool) -> list[str]:
    return [
        _call(p.after, f"&frame_{i}", f"after_{i}", "4", serial)
        for i, p in enumerate(programs)
        if p.after
    ]


def _call(function: str, context: str, jobs: str, grain: str, serial: bool) -> str:
    if serial:
        return f"{function}((void *){context}, 0, {jobs}, 0);"
    return f"call->runtime->parallel_for({function}, (void *){context}, {jobs}, {grain});"


def _joined(number: int, part: Part, emitted: EmittedProgram) -> list[str]:
    """Join the partial results of the folds over everything."""
    lines = []
    count = len(emitted.folds)
    for position, (fold, name) in enumerate(zip(emitted.folds, part.results, strict=True)):
        slot = f"partial_{number}[(i * {count} + {position}) * 2"
        sums, lost = (f"vsplat_{fold.lane}({slot}{n}].{fold.lane})" for n in ("", " + 1"))
        lines += accumulator(fold, name, exact=True)
        lines.append(f"for (int64_t i = 0; i < chunks_{number}; i++) {{")
        lines += [f"    {line}" for line in join(fold, name, sums, lost)]
        lines.append("}")
        if is_compensated(fold):
            lines.append(f"{name} = {settled(fold, name)};")
    return lines
