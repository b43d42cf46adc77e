"""The text of a product's operand that is computed, or looked up, where it is loaded.

In: a ``Prologue`` and the schedule. Out: lines before the loop over the depth, which only say
which elements the free index of a block means, and lines inside, which leave the block in ``a``
or ``b``. Where a block has a whole part of the innermost loop, what is outside of that part is the
same for all of the block: a tap of a convolution's kernel is a number, not a block of numbers.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from flamec.codegen.triton.product_schedule import ProductSchedule
from flamec.codegen.triton.program_writer import decomposed
from flamec.codegen.triton.statements import StatementWriter, stored
from flamec.codegen.triton.text import dim, factor
from flamec.ir.kernel import Contraction, Linear, Load, Loop, Prologue
from flamec.ir.shape import structurally_equal

_WORTH_SAYING = 4  # elements next to each other


def computed_operand(
    prologue: Prologue,
    c: Contraction,
    schedule: ProductSchedule,
    left: bool,
    wide: bool,
    band: str = "",
    start: str = "",
) -> dict[str, str]:
    """``before`` and ``lines`` of an operand; see the module's docstring. ``band``: what the names
    of a left operand end in that is some of a tile's rows, or its columns, which begin at
    ``start``."""
    name = f"a{band}" if left else "b"
    rows, inner = _named(prologue.rows, name), _named(prologue.inner, name)
    single = structurally_equal(c.batch, 1)
    whole = isinstance(c.depth, int) and bool(schedule.depth) and c.depth % schedule.depth == 0
    depth = (inner if left else rows, "[None, :]" if left else "[:, None]")
    steps = _block(*depth, "first", "k" + depth[1], schedule.depth, wide)
    inside = "" if whole else f"k{depth[1]} < {dim(c.depth)}"
    if left:
        row = f"m{band}"
        free = decomposed(rows, row if single else f"(batch * {factor(c.rows)} + {row})")
        if schedule.in_registers:
            free = _block(rows, "[:, None]", start, row, schedule.rows, wide)
        masks = {"r": f"row_mask{band}", "c": inside}
    else:
        start, index = "first_col", "col"
        if not single:
            start, index = (f"(batch * {factor(c.columns)} + {text})" for text in (start, index))
        free = _block(inner, "[None, :]", start, index, schedule.columns, wide)
        masks = {"r": inside, "c": "col_mask"}
    masks |= {"rc": " & ".join(f"({mask})" for mask in masks.values() if mask), "": ""}
    writer = StatementWriter(
        tuple(loop.name for loop in rows),
        tuple(loop.name for loop in inner),
        reuse=True,
        masks=masks,
    )
    return {"before": free, "lines": "\n".join([steps, *_element(prologue, writer, name)])}


def turned(prologue: Prologue) -> Prologue:
    """A right operand that is looked up as a left one: transposed."""
    (load,) = (*prologue.row, *prologue.element)
    assert isinstance(load, Load)

    def at(place: Linear) -> Linear:
        return replace(place, rows=place.inner, inner=place.rows)

    place = load.place
    guards = tuple((at(guard), size) for guard, size in place.guards)
    load = replace(load, place=replace(place, at=at(place.at), guards=guards))
    return replace(prologue, rows=prologue.inner, inner=prologue.rows, row=(), element=(load,))


def looks_up(prologue: Prologue) -> bool:
    """Whether elements are taken from memory as they are, zeros where there is none."""
    first, *more = (*prologue.row, *prologue.element)
    return (
        isinstance(first, Load)
        and not more
        and first.memory == prologue.memory
        and not first.fill
        and not first.place.indices
    )


def _named(loops: tuple[Loop, ...], operand: str) -> tuple[Loop, ...]:
    """Both operands and the epilogue have loops of their own."""
    return tuple(replace(loop, name=f"{operand}_{loop.name}") for loop in loops)


def _block(
    loops: tuple[Loop, ...], shape: str, start: str, index: str, size: int, wide: bool
) -> str:
    """The indices of loops for a block that begins at ``start``, a multiple of its size.

    What the compiler cannot conclude about remainders is said, so that it loads 16 bytes at once.
    """
    last = loops[-1] if loops else None
    run = gcd(last.size, size) if last is not None and isinstance(last.size, int) else 0
    if last is None or len(loops) < 2 or run < _WORTH_SAYING:
        return decomposed(loops, index)
    extent, width = factor(last.size), ".to(tl.int64)" if wide else ""
    if run == size:
        outer = f"(zero + ({start}) // {extent})" if wide else f"(({start}) // {extent})"
        first = f"tl.multiple_of(({start}) % {extent}, {size})"
        place = f"({first} + tl.arange(0, {size}){shape}){width}"
    else:
        outer = f"({index} // {extent})"
        runs = f"(1, {run})" if shape == "[None, :]" else f"({run}, 1)"
        place = f"tl.multiple_of(tl.max_contiguous({index} % {extent}, {runs}), {runs})"
    return f"{last.name} = {place}\n{decomposed(loops[:-1], outer)}"


def _element(prologue: Prologue, writer: StatementWriter, name: str) -> list[str]:
    """The lines that leave a block in ``name``; zeros where a mask fails."""
    (first, *_) = (*prologue.row, *prologue.element)
    if isinstance(first, Load) and looks_up(prologue):
        return [f"{name} = {writer.looked_up(first)}"]
    lines: list[str] = []
    for s in prologue.row:
        lines += writer.write(s, "r")
    for s in prologue.element:
        lines += writer.write(s, "rc")
    value = stored(prologue.memory, prologue.lane, writer.name(prologue.name))
    mask = writer.masks["rc"]
    return [*lines, f"{name} = tl.where({mask}, {value}, 0)" if mask else f"{name} = {value}"]
