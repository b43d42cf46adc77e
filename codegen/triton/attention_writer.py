"""Write attention as Triton kernels: forward one, backward two.

In: an ``Attention`` and the numbers of its buffers. Out: launches with their arguments. Forward,
a block of queries meets the keys a block at a time and corrects what it has when a larger score
turns up (Milakov, Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022,
algorithm 1). Backward, weights are computed again from the logarithms; one launch gives a block
of keys its gradients, the other a block of queries (Dao 2023, "FlashAttention-2", section 3.1.2),
so that nothing is added in an order that depends on the run. Blocks that the bounds leave out
are skipped, and only those that they cut are masked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.attention_choice import AttentionLaunch, padded
from flamec.codegen.triton.attention_schedule import AttentionSchedule
from flamec.codegen.triton.gpu_form import GpuKernel
from flamec.codegen.triton.product_operands import (
    DescribedOperand,
    describe_operand,
    matrix_start,
)
from flamec.codegen.triton.program_writer import ceil_div
from flamec.codegen.triton.side_by_side import PlannedLaunch
from flamec.codegen.triton.source import Described, EmittedLaunch, emit
from flamec.codegen.triton.text import POINTERS, TYPES, dim, factor, size_name
from flamec.ir.kernel import Attention, Kernel, MatrixOperand
from flamec.ir.plan import Argument
from flamec.ir.shape import Dim, SymbolicDim, is_multiple

_LOG2_E, _LN_2 = math.log2(math.e), math.log(2)


@dataclass
class AttentionWriter:
    """Writes one kernel. ``numbers``: the plan's buffer of each of its parameters."""

    gpu: GpuKernel
    numbers: tuple[int, ...]
    options: CodegenOptions
    launches: list[PlannedLaunch] = field(default_factory=list)
    temporaries: list[int] = field(default_factory=list)

    def write(self) -> None:
        """All launches, in order."""
        kernel = self.gpu.lowered.kernel
        written = [n for n, p in zip(self.numbers, kernel.parameters, strict=True) if p.written]
        for choice in self.gpu.choices:
            assert isinstance(choice.part, AttentionLaunch)
            assert isinstance(choice.schedule, AttentionSchedule)
            emitted = write_launch(choice.part, choice.schedule, not self.options.narrow)
            arguments = tuple(self._argument(emitted, name) for name in emitted.arguments)
            traffic = frozenset(self.numbers), frozenset(written)
            self.launches.append(PlannedLaunch(emitted, arguments, *traffic, True))

    def loaded_once(self) -> set[int]:
        """Buffers that are read outside of the rows: none."""
        return set()

    def stored_early(self) -> set[int]:
        """Buffers that are written while other blocks may read: none that are inputs' places."""
        return set()

    def _argument(self, launch: EmittedLaunch, name: str) -> Argument:
        if name in launch.described:
            array = launch.described[name]
            number = self.numbers[int(array.pointer[1:])]
            return Argument(number, array.offset, array.shape, array.strides)
        if name.startswith(size_name("")):
            return Argument(value=SymbolicDim.symbol(name.removeprefix(size_name(""))))
        return Argument(buffer=self.numbers[int(name[1:])])


def write_launch(
    part: AttentionLaunch, schedule: AttentionSchedule, symbols_are_wide: bool
) -> EmittedLaunch:
    """One launch with a schedule that fits."""
    return _Launch(part.kernel, part.attention, part.launch, schedule, symbols_are_wide).emit()


@dataclass
class _Launch:
    kernel: Kernel
    a: Attention
    launch: str
    schedule: AttentionSchedule
    symbols_are_wide: bool
    described: dict[str, Described] = field(default_factory=dict)
    starts: list[str] = field(default_factory=list)

    def emit(self) -> EmittedLaunch:
        a, schedule = self.a, self.schedule
        by_rows = self.launch != "keys"
        size, step = (a.rows, schedule.rows) if by_rows else (a.columns, schedule.columns)
        fixed, moving = ("row", "column") if by_rows else ("column", "row")
        moving_step = schedule.columns if by_rows else schedule.rows
        self.row, self.column = ("row[:, None]", "column[None, :]")
        if not by_rows:
            self.row, self.column = ("row[None, :]", "column[:, None]")
        lower, upper = a.lower, a.upper
        if not by_rows:  # row - column has the negative bounds
            lower, upper = (None if d is None else -d for d in (a.upper, a.lower))
        blocks = ceil_div(size, step)
        query, key = self._matrix("query", a.query, True), self._matrix("key", a.key, False)
        value, result = (
            self._matrix("value", a.value, False),
            self._matrix("result", a.output, True),
        )
        gradients = [
            self._matrix(f"of_{name}", m, name == "query")
            for name, m in zip(("query", "key", "value"), a.gradients, strict=False)
            if (name == "query") is by_rows
        ]
        gradients = [*gradients] * 3 if by_rows else [None, *gradients]
        holes: dict[str, object] = {
            "name": f"flamec_attention_{self.launch}",  # of equal layers one and the same
            "doc": f"{', '.join(self.kernel.operations)}: {self.launch}",
            "launch": self.launch,
            "tile": schedule,
            "rows": _narrow(a.rows),
            "columns": _narrow(a.columns),
            "blocks": _narrow(blocks),
            "heads": _narrow(a.batch),
            "whole_groups": is_multiple(a.batch, schedule.group),
            "last_first": by_rows and a.upper is not None,
            "fixed_index": self._fixed_index(fixed, step),
            "moving_index": f"{moving} = first + tl.arange(0, {moving_step})",
            "starts": "\n".join(self._starts()),
            "bounds": "\n".join(_bounds(fixed, f"{moving}s", moving_step, lower, upper)),
            "edges": self._edges(a.columns if by_rows else a.rows, moving_step, lower, upper),
            "valid": self._valid(),
            "mask": self._mask(),
            "statistics": "\n".join(self._statistics()),
            "query": query,
            "key": key,
            "value": value,
            "result": result,
            "gradients": gradients,
            "logarithm_at": f"p{a.logarithm} + batch * rows + row",
            "row_mask": "row < rows",
            "zero_rows": a.zero_rows,
            "type": TYPES[a.memory],
            "depth": padded(a.depth),
            "width": padded(a.width),
            "scale": repr(a.scale),
            "factor": repr(a.scale * _LOG2_E),
            "log2_e": repr(_LOG2_E),
            "ln_2": repr(_LN_2),
        }
        pointers = {f"p{i}": POINTERS[p.memory] for i, p in enumerate(self.kernel.parameters)}
        return emit(
            "attention.py.j2",
            holes,
            pointers,
            a.batch * blocks,
            schedule.warps,
            stages=schedule.stages,
            wide=self.symbols_are_wide,
            described=self.described,
        )

    # places ----------------------------------------------------------------------------
    def _fixed_index(self, name: str, step: int) -> str:
        return (
            f"first_{name} = place * {step}\n    last_{name} = first_{name} + {step - 1}\n"
            f"    {name} = first_{name} + tl.arange(0, {step})"
        )

    def _starts(self) -> list[str]:
        sizes = (("depth", self.a.depth), ("width", self.a.width))
        lines = [f"{name}_number = tl.arange(0, {padded(size)})[None, :]" for name, size in sizes]
        return lines + self.starts

    def _matrix(self, name: str, m: MatrixOperand, of_rows: bool) -> _Text:
        a, schedule = self.a, self.schedule
        index, step = ("row", schedule.rows) if of_rows else ("column", schedule.columns)
        size = a.rows if of_rows else a.columns
        numbers = "width" if name in ("value", "result", "of_value") else "depth"
        count = a.width if numbers == "width" else a.depth
        stored = name.startswith("of_") or (name == "result" and not a.is_backward)
        seen = describe_operand(m, a.memory, size, count) if schedule.tma else None
        if seen is not None:
            number = f"d{len(self.described)}"
            sizes = (step, padded(count))
            self.described[number] = seen.array(m.parameter, a.memory, *sizes)
            if stored:
                return _Text(kind=TYPES[a.memory], array=(seen, number, f"first_{index}", sizes))
            moving = seen.load(number, "first", "0", sizes, True)
            fixed = seen.load(number, f"first_{index}", "0", sizes, True)
            return _Text(moving, moving, fixed)
        assert stored or not schedule.tma, "the schedule uses the copy engine where it cannot read"
        self.starts.append(f"{name}_at = p{m.parameter} + ({matrix_start(m)})")
        wide = ".to(tl.int64)" if self._is_wide(m, size) else ""
        at = f"{name}_at + {index}[:, None]{wide} * {factor(m.free)} + {numbers}_number"
        inside = [f"({numbers}_number < {count})"] if count != padded(count) else []
        bound = [f"({index}[:, None] < {index}s)"]
        whole = is_multiple(size, step)
        masks = [" & ".join(part) for part in (inside, inside if whole else [*bound, *inside])]
        inner, edge = (
            f"tl.load({at}, {mask}, other=0.0)" if mask else f"tl.load({at})" for mask in masks
        )
        return _Text(inner, edge, edge, at, masks[1], TYPES[a.memory])

    def _is_wide(self, m: MatrixOperand, rows: Dim) -> bool:
        reach = rows * m.free
        return reach >= 1 << 30 if isinstance(reach, int) else self.symbols_are_wide

    # masks -----------------------------------------------------------------------------
    def _edges(
        self, size: Dim, step: int, lower: Dim | None, upper: Dim | None
    ) -> dict[str, object]:
        """Which of the three loops there are: cut on the left, whole, cut on the right."""
        if self.a.mask is not None:
            return {"left": False, "inner": False, "right": True, "step": step}
        left = lower is not None
        right = left or upper is not None or not is_multiple(size, step)
        return {"left": left, "inner": True, "right": right, "step": step}

    def _valid(self) -> str:
        """Whether a column of a block takes part in a row of it; "" if all do."""
        a, parts = self.a, []
        if self.launch != "keys" and not is_multiple(a.columns, self.schedule.columns):
            parts.append(f"({self.column} < columns)")
        if a.lower is not None:
            parts.append(f"({self.column} - {self.row} >= {_narrow(a.lower)})")
        if a.upper is not None:
            parts.append(f"({self.column} - {self.row} <= {_narrow(a.upper)})")
        if self._mask().get("is_bool"):
            parts.append("kept")
        return " & ".join(parts)

    def _mask(self) -> dict[str, object]:
        m = self.a.mask
        if m is None:
            return {"load": "", "is_bool": False}
        memory = self.kernel.parameters[m.parameter].memory
        wide = ".to(tl.int64)" if self._is_wide(m, self.a.rows) else ""
        at = f"p{m.parameter} + ({matrix_start(m)}) + {self.row}{wide} * {factor(m.free)}"
        at += f" + {self.column} * {factor(m.contracted)}"
        bound = f"({self.row} < rows) & ({self.column} < columns)"
        return {"load": f"tl.load({at}, {bound}, other=0)", "is_bool": memory == "bool"}

    def _statistics(self) -> list[str]:
        """The logarithms and row sums of a block of rows."""
        a = self.a
        if not a.is_backward:
            return []
        shape = "[None, :]" if self.launch == "keys" else "[:, None]"

        def load(parameter: int, other: str) -> str:
            at = f"p{parameter} + batch * rows + row"
            whole = is_multiple(a.rows, self.schedule.rows)
            return (
                f"tl.load({at}){shape}"
                if whole
                else f"tl.load({at}, row < rows, other={other}){shape}"
            )

        lines = [f"logarithm = {load(a.logarithm, _INFINITY)} * {_LOG2_E!r}"]
        if a.zero_rows:
            lines.append(f"logarithm = tl.where(logarithm == -{_INFINITY}, 0.0, logarithm)")
        return [*lines, f"delta = {load(a.delta, '0.0')}"]


_INFINITY = 'float("inf")'


@dataclass(frozen=True)
class _Text:
    """How a block of a matrix is loaded: in the middle, where it may end, once; and stored: by a
    pointer, or as part of a described array."""

    inner: str = ""
    edge: str = ""
    fixed: str = ""
    at: str = ""
    mask: str = ""
    kind: str = ""
    array: tuple[DescribedOperand, str, str, tuple[int, int]] | None = None

    def store(self, block: str) -> str:
        block = f"({block}).to({self.kind})"
        if self.array is not None:
            seen, name, first, sizes = self.array
            return seen.store(name, first, block, sizes)
        mask = f", {self.mask}" if self.mask else ""
        return f"tl.store({self.at}, {block}{mask})"


def _narrow(size: Dim) -> str:
    """A size as 32-bit text."""
    return str(size) if isinstance(size, int) else f"({dim(size)}).to(tl.int32)"


def _bounds(fixed: str, end: str, step: int, lower: Dim | None, upper: Dim | None) -> list[str]:
    """The moving indices that a block meets, and those that no bound cuts.

    An index j and the fixed one i meet if lower <= j - i <= upper.
    """
    lines = ["begin = 0", "inner_begin = 0"]
    if lower is not None:
        bound = _narrow(lower)
        lines = [
            f"begin = tl.maximum(first_{fixed} + {bound}, 0) // {step} * {step}",
            f"inner_begin = tl.cdiv(tl.maximum(last_{fixed} + {bound}, 0), {step}) * {step}",
        ]
    if upper is None:
        lines += [f"end = {end}", f"inner_end = {end} // {step} * {step}"]
    else:
        bound = _narrow(upper)
        lines += [
            f"end = tl.minimum(tl.maximum(last_{fixed} + {bound} + 1, 0), {end})",
            f"inner_end = tl.minimum(tl.maximum(first_{fixed} + {bound} + 1, 0), {end})",
            f"inner_end = inner_end // {step} * {step}",
        ]
    if lower is not None:
        lines.append("inner_end = tl.maximum(inner_begin, inner_end)")
    return lines
