"""Write one kernel: what is computed once, its parts, and what follows.

In: a ``GpuKernel`` and the numbers of its buffers. Out: launches with their arguments. Values
computed once are computed by every block again where that only reads memory that the kernel
does not write; else by a launch of their own that leaves them in memory.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from flamec.codegen.lower.lanes import MEMORY_DTYPES, spill_type
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.fold_text import finished, fold_name
from flamec.codegen.triton.gpu_form import GpuKernel
from flamec.codegen.triton.index_width import is_wide
from flamec.codegen.triton.last_block import finished_by_last
from flamec.codegen.triton.part_key import actual, own_sizes
from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.codegen.triton.product_writer import write_product
from flamec.codegen.triton.program_writer import RowsWriter, Uniform
from flamec.codegen.triton.side_by_side import PlannedLaunch, can_share_blocks, together
from flamec.codegen.triton.source import COUNTERS, ERRORS, Described, EmittedLaunch, emit
from flamec.codegen.triton.statements import StatementWriter
from flamec.codegen.triton.table_writer import TableWriter
from flamec.codegen.triton.text import POINTERS, fold_lane, size_name
from flamec.codegen.triton.tiling import Tile
from flamec.codegen.triton.uniform_parts import Statements, uniform_parts
from flamec.ir.kernel import (
    Call,
    Fold,
    Kernel,
    Load,
    Part,
    Place,
    RandomBits,
    RowProgram,
    Store,
    lane_of,
    name_of,
    operands_of,
)
from flamec.ir.plan import Argument, Buffer
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    is_multiple,
    product,
    structurally_equal,
    substitute,
)

NewBuffer = Callable[[Buffer], int]
_WORD = re.compile(r"\b\w+\b")
_STORE = re.compile(r"tl\.store\((\w+)")


@dataclass
class KernelWriter:
    """Writes one kernel. ``numbers``: the plan's buffer of each of its parameters; ``errors``
    gives the buffer that errors are written to, ``counters`` one of so many zeros."""

    gpu: GpuKernel
    numbers: tuple[int, ...]
    new_buffer: NewBuffer
    options: CodegenOptions
    errors: Callable[[], int]
    counters: Callable[[Dim], int]
    temporaries: list[int] = field(default_factory=list)
    launches: list[PlannedLaunch] = field(default_factory=list)
    _spilled: dict[str, tuple[str, int]] = field(default_factory=dict)  # name -> lane, buffer
    _early: set[int] = field(default_factory=set)

    @property
    def kernel(self) -> Kernel:
        return self.gpu.lowered.kernel

    def write(self) -> None:
        """All launches, in order."""
        self._name = _function_name(self.kernel)
        self._doc = ", ".join(self.kernel.operations[:12])
        if self._must_spill():
            self._before()
        partials: list[tuple[str, Fold, int, int]] = []
        wide_before = False
        for position, part in enumerate(self.kernel.parts):
            tile = self.gpu.tiles[position]
            own, wide = own_sizes(part), is_wide(part, self.options.narrow)
            uniform, arguments = self._imports(part)
            arguments |= {f"p{i}": self.numbers[a] for i, a in enumerate(part.arguments)}
            strict, names = self.options.strict, (self._name, self._doc)
            if isinstance(tile, ProductSchedule):
                sizes = {size_name(n): size for n, size in own.items()}
                contraction = actual(part).contraction
                assert contraction is not None
                precision = self.options.precision_of(contraction)
                most = self.options.most(contraction.depth)
                form = wide, strict, most is not None and most <= tile.depth
                launches = [
                    write_product(part.program, tile, precision, *names, uniform, sizes, *form)
                ]
            elif part.program.kind == "tables":
                form = self._name, self._doc, uniform, own, wide, strict
                launches = [TableWriter(part.program, tile, *form).emit()]
            else:
                form = strict, self._is_bounded(part), self._ends_apart(part)
                rows = RowsWriter(part.program, tile, *names, uniform, own, wide, *form)
                launches = rows.emit()
                if rows.ends_early:
                    self._early |= {n for n, _ in self._stored_after(part)}
                for i, (fold, result) in enumerate(zip(rows.folds, part.results, strict=True)):
                    number = self._temporary("partial", fold_lane(fold.lane), tile.chunks)
                    arguments[f"q{i}"] = number
                    partials.append((result, fold, number, tile.chunks))
            if len(self.kernel.parts) == len(launches) == 1 and partials and not part.program.after:
                self._finish_in(launches[0], arguments, own, wide, part, partials)
                break
            traffic = self._traffic(part, arguments)
            if position in self.gpu.joins and self._follows_blocks(position):
                before, (own_last,) = self.launches.pop(), launches
                pieces = self.kernel.parts[position - 1].program.rows[0].size
                ends = before.launch, own_last, own_last.blocks, pieces
                launches = [finished_by_last(*ends, own, wide or wide_before, self._doc)]
                traffic = before.reads | traffic[0], before.writes | traffic[1]
            shares = part.program.kind != "tables" and can_share_blocks(launches[0])
            alone = len(launches) > 1 or not shares
            free = (
                shares
                and part.program.contraction is None
                and not any(isinstance(s, Fold | Call) for s in part.program.statements())
            )
            last = self._overwrites(position)
            for launch in launches:
                self._add(launch, arguments, own, traffic, alone, True, free, last)
            wide_before = wide
        else:
            if partials or self.kernel.finish:
                self._finish(partials)
        last = [launch for launch in self.launches if launch.last]
        launches = [launch for launch in self.launches if not launch.last] + last
        self.launches = together(launches, self._name, self._doc, self.counters)

    def _overwrites(self, position: int) -> bool:
        """Whether a part writes to what other parts read, the old value of an input: it comes last
        (``buffers.assign_buffers``)."""
        users = self.gpu.lowered.users
        parameters = enumerate(self.kernel.parameters)
        written = {i for i, p in parameters if p.written and position in users.get(i, ())}
        taken = {self.numbers[i] for i in written}
        return any(
            number in taken and i not in written and set(users.get(i, ())) - {position}
            for i, number in enumerate(self.numbers)
        )

    def _follows_blocks(self, position: int) -> bool:
        """Whether each block of a part needs what some blocks of the part before leave, which are
        as far apart as there are blocks: of pieces of the same rows."""
        tiles = [self.gpu.tiles[n] for n in (position - 1, position)]
        if any(t.split or t.chunks or t.blocks for t in tiles if isinstance(t, Tile)):
            return False
        part, (before, after) = self.kernel.parts[position], tiles
        rows = product(loop.size for loop in part.program.rows)
        whole = is_multiple(substitute(rows, own_sizes(part)), after.rows)
        return before.rows == after.rows and (whole or after.rows == 1)

    def _traffic(
        self, part: Part, arguments: dict[str, int]
    ) -> tuple[frozenset[int], frozenset[int]]:
        """The buffers that a part reads and those that it writes."""
        program = part.program
        written = {f"p{i}" for i, parameter in enumerate(program.parameters) if parameter.written}
        written |= {name for name in arguments if name.startswith("q")}
        only_written = written - {f"p{i}" for i in _read_parameters(program)}
        writes = frozenset(n for name, n in arguments.items() if name in written)
        reads = frozenset(n for name, n in arguments.items() if name not in only_written)
        return reads, writes

    def _stored_after(self, part: Part) -> list[tuple[int, Place]]:
        """What is stored when all rows are done: buffers and places."""
        stores = [s for s in part.program.after if isinstance(s, Store)]
        return [(self.numbers[part.arguments[s.place.parameter]], s.place) for s in stores]

    def _is_bounded(self, part: Part) -> bool:
        """Whether it is known how long a row of the part may be."""
        return self.options.most(product(loop.size for loop in actual(part).inner)) is not None

    def _ends_apart(self, part: Part) -> bool:
        """Whether what is stored when all rows are done is read at the same column, if at all."""
        stored = self._stored_after(part)
        written = {number for number, _ in stored}
        if written & self.loaded_once():
            return False
        for s in part.program.statements():
            if not isinstance(s, Load) or s.place.parameter < 0:
                continue
            number = self.numbers[part.arguments[s.place.parameter]]
            for other, place in stored:
                if number == other and not _is_same_column(s.place, place):
                    return False
        return True

    def stored_early(self) -> set[int]:
        """Buffers that are written while other blocks may read: they may take no input's place."""
        return self._early

    def loaded_once(self) -> set[int]:
        """Buffers that are read outside of the rows."""
        return self._loaded_once

    @cached_property
    def _loaded_once(self) -> set[int]:
        return {self.numbers[s.place.parameter] for s in self.kernel.uniform if isinstance(s, Load)}

    # uniform values ------------------------------------------------------------------
    def _must_spill(self) -> bool:
        written = {
            n for n, p in zip(self.numbers, self.kernel.parameters, strict=True) if p.written
        }
        stores = any(isinstance(s, Store) for s in self.kernel.uniform)
        return stores or bool(self.loaded_once() & written)

    def _before(self) -> None:
        exports = self._exports()
        for name, lane in exports.items():
            number = self._temporary("once", spill_type(lane), 1)
            self._spilled[name] = (lane, number)
        buffers = dict(zip(self._pointers, self.numbers, strict=True))
        for part in uniform_parts(self._uniform, exports, self.numbers):
            writer = StatementWriter(pointer="k", reuse=True)
            body: list[str] = []
            for s in part.statements:
                body += writer.write(s)
            pointers: ChainMap[str, str] = ChainMap({}, self._pointers)
            arguments: ChainMap[str, int] = ChainMap({}, buffers)
            for position, name in enumerate(part.gives):
                lane, number = self._spilled[name]
                pointer = f"x{position}"
                pointers[pointer] = POINTERS[spill_type(lane)]
                arguments[pointer] = number
                body.append(f"tl.store({pointer} + zero, {_widened(writer.name(name), lane)})")
            names = dict.fromkeys(name_of(s) for s in part.statements if name_of(s))
            plain = {name: f"w{position}" for position, name in enumerate(names)}
            body = [_renamed(line, plain) for line in body]
            launch, _, traffic = self._once(
                "once", "what all blocks share", body, pointers, arguments
            )
            self._add(launch, arguments, {}, traffic, alone=False)

    def _exports(self) -> dict[str, str]:
        """Uniform values that parts or the end need, with their lanes."""
        defined = {name_of(s): lane_of(s) for s in self.kernel.uniform if not isinstance(s, Store)}
        needed: dict[str, str] = {}
        for part in self.kernel.parts:
            for name, (_, lane) in zip(part.imports, part.program.imports, strict=True):
                needed[name] = lane
        for s in self.kernel.finish:
            needed |= {n: defined[n] for n in operands_of(s) if n in defined}
        return needed

    def _imports(self, part: Part) -> tuple[Uniform, dict[str, int]]:
        """The lines that give a part its uniform values, and what the pointers in them are."""
        local = [name for name, _ in part.program.imports]
        if self._spilled:  # so that equal parts have equal text
            return self._loaded(dict(zip(part.imports, local, strict=True)))
        uniform, arguments = self._values(part.imports)
        for name, own in zip(part.imports, local, strict=True):
            uniform.lines.append(f"{own} = {self._aliases.get(name, name)}")
        return uniform, arguments

    def _loaded(self, names: Mapping[str, str], first: int = 0) -> tuple[Uniform, dict[str, int]]:
        """Lines that load values computed once, and what they are called.

        ``first``: the number of the first pointer, behind those of others in the launch.
        """
        uniform = Uniform()
        arguments: dict[str, int] = {}
        for position, (name, called) in enumerate(names.items(), first):
            lane, number = self._spilled[name]
            pointer = f"x{position}"
            uniform.pointers[pointer] = POINTERS[spill_type(lane)]
            arguments[pointer] = number
            test = " != 0" if lane == "b" else ""
            uniform.lines.append(f"{called} = tl.load({pointer} + zero){test}")
        return uniform, arguments

    def _values(self, names: Iterable[str], first: int = 0) -> tuple[Uniform, dict[str, int]]:
        """Lines that define uniform values by their names in the kernel."""
        self._aliases: dict[str, str] = {}
        if self._spilled:
            return self._loaded({name: name for name in names}, first)
        uniform = Uniform()
        arguments: dict[str, int] = {}
        writer = StatementWriter(pointer="k", reuse=True)
        for s in self._uniform.slice_of(names):
            uniform.lines += writer.write(s)
        self._aliases = writer.aliases
        for number in writer.parameters:
            uniform.pointers[f"k{number}"] = self._pointers[f"k{number}"]
            arguments[f"k{number}"] = self.numbers[number]
        return uniform, arguments

    @cached_property
    def _uniform(self) -> Statements:
        return Statements(self.kernel.uniform)

    @cached_property
    def _pointers(self) -> dict[str, str]:
        """The types of pointers to the kernel's parameters."""
        return {f"k{i}": POINTERS[p.memory] for i, p in enumerate(self.kernel.parameters)}

    # the end -------------------------------------------------------------------------
    def _finish(self, partials: list[tuple[str, Fold, int, int]]) -> None:
        """Join partial results and compute what follows from them, in a launch."""
        launch, arguments, traffic = self._end(partials)
        self._add(launch, arguments, {}, traffic)

    def _finish_in(
        self,
        launch: EmittedLaunch,
        arguments: dict[str, int],
        own: dict[str, Dim],
        wide: bool,
        part: Part,
        partials: list[tuple[str, Fold, int, int]],
    ) -> None:
        """The same in the launch of the only part, by the block that comes last."""
        loaded = sum(name.startswith("x") for name in arguments)
        end, more, (reads, writes) = self._end(partials, loaded)
        assert all(arguments.get(name, number) == number for name, number in more.items())
        ((_, _, _, blocks), *_) = partials
        both = finished_by_last(launch, end, 1, blocks, own, wide, self._doc)
        mine = self._traffic(part, arguments)
        traffic = reads | mine[0], writes | mine[1]
        self._add(both, {**more, **arguments}, own, traffic)

    def _end(
        self, partials: list[tuple[str, Fold, int, int]], first: int = 0
    ) -> tuple[EmittedLaunch, Mapping[str, int], tuple[frozenset[int], frozenset[int]]]:
        """The launch that joins partial results, its arguments, and what it reads and writes."""
        needed = {n for s in self.kernel.finish for n in operands_of(s)}
        defined = {name_of(s) for s in self.kernel.uniform if not isinstance(s, Store)}
        uniform, arguments = self._values([n for n in sorted(needed) if n in defined], first)
        pointers = {**uniform.pointers, **self._pointers}
        arguments = {**dict(zip(self._pointers, self.numbers, strict=True)), **arguments}
        writer = StatementWriter(pointer="k", aliases=dict(self._aliases))
        body = list(uniform.lines)
        for i, (name, fold, number, count) in enumerate(partials):
            pointers[f"q{i}"], arguments[f"q{i}"] = POINTERS[fold_lane(fold.lane)], number
            block = f"tl.load(q{i} + tl.arange(0, {count})[None, :])"
            reduced = f"tl.reduce({block}, 1, {fold_name(fold)}, keep_dims=True)"
            body.append(f"{name} = {finished(fold, reduced)}")
        stores = False
        for s in self.kernel.finish:
            if isinstance(s, Store) and not stores:
                stores = True
                body.append("tl.debug_barrier()")
            body += writer.write(s)
        return self._once("end", "when all rows are done", body, pointers, arguments)

    def _once(
        self,
        suffix: str,
        doc: str,
        body: list[str],
        pointers: Mapping[str, str],
        arguments: Mapping[str, int],
    ) -> tuple[EmittedLaunch, Mapping[str, int], tuple[frozenset[int], frozenset[int]]]:
        holes: dict[str, object] = {
            "name": f"{self._name}_{suffix}",
            "doc": f"{self._doc}; {doc}",
            "body": "\n".join(body),
        }
        launch = emit("once.py.j2", holes, pointers, 1, 4)
        numbers = frozenset(arguments[n] for n in launch.arguments if n in arguments)
        return launch, arguments, (numbers, self._stored(body, arguments))

    def _stored(self, body: Iterable[str], arguments: Mapping[str, int]) -> frozenset[int]:
        """The buffers that lines of text store to."""
        found = {match[1] for line in body for match in _STORE.finditer(line)}
        return frozenset(arguments[name] for name in found)

    # arguments -----------------------------------------------------------------------
    def _temporary(self, name: str, memory: str, elements: int) -> int:
        number = self.new_buffer(Buffer(name, "temporary", MEMORY_DTYPES[memory], elements))
        self.temporaries.append(number)
        return number

    def _add(
        self,
        launch: EmittedLaunch,
        buffers: Mapping[str, int],
        own: dict[str, Dim],
        traffic: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset()),
        alone: bool = True,
        part: bool = False,
        any_warps: bool = False,
        last: bool = False,
    ) -> None:
        arguments = tuple(
            _described(launch.described[name], buffers)
            if name in launch.described
            else self._argument(name, buffers, own, launch.counters)
            for name in launch.arguments
        )
        how = alone, part, any_warps, last
        self.launches.append(PlannedLaunch(launch, arguments, *traffic, *how))

    def _argument(
        self, name: str, buffers: Mapping[str, int], own: dict[str, Dim], counters: Dim
    ) -> Argument:
        if name == ERRORS:
            return Argument(buffer=self.errors())
        if name == COUNTERS:
            return Argument(buffer=self.counters(counters))
        if name in buffers:
            return Argument(buffer=buffers[name])
        symbol = name.removeprefix(size_name(""))
        return Argument(value=own.get(symbol, SymbolicDim.symbol(symbol)))


def _described(array: Described, buffers: Mapping[str, int]) -> Argument:
    return Argument(buffers[array.pointer], array.offset, array.shape, array.strides)


def _is_same_column(read: Place, written: Place) -> bool:
    """Whether rows read only the element of their column that is stored when they are done."""
    plain = not (read.indices or read.guards or written.indices or written.guards)
    rows = all(structurally_equal(stride, 0) for stride in read.at.rows)
    same = structurally_equal(read.at.offset, written.at.offset)
    inner = zip(read.at.inner, written.at.inner, strict=True)
    return plain and rows and same and all(structurally_equal(a, b) for a, b in inner)


def _read_parameters(program: RowProgram) -> set[int]:
    """Parameters of which a program may read something; partial results are none of them."""
    c = program.contraction
    operands = () if c is None else (c.left, c.right)
    found = {operand.parameter for operand in operands}
    loaded = [s for operand in operands if operand.prologue for s in operand.prologue.loads()]
    for s in (*program.statements(), *program.after, *loaded):
        if isinstance(s, Load) or (isinstance(s, Store) and s.combine):
            found.add(s.place.parameter)
        elif isinstance(s, RandomBits):
            found.add(s.state.parameter)
    return found


def _renamed(line: str, names: dict[str, str]) -> str:
    return _WORD.sub(lambda word: names.get(word[0], word[0]), line)


def _widened(name: str, lane: str) -> str:
    return f"{name}.to(tl.int32)" if lane == "b" else name


def _function_name(kernel: Kernel) -> str:
    """What profilers show: the kind and the first operations."""
    names = [n for n in kernel.operations if n.isidentifier() and n not in ("reshape", "copy")]
    return "_".join(["flamec", kernel.kind, *dict.fromkeys(names[:4])])
