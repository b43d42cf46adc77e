"""The Kernel IR: what one kernel does, as data that hashes and compares.

A ``Kernel`` has a uniform part (computed once), *parts* that run side by side in one
parallel region, and statements that follow when all parts are done. A part is a
``RowProgram``: for every row, a few passes over the row's elements. The body is a
list of scalar statements over named values, each assigned once (``statements.py``,
whose names are found here, too); nothing here says how it is vectorised or divided
among threads (that is the schedule's and the emitter's business). Equal programs
are equal values, so the emitter writes their text once. ``kernel_printer`` shows a
kernel as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flamec.ir.shape import Dim
from flamec.ir.statements import (
    Call,
    CheckedIndex,
    Compute,
    ComputedIndex,
    Constant,
    Fold,
    Keep,
    Linear,
    Load,
    Loop,
    Place,
    Position,
    RandomBits,
    Recall,
    Statement,
    Store,
    lane_of,
    name_of,
    operands_of,
)

__all__ = [
    "Attention",
    "Border",
    "Call",
    "CheckedIndex",
    "Compute",
    "ComputedIndex",
    "Constant",
    "Contraction",
    "Fold",
    "Keep",
    "Kernel",
    "Linear",
    "Load",
    "Loop",
    "MatrixOperand",
    "Parameter",
    "Part",
    "Pass",
    "Place",
    "Position",
    "Prologue",
    "RandomBits",
    "Recall",
    "ResultSteps",
    "RowProgram",
    "Sort",
    "Statement",
    "Store",
    "Table",
    "UnevenSteps",
    "in_table",
    "lane_of",
    "name_of",
    "operands_of",
]


# programs ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Parameter:
    """A buffer of a program: what its elements are in memory, and how it is used."""

    memory: str
    written: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """Statements once a row, then a loop over the row's elements (none if empty). ``inner``: the
    loops of a pass over other elements than the program's, of a program with tables."""

    row: tuple[Statement, ...]
    element: tuple[Statement, ...]
    inner: tuple[Loop, ...] = ()

    def stores(self) -> list[Store]:
        return [s for s in (*self.row, *self.element) if isinstance(s, Store)]


@dataclass(frozen=True, slots=True)
class Prologue:
    """How an operand of a product is computed where it is loaded.

    ``name`` is the element after the statements, in lane type ``lane``; ``memory`` the type in
    which it is multiplied. Loops of a left operand: rows of all batches, then the depth inside;
    of a right one: the depth, then columns of all batches.
    """

    memory: str
    lane: str
    name: str
    rows: tuple[Loop, ...]
    inner: tuple[Loop, ...]
    row: tuple[Statement, ...]
    element: tuple[Statement, ...]

    def loads(self) -> list[Load]:
        return [s for s in (*self.row, *self.element) if isinstance(s, Load)]


Steps = tuple[tuple[Dim, Dim], ...]


@dataclass(frozen=True, slots=True)
class UnevenSteps:
    """Where the rows and columns of a matrix lie that are not evenly apart: (size, stride) of
    nested loops along its free and its contracted dimension, outermost first."""

    free: Steps
    contracted: Steps


@dataclass(frozen=True, slots=True)
class Border:
    """Zeros around an operand: where ``row_step`` times the index of its free step ``row``
    and ``step`` times that of its contracted step ``along`` are in all below ``low`` or not below
    ``high``."""

    row: int
    along: int
    row_step: int
    step: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class MatrixOperand:
    """A matrix in memory: parameter, offset, (size, stride) of its batch dimensions, and the
    strides of its free and its contracted dimension, or, where these are not even, its steps. With
    a ``prologue`` it is not in memory (parameter -1), but computed. ``borders``: where it is known
    to be 0."""

    parameter: int
    offset: Dim
    batch: tuple[tuple[Dim, Dim], ...]
    free: Dim
    contracted: Dim
    prologue: Prologue | None = None
    uneven: UnevenSteps | None = None
    borders: tuple[Border, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultSteps:
    """Where the rows and columns of a product go that is not stored row-major."""

    offset: Dim
    down: Steps
    across: Steps


@dataclass(frozen=True, slots=True)
class Contraction:
    """A batched matrix product whose rows are the rows of the program.

    The rows of the program are those of all matrices, one matrix after the other. ``result``
    is the parameter that receives the product, row-major or as ``stored`` says, or -1 for a panel
    in cache. ``blocks``: the right matrices are so many on a diagonal, the last but one of the
    loops along their depth and along their columns; what is beside the diagonal multiplies nothing.
    ``part_of``: the operation of which it is a part, as the attribute of ``dot_general`` says.
    """

    memory: str
    lane: str
    batch: Dim
    rows: Dim
    columns: Dim
    depth: Dim
    left: MatrixOperand
    right: MatrixOperand
    result: int
    blocks: int = 1
    stored: ResultSteps | None = None
    part_of: str = ""

    @property
    def is_uneven(self) -> bool:
        """Whether some operand's rows or columns are not evenly apart."""
        return self.left.uneven is not None or self.right.uneven is not None


@dataclass(frozen=True, slots=True)
class Table:
    """Integers that each block has for itself, ``start`` at first; places in it have no order."""

    memory: str
    elements: int
    start: int = 0


def in_table(number: int) -> int:
    """The parameter number of places in a program's table."""
    return -2 - number


@dataclass(frozen=True, slots=True)
class RowProgram:
    """See the module's docstring. ``imports`` are (name, lane) of uniform values.

    ``kind``: "rows"; "flat" (no rows: blocks of elements instead); "along rows" (lanes are rows);
    "scatter" (one row after the other, because rows may store to the same place); "tables" (a block
    has ``tables``, in which what a pass stores is combined, and the next pass finds it: for each
    row, or for its share of the elements of all).
    ``after`` is run for each inner element when all rows are done. ``sizes`` are symbols that
    each part gives its own value, so that loops of different length share a program.
    """

    kind: str
    parameters: tuple[Parameter, ...]
    rows: tuple[Loop, ...]
    inner: tuple[Loop, ...]
    passes: tuple[Pass, ...]
    imports: tuple[tuple[str, str], ...] = ()
    after: tuple[Statement, ...] = ()
    contraction: Contraction | None = None
    sizes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()

    def folds(self, *scopes: str) -> list[Fold]:
        return [s for s in self.statements() if isinstance(s, Fold) and s.scope in scopes]

    def statements(self) -> Iterator[Statement]:
        for block in self.passes:
            yield from block.row
            yield from block.element

    def kept(self) -> list[Keep]:
        return [s for s in self.statements() if isinstance(s, Keep)]


SIZE_BORDERS = (
    16,
    32,
    512,
)  # between sizes of less than a vector, a block, middling and large ones


@dataclass(frozen=True, slots=True)
class Part:
    """A program with its arguments: kernel parameters, uniform values, the names under which
    the kernel knows its folds over everything, and the values of the program's own sizes.

    ``versions`` do the same by other loops. Which of ``ways`` runs is ``chosen`` by the classes of
    ``symbols`` (how many of ``SIZE_BORDERS`` they have reached, the last symbol's class varying
    fastest). ``typical``: sizes for which the schedule of a version is made.
    """

    program: RowProgram
    arguments: tuple[int, ...]
    imports: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    sizes: tuple[Dim, ...] = ()
    versions: tuple[Part, ...] = ()
    symbols: tuple[str, ...] = ()
    chosen: tuple[int, ...] = ()
    typical: tuple[tuple[str, int], ...] = ()

    @property
    def ways(self) -> tuple[Part, ...]:
        """The part itself and its versions."""
        return (self, *self.versions)


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(scale * query @ key^T + mask) @ value, or its gradients, for each of ``batch``.

    ``rows`` queries see ``columns`` keys of ``depth`` numbers with values of ``width``. Matrices
    have their rows as free and their numbers as contracted dimension; those of the mask are
    rows and columns. ``lower``, ``upper``, ``zero_rows``: see the op. ``logarithm`` is the
    parameter with the logarithms of the sums, row-major. Forward it is written, with ``output``;
    backward it is read, with ``delta`` (row-major, too) and ``output``, which is then the gradient
    of the output, and ``gradients`` (of query, key and value) are written.
    """

    memory: str
    batch: Dim
    rows: Dim
    columns: Dim
    depth: int
    width: int
    scale: float
    lower: Dim | None
    upper: Dim | None
    zero_rows: bool
    query: MatrixOperand
    key: MatrixOperand
    value: MatrixOperand
    mask: MatrixOperand | None
    output: MatrixOperand
    logarithm: int
    delta: int = -1
    gradients: tuple[MatrixOperand, ...] = ()

    @property
    def is_backward(self) -> bool:
        return bool(self.gradients)


@dataclass(frozen=True)
class Sort:
    """The first ``count`` of ``size`` elements, NaN the greatest, of ``inner`` lines in turns.
    ``values`` and ``places`` (along the line) are the parameters that are written."""

    memory: str
    outer: Dim
    size: Dim
    inner: Dim
    descending: bool
    count: Dim
    source: int
    values: int
    places: int


@dataclass(frozen=True)
class Kernel:
    """One kernel; ``operations``, ``locations``, ``modules`` and ``checks`` (see ``plan.Step``)
    are for people. With an ``attention`` or a ``sort`` it has nothing else."""

    name: str
    kind: str
    parameters: tuple[Parameter, ...]
    uniform: tuple[Statement, ...]
    parts: tuple[Part, ...]
    finish: tuple[Statement, ...]
    operations: tuple[str, ...] = field(default=(), compare=False)
    locations: tuple[str, ...] = field(default=(), compare=False)
    attention: Attention | None = None
    modules: tuple[str, ...] = field(default=(), compare=False)
    sort: Sort | None = None
    checks: tuple[str, ...] = field(default=(), compare=False)
