"""The name of a part of a kernel under which its schedule is remembered.

In: a part and the options that say how large symbolic sizes are. Out: a ``PartKey``. Parts that
differ in the user's names, in the numbers of values, in constants, or in sizes of one bucket have
one key; a schedule that is right for one of them is right for all. So of sizes and strides
everything is kept that decides whether a schedule is possible: what is 0, 1 or symbolic, and
the divisibility by powers of two up to 16.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from flamec.codegen.options import CodegenOptions, power_of_two
from flamec.ir.kernel import Constant, Loop, Part, RowProgram
from flamec.ir.shape import Dim, SymbolicDim, product, substitute

_NAMES = ("name", "operand", "operands", "fill", "position", "index", "names", "where")
_NUMBERS = ("parameter", "slot", "target", "result", "logarithm", "delta")  # no sizes
_LEFT_OUT = ("error", "part_of")
_ALIGNMENT = 16
_STEPS = 4  # buckets between two powers of two, for matrix products


@dataclass(frozen=True, slots=True)
class PartKey:
    """``kernel``: hash of what is computed; ``bucket``: sizes, rounded up; ``dtype``: the types of
    the arrays."""

    kernel: str
    bucket: str
    dtype: str

    @property
    def text(self) -> str:
        """All of it, as ``CodegenOptions.schedules`` has it."""
        return f"{self.kernel} {self.bucket} {self.dtype}"


def own_sizes(part: Part) -> dict[str, Dim]:
    """The values of the sizes that the part's program has for itself."""
    return dict(zip(part.program.sizes, part.sizes, strict=True))


def actual(part: Part) -> RowProgram:
    """A part's program with the sizes of its loops filled in, to choose a schedule by."""
    own = own_sizes(part)
    program = part.program
    rows = tuple(Loop(l.name, substitute(l.size, own)) for l in program.rows)
    inner = tuple(Loop(l.name, substitute(l.size, own)) for l in program.inner)
    return replace(program, rows=rows, inner=inner)


def part_key(part: Part, options: CodegenOptions) -> PartKey:
    """See the module's docstring."""
    program = part.program
    form = _Form(own_sizes(part)).of(replace(program, imports=(), sizes=()))
    lanes = [lane for _, lane in program.imports]
    precision = "" if program.contraction is None else options.precision_of(program.contraction)
    in_order = program.kind == "scatter" and options.deterministic
    facts = [form, lanes, precision, in_order]
    if options.size_bounds and not _is_static(actual(part)):
        facts.append("bounded")
    text = json.dumps(facts, separators=(",", ":"))
    return PartKey(
        hashlib.sha256(text.encode()).hexdigest(),
        _bucket(actual(part), options),
        ",".join(dict.fromkeys(p.memory for p in program.parameters)),
    )


def _is_static(program: RowProgram) -> bool:
    """Whether the lengths of all loops are numbers."""
    return all(isinstance(loop.size, int) for loop in (*program.rows, *program.inner))


def _bucket(program: RowProgram, options: CodegenOptions) -> str:
    """Rows x columns; of a product batch x rows x columns x depth, more finely."""
    c = program.contraction
    if c is not None:
        sizes = [options.typical(size) for size in (c.batch, c.rows, c.columns, c.depth)]
        return "x".join("?" if size is None else str(rounded(size)) for size in sizes)
    loops = (program.rows, program.inner)
    sizes = [options.typical(product(loop.size for loop in part)) for part in loops]
    return "x".join("?" if size is None else str(power_of_two(size)) for size in sizes)


def rounded(size: int) -> int:
    """Up to the next of four steps between powers of two."""
    step = max(1, power_of_two(size) // 2 // _STEPS)
    return -(-size // step) * step


def form_of(value: Any) -> Any:
    """Data of the Kernel IR as nested lists, without what a schedule does not depend on."""
    return _Form({}).of(value)


class _Form:
    """A program as nested lists, its names numbered in the order of their appearance."""

    def __init__(self, own: dict[str, Dim]) -> None:
        self._own = own
        self._numbers: dict[str, int] = {}

    def of(self, value: Any, is_name: bool = False) -> Any:
        if isinstance(value, str):
            return self._number(value) if is_name and value else value
        if isinstance(value, tuple):
            return [self.of(item, is_name) for item in value]
        if isinstance(value, bool) or value is None:
            return value
        if isinstance(value, (int, SymbolicDim)):
            return self._dim(value)
        if isinstance(value, Constant):
            return ["Constant", self._number(value.name), value.lane]
        assert is_dataclass(value), value
        form = [type(value).__name__]
        for f in fields(value):
            item = getattr(value, f.name)
            if f.name not in _LEFT_OUT:
                form.append(item if f.name in _NUMBERS else self.of(item, f.name in _NAMES))
        return form

    def _number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def _dim(self, dim: Dim) -> str:
        dim = substitute(dim, self._own)
        if isinstance(dim, int):
            return str(dim) if -1 <= dim <= 1 else f"{'-' * (dim < 0)}{_power(dim)}n"
        return f"{_power(math.gcd(*(factor for _, factor in dim.terms)))}s"


def _power(number: int) -> int:
    """The largest power of two, up to 16, that divides a number."""
    return math.gcd(number, _ALIGNMENT)
