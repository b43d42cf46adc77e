"""Write one row program as Triton kernels.

In: a program, its tile and the text of the uniform values it imports. Out: launches: the rows,
and what follows a fold over rows. Folds over everything leave partial results ``q0`` … for the
kernel that finishes (``kernel_writer``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from flamec.codegen.triton.fold_text import finished, fold_name, masked, reduced, start
from flamec.codegen.triton.last_block import finished_by_last
from flamec.codegen.triton.ownership import owner_lines, scattered_index
from flamec.codegen.triton.rounded_values import rounding_of
from flamec.codegen.triton.source import EmittedLaunch, emit
from flamec.codegen.triton.statements import StatementWriter
from flamec.codegen.triton.text import (
    POINTERS,
    TYPES,
    dim,
    factor,
    fold_lane,
    size_name,
)
from flamec.codegen.triton.thread_elements import has_single_elements, random_run
from flamec.codegen.triton.tiling import Tile
from flamec.ir.kernel import (
    Fold,
    Load,
    Loop,
    Pass,
    Position,
    RowProgram,
    Statement,
    Store,
    name_of,
)
from flamec.ir.shape import Dim, is_multiple, product, substitute


@dataclass
class Uniform:
    """Lines that define values computed once, and the types of the pointers they read."""

    lines: list[str] = field(default_factory=list)
    pointers: dict[str, str] = field(default_factory=dict)


@dataclass
class RowsWriter:
    """Writes a program without a matrix product. ``own``: values of its own sizes.

    ``strict``: see ``CodegenOptions``. ``bounded``: the tile is for the longest row there may be.
    ``ends_apart``: what follows a fold over rows of some columns writes nothing that is read of
    other columns.
    """

    program: RowProgram
    tile: Tile
    name: str
    doc: str
    uniform: Uniform
    own: dict[str, Dim]
    wide: bool
    strict: bool = False
    bounded: bool = False
    ends_apart: bool = False

    def __post_init__(self) -> None:
        program = self.program
        self.has_rows = bool(program.rows)
        self.rows = product(loop.size for loop in program.rows)
        self.columns = product(loop.size for loop in program.inner)
        self.folds = [*program.folds("all", "rows")]
        self.column_folds = program.folds("column")
        self.row_loop = bool(self.tile.chunks or self.tile.blocks) and self.has_rows
        self._before_loop: list[str] = []
        self.full = "rc" if self.has_rows else "c"
        self.writer = StatementWriter(
            tuple(loop.name for loop in program.rows),
            tuple(loop.name for loop in program.inner),
            reuse=not self.tile.looped,
            run=random_run(program, self.tile),
            atomic=self.tile.atomic,
            rounding=rounding_of(program, self.strict),
            written={i for i, p in enumerate(program.parameters) if p.written},
        )

    # launches ------------------------------------------------------------------------
    def emit(self) -> list[EmittedLaunch]:
        main = self._main()
        if not self.program.after or self._finishes_here:
            return [main]
        after = self._after()
        if not self._last_block_finishes:
            return [main, after]
        groups = ceil_div(self.columns, self.tile.columns)
        return [
            finished_by_last(main, after, groups, self.tile.chunks, self.own, self.wide, self.doc)
        ]

    @property
    def ends_early(self) -> bool:
        """Whether results of some columns are stored while others are still read."""
        return bool(self.program.after) and (self._finishes_here or self._last_block_finishes)

    @property
    def _last_block_finishes(self) -> bool:
        """Whether the last of the blocks that share some columns joins what they leave."""
        tile = self.tile
        few = tile.chunks * tile.columns <= _JOINED_ELEMENTS * 32 * tile.warps
        return self.ends_apart and tile.split and not tile.looped and tile.chunks > 1 and few

    @property
    def _finishes_here(self) -> bool:
        """Whether one block has all rows of its columns, and can do what follows them."""
        return self.tile.chunks == 1 and not self.tile.looped

    @property
    def index(self) -> str:
        return "tl.int64" if self.wide else "tl.int32"

    def _pointers(self) -> dict[str, str]:
        found = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(self.program.parameters)}
        found |= {f"q{i}": POINTERS[fold_lane(f.lane)] for i, f in enumerate(self.folds)}
        return found | self.uniform.pointers

    def _emit(
        self, template: str, holes: dict[str, object], blocks: Dim, warps: int
    ) -> EmittedLaunch:
        sizes = {size_name(name): value for name, value in self.own.items()}
        return emit(template, holes, self._pointers(), blocks, warps, sizes, wide=self.wide)

    def _main(self) -> EmittedLaunch:
        tile, flat_chunks = self.tile, bool(self.tile.chunks) and not self.has_rows
        first, step = "0", str(tile.columns)
        if tile.split:
            first = "first_block"
        elif flat_chunks:
            first, step = f"block * {tile.columns}", str(tile.columns * tile.chunks)
        end, tail = self._whole_blocks(flat_chunks)
        holes: dict[str, object] = {
            "name": self.name,
            "doc": self.doc,
            "tile": tile,
            "tail": tail,
            "full_columns": bool(tail) or self._fits_columns(),
            "all_columns": f"tl.full((1, {tile.columns}), 1, tl.int1)",
            "row_mask": self._row_mask(),
            "index": self.index,
            "has_rows": self.has_rows,
            "row_loop": self.row_loop,
            "row_range": self._row_range(),
            "column_range": self._range(first, end, step, tile.looped),
            "looped": tile.looped,
            "first_column": first,
            "row_count": dim(self.rows),
            "col_count": dim(self.columns),
            "row_indices": decomposed(self.program.rows, "row"),
            "inner_indices": decomposed(self.program.inner, "col"),
            "uniform": "\n".join(self.uniform.lines),
            "chunk_begin": "\n".join(self._chunk_begin()),
            "passes": [self._pass(block) for block in self.program.passes],
            "owner_lines": self._owner_lines(),
            "run": self.writer.run,
            "single_elements": has_single_elements(self.program, tile),
            "before_loop": "\n".join(self._before_loop),
            "chunk_end": "\n".join(self._chunk_end()),
            "barrier": "tl.debug_barrier()" if self._in_order() else "",
        }
        return self._emit("rows.py.j2", holes, self._blocks(), tile.warps)

    def _fits(self, size: Dim, block: int) -> bool:
        """Whether blocks divide a size, so that no element of a block needs a mask."""
        return is_multiple(substitute(size, self.own), block)

    def _fits_columns(self) -> bool:
        if self.tile.whole:  # there is a block even for no columns
            return substitute(self.columns, self.own) == self.tile.columns
        return self._fits(self.columns, self.tile.columns)

    def _row_mask(self) -> str:
        rows = self.tile.rows
        if rows == 1 or self._fits(self.rows, rows):
            return f"tl.full(({rows}, 1), 1, tl.int1)"
        return f"row < {dim(self.rows)}"

    def _whole_blocks(self, flat_chunks: bool) -> tuple[str, str]:
        """Where a loop over columns ends that has whole blocks only, and where the rest begins
        ("": there is none, or the loop has it)."""
        count = substitute(self.columns, self.own)
        whole = count // self.tile.columns * self.tile.columns if isinstance(count, int) else 0
        if not self.tile.looped or flat_chunks or not whole or whole == count:
            return dim(self.columns), ""
        return str(whole), str(whole)

    def _range(self, first: str, end: str, step: str, innermost: bool) -> str:
        """A loop whose loads run ahead, if it is the innermost one."""
        stages = self.tile.stages
        if not innermost or stages == 1:
            return f"range({first}, {end}, {step})"
        return f"tl.range({first}, {end}, {step}, num_stages={stages})"

    def _row_range(self) -> str:
        tile = self.tile
        first = "block // col_blocks" if tile.split else "block"
        end = f"tl.cdiv({dim(self.rows)}, {tile.rows})"
        every = "tl.num_programs(0) // col_blocks" if tile.split else "tl.num_programs(0)"
        step = str(tile.chunks) if tile.chunks else every
        return self._range(first, end, step, not tile.looped)

    def _owner_lines(self) -> str:
        if not self.tile.owners:
            return ""
        index = scattered_index(self.program)
        lines = [decomposed(self.program.rows, "row").replace("row", "scan_row")]
        for loop in self.program.rows:
            lines = [re.sub(rf"\b{loop.name}\b", f"scan_{loop.name}", line) for line in lines]
        return "\n".join([*lines, *owner_lines(self.program, index, "scan_")])

    def _in_order(self) -> bool:
        """Whether one row may read what the row before it stored."""
        in_memory = bool(self.column_folds) and self.tile.looped
        return in_memory or (self.program.kind == "scatter" and not self.tile.atomic)

    def _blocks(self) -> Dim:
        tile = self.tile
        rows, columns = substitute(self.rows, self.own), substitute(self.columns, self.own)
        row_blocks = tile.owners or tile.chunks or ceil_div(rows, tile.rows)
        if tile.blocks and isinstance(row_blocks, int):
            row_blocks = min(row_blocks, tile.blocks)
        return row_blocks * ceil_div(columns, tile.columns) if tile.split else row_blocks

    # passes --------------------------------------------------------------------------
    def _pass(self, block: Pass) -> dict[str, str]:
        before: list[str] = []
        behind: list[str] = []
        return {
            "row": "\n".join(self._row(block)),
            "element": "\n".join(self._elements(block, before, behind)),
            "before": "\n".join(before),
            "behind": "\n".join(behind),
        }

    def _row(self, block: Pass) -> list[str]:
        lines, stores = [], False
        for s in block.row:
            if isinstance(s, Fold):
                operand = masked(self.writer, s, "row_mask" if self.has_rows else "")
                lines.append(f"all_{s.name} = {fold_name(s)}(all_{s.name}, {operand})")
                continue
            if isinstance(s, Store) and not stores:  # every thread has read what it needs
                stores = True
                lines.append("tl.debug_barrier()")
            lines += self.writer.write(s, "r" if self.has_rows else "")
        picks = any(isinstance(s, Load) and s.place.indices for s in block.row)
        if picks and any(isinstance(s, Store) for s in block.element):
            lines.append("tl.debug_barrier()")  # the row may be stored where it was
        return lines

    def _elements(self, block: Pass, before: list[str], behind: list[str]) -> list[str]:
        lines: list[str] = []
        for s in block.element:
            if not isinstance(s, Fold):
                written = self.writer.write(s, self.full)
                (self._before_loop if self._is_same_in_all_rows(s) else lines).extend(written)
            elif s.scope == "scan":
                lines += self._scan(s, before)
            elif s.scope == "row":
                lines += self._row_fold(s, before, behind)
            elif s.scope == "column" and self.tile.looped:
                lines += self._column_in_memory(s)
            else:
                name = f"all_{s.name}"
                lines.append(f"{name} = {fold_name(s)}({name}, {masked(self.writer, s)})")
        return lines

    def _is_same_in_all_rows(self, s: Statement) -> bool:
        """Whether a loop over rows need not load this again."""
        if not (isinstance(s, Load) and self.row_loop) or self.tile.looped:
            return False
        written = self.program.parameters[s.place.parameter].written
        if written or s.place.indices or s.place.guards or s.name not in self.writer.varying:
            return False
        return self.writer.varying[s.name] == "c"

    def _shape(self, columns: bool = True) -> str:
        rows = self.tile.rows if self.has_rows else 1
        return f"({rows}, {self.tile.columns if columns else 1})"

    def _row_fold(self, s: Fold, before: list[str], behind: list[str]) -> list[str]:
        self.writer.varying[s.name] = "r" if self.has_rows else ""
        operand = masked(self.writer, s)
        if not s.position:
            if not self.tile.looped:
                return [f"{s.name} = {finished(s, reduced(s, operand, 1))}"]
            accumulator = f"acc_{s.name}"
            before.append(f"{accumulator} = {start(s, self._shape())}")
            if self._is_exact(s):
                return self._exact_fold(s, accumulator, operand, before, behind)
            behind.append(f"{s.name} = {finished(s, reduced(s, accumulator, 1))}")
            return [f"{accumulator} = {fold_name(s)}({accumulator}, {operand})"]
        (best,) = s.names or (f"{s.name}_value",)
        self.writer.varying[best] = self.writer.varying[s.name]
        kind = "i32" if self._is_narrow(s.position) else "i64"
        last = _LAST[kind]
        at = f"tl.where(mask, {self.writer.name(s.position)}.to({TYPES[kind]}), {last})"
        wide = [f"{s.name} = {s.name}.to(tl.int64)"] if kind == "i32" else []
        if not self.tile.looped:
            pair = f"tl.reduce(({operand}, {at}), 1, {fold_name(s)}, keep_dims=True)"
            return [f"{best}, {s.name} = {pair}", *wide]
        value, place = f"acc_{s.name}", f"acc_{s.name}_at"
        before.append(f"{value} = {start(s, self._shape())}")
        before.append(f"{place} = tl.full({self._shape()}, {last}, {TYPES[kind]})")
        pair = f"tl.reduce(({value}, {place}), 1, {fold_name(s)}, keep_dims=True)"
        behind += [f"{best}, {s.name} = {pair}", *wide]
        return [f"{value}, {place} = {fold_name(s)}({value}, {place}, {operand}, {at})"]

    def _is_narrow(self, position: str) -> bool:
        """Whether positions fit in 32 bits: they are counted so, or lie in memory so."""
        defined = next(d for d in self.program.statements() if name_of(d) == position)
        if isinstance(defined, Load):
            return defined.memory == "i32"
        return isinstance(defined, Position) and not self.wide

    def _is_exact(self, s: Fold) -> bool:
        """Whether a sum carries along what rounding loses: a row of unknown size may be long for
        the few columns that a block has."""
        known = self.bounded or isinstance(substitute(self.columns, self.own), int)
        return s.op == "sum" and s.lane in ("f32", "f64") and not known

    def _exact_fold(
        self, s: Fold, accumulator: str, operand: str, before: list[str], behind: list[str]
    ) -> list[str]:
        """Knuth's TwoSum (The Art of Computer Programming 2, section 4.2.2, theorem B)."""
        term, total, lost = f"in_{s.name}", f"next_{s.name}", f"lost_{s.name}"
        before.append(f"{lost} = {start(s, self._shape())}")
        behind += [  # infinities lose what is no number
            f"{accumulator} += tl.where({lost} == {lost}, {lost}, 0.0)",
            f"{s.name} = {finished(s, reduced(s, accumulator, 1))}",
        ]
        return [
            f"{term} = {operand}",
            f"{total} = {accumulator} + {term}",
            f"added_{s.name} = {total} - {accumulator}",
            f"{lost} += ({accumulator} - ({total} - added_{s.name})) + ({term} - added_{s.name})",
            f"{accumulator} = {total}",
        ]

    def _scan(self, s: Fold, before: list[str]) -> list[str]:
        for name in (s.name, *s.names):
            self.writer.varying[name] = self.full
        function, operand = fold_name(s), masked(self.writer, s)
        carry, given = f"carry_{s.name}", f"in_{s.name}"
        if s.factor:
            return self._recurrence(s, operand, before)
        if not s.names:
            lines = [f"{given} = {operand}"]
            text = f"tl.associative_scan({given}, 1, {function})"
            if not self.tile.looped:
                return [*lines, f"{s.name} = {text}"]
            before.append(f"{carry} = {start(s, self._shape(columns=False))}")
            lines.append(f"{s.name} = {function}({carry}, {text})")
            lines.append(f"{carry} = {function}({carry}, {reduced(s, given, 1)})")
            return lines
        at = f"(zero + {self.writer.name(s.position)} + {self._no()}).to(tl.int64)"
        lines = [f"{given} = {operand}", f"{given}_at = {at}"]
        text = f"tl.associative_scan(({given}, {given}_at), 1, {function})"
        if not self.tile.looped:
            return [*lines, f"{s.name}, {s.names[0]} = {text}"]
        before.append(f"{carry} = {start(s, self._shape(columns=False))}")
        before.append(f"{carry}_at = tl.zeros({self._shape(columns=False)}, tl.int64)")
        ends = f"tl.reduce(({given}, {given}_at), 1, {function}, keep_dims=True)"
        return [
            *lines,
            f"{s.name}, {s.names[0]} = {text}",
            f"{s.name}, {s.names[0]} = {function}({carry}, {carry}_at, {s.name}, {s.names[0]})",
            f"{given}_end, {given}_end_at = {ends}",
            f"{carry}, {carry}_at = {function}({carry}, {carry}_at, {given}_end, {given}_end_at)",
        ]

    def _recurrence(self, s: Fold, operand: str, before: list[str]) -> list[str]:
        """A scan of the maps h -> f * h + b, which compose associatively."""
        function, carry, given = fold_name(s), f"carry_{s.name}", f"in_{s.name}"
        by, all_by = f"{given}_by", f"{s.name}_by"
        lines = [
            f"{given} = tl.broadcast_to({operand}, {self._shape()})",
            f"{by} = tl.broadcast_to({self.writer.name(s.factor)}, {self._shape()})",
            f"{s.name}, {all_by} = tl.associative_scan(({given}, {by}), 1, {function})",
        ]
        if not self.tile.looped:
            return lines
        before.append(f"{carry} = {start(s, self._shape(columns=False))}")
        last = f"tl.arange(0, {self.tile.columns})[None, :] == {self.tile.columns - 1}"
        return [
            *lines,
            f"{s.name} += {all_by} * {carry}",
            f"{carry} = tl.sum(tl.where({last}, {s.name}, 0), 1, keep_dims=True)",
        ]

    def _no(self) -> str:
        return "no_row + no_col" if self.has_rows else "no_col"

    # folds over rows -----------------------------------------------------------------
    def _chunk_begin(self) -> list[str]:
        lines, width = [], f"(1, {self.tile.columns})"
        for s in self.folds:
            lines.append(f"all_{s.name} = {start(s, self._shape(s.scope == 'all'))}")
        for s in self.column_folds:
            if not self.tile.looped:
                lines.append(f"all_{s.name} = {start(s, self._shape())}")
                continue
            lines += [
                f"for first_col in range(0, {dim(self.columns)}, {self.tile.columns}):",
                f"    col = first_col + tl.arange(0, {self.tile.columns})[None, :]",
                f"    tl.store({self._partial(s)}, {start(s, width)}, col < {dim(self.columns)})",
                "tl.debug_barrier()",
            ]
        return lines

    def _partial(self, s: Fold) -> str:
        chunk = "block // col_blocks" if self.tile.split else "block"
        return f"p{s.target} + ({chunk} * {factor(self.columns)} + col)"

    def _column_in_memory(self, s: Fold) -> list[str]:
        place = self._partial(s)
        here = reduced(s, masked(self.writer, s), 0)
        there = f"tl.load({place}, col_mask, other=0)"
        return [f"tl.store({place}, {fold_name(s)}({there}, {here}), col_mask)"]

    def _chunk_end(self) -> list[str]:
        lines = []
        for number, s in enumerate(self.folds):
            inner = f"all_{s.name}" if s.scope == "rows" else reduced(s, f"all_{s.name}", 1)
            lines.append(f"tl.store(q{number} + block + zero, {reduced(s, inner, 0)})")
        if self.program.after and self._finishes_here:
            return lines + self._following({s: f"all_{s.name}" for s in self.column_folds})
        for s in self.column_folds:
            if not self.tile.looped:
                value = reduced(s, f"all_{s.name}", 0)
                lines.append(f"tl.store({self._partial(s)}, {value}, col_mask)")
        return lines

    def _following(self, blocks: dict[Fold, str]) -> list[str]:
        """What is computed of columns when all rows are folded, given the blocks to be joined."""
        writer = StatementWriter((), tuple(loop.name for loop in self.program.inner))
        lines = []
        for s, block in blocks.items():
            lines.append(f"{s.name} = {finished(s, reduced(s, block, 0))}")
            writer.varying[s.name] = "c"
        for statement in self.program.after:
            lines += writer.write(statement, "c")
        return lines

    def _after(self) -> EmittedLaunch:
        """Join the partial results of each column, and what is computed of them."""
        chunks = self.tile.chunks
        columns = max(16, min(128, 8192 // chunks))
        if self._last_block_finishes:
            columns = self.tile.columns
        partials = {
            s: f"tl.load(p{s.target} + (chunk * {factor(self.columns)} + col), "
            "(chunk >= 0) & col_mask, other=0)"
            for s in self.column_folds
        }
        holes: dict[str, object] = {
            "name": f"{self.name}_after",
            "doc": f"{self.doc}; when all rows are done",
            "index": self.index,
            "columns": columns,
            "col_count": dim(self.columns),
            "chunks": chunks,
            "uniform": "\n".join(self.uniform.lines),
            "inner_indices": decomposed(self.program.inner, "col"),
            "body": "\n".join(self._following(partials)),
        }
        blocks = ceil_div(substitute(self.columns, self.own), columns)
        return self._emit("after.py.j2", holes, blocks, 8)


_JOINED_ELEMENTS = 64  # partial results for a thread, where a block of the rows joins them
_LAST = {"i32": str((1 << 31) - 1), "i64": str((1 << 63) - 1)}  # an index behind all others


def ceil_div(size: Dim, block: int) -> Dim:
    return (size + block - 1) // block


def decomposed(loops: tuple[Loop, ...], index: str) -> str:
    """The indices of nested loops, from their common counter."""
    lines, rest = [], index
    for loop in reversed(loops[1:]):
        lines.append(f"{loop.name} = {rest} % {factor(loop.size)}")
        rest = f"({rest} // {factor(loop.size)})"
    if loops:
        lines.append(f"{loops[0].name} = {rest}")
    return "\n".join(lines)
