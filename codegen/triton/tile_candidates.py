"""Other tiles for a row program than the one by rule of thumb, among which a search may choose.

In: a program with its actual sizes, and options. Out: tiles that give the same results up to the
order of additions, the most promising first: those that differ least from the rule's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from flamec.codegen.lower.lanes import LANE_BYTES, MEMORY_BYTES
from flamec.codegen.options import CodegenOptions, power_of_two
from flamec.codegen.triton.product_schedule import target_facts
from flamec.codegen.triton.tiling import Tile, bytes_of_an_iteration, may_load_ahead, propose
from flamec.ir.kernel import Fold, Load, RowProgram
from flamec.ir.shape import product

_MOST_WARPS = 32
_MOST_STAGES = 5
_MOST_CHUNKS = 1024
_MOST_REGISTERS = 255  # of a thread
_RESERVED_REGISTERS = 24  # for indices and addresses
_LONGEST_WHOLE_ROW = 1 << 16
_SLACK = 1 << 10  # bytes of shared memory
_STEPS = (1, -1, 2, -2)  # doublings


def tile_fits(tile: Tile, program: RowProgram, options: CodegenOptions) -> bool:
    """Whether a program can be cut in this way."""
    return _fits(tile, propose(program, options), program, options)


def _fits(tile: Tile, usual: Tile, program: RowProgram, options: CodegenOptions) -> bool:
    if program.kind == "tables":
        return tile == usual
    numbers = (tile.rows, tile.columns, tile.warps, max(1, tile.chunks))
    if any(number < 1 or number & (number - 1) for number in numbers):
        return False
    if tile.warps > _MOST_WARPS or tile.chunks > max(_MOST_CHUNKS, usual.chunks):
        return False
    if not 1 <= tile.stages <= _MOST_STAGES or tile.blocks < 0:
        return False
    if tile.stages > 1 and not may_load_ahead(program, tile):
        return False
    if tile.split != usual.split or bool(tile.chunks) != bool(usual.chunks):
        return False
    if tile.blocks and (tile.chunks or not program.rows):
        return False
    if program.kind == "scatter":
        return replace(tile, columns=usual.columns, warps=usual.warps) == usual
    if (tile.owners, tile.scanned, tile.atomic) != (0, 0, False):
        return False
    if not program.rows and (tile.rows, tile.whole) != (1, usual.whole):
        return False
    if tile.whole:
        width = options.most(product(loop.size for loop in program.inner))
        return not tile.split and width is not None and tile.columns >= width
    return True


def tile_candidates(program: RowProgram, options: CodegenOptions, most: int) -> list[Tile]:
    """Up to ``most`` tiles, the one by rule of thumb first."""
    usual = propose(program, options)
    width, height = (
        power_of_two(options.typical(product(loop.size for loop in loops)) or 1)
        for loops in (program.inner, program.rows)
    )
    most_rows, most_columns = max(usual.rows, height), max(usual.columns, width)
    target = target_facts(options.target)
    found = {usual: 0.0}
    for tile in dict.fromkeys(_variants(usual, program, options)):
        if tile.rows > most_rows or tile.columns > most_columns:
            continue
        if tile.blocks * tile.rows >= height:  # each has but one turn
            continue
        if _fits(tile, usual, program, options) and _is_sensible(
            tile, program, target.shared_bytes
        ):
            found.setdefault(tile, _distance(tile, usual))
    return sorted(found, key=lambda tile: found[tile])[:most]


def _variants(usual: Tile, program: RowProgram, options: CodegenOptions) -> Iterator[Tile]:
    """Tiles that differ in one or two respects."""
    processors = target_facts(options.target).processors
    for form in _forms(usual, program, options):
        yield form
        one = list(_changed(form, processors))
        yield from one
        for tile in one:
            yield from _changed(tile, processors)


def _forms(usual: Tile, program: RowProgram, options: CodegenOptions) -> Iterator[Tile]:
    """Whole rows in a block, or a loop over them."""
    yield usual
    width = options.most(product(loop.size for loop in program.inner))
    if usual.split or not program.rows or width is None:
        return
    if usual.whole:
        for columns in (1024, 2048, 4096):
            if 2 * columns <= usual.columns:
                looped = replace(usual, columns=columns, whole=False)
                yield replace(looped, stages=2 if may_load_ahead(program, looped) else 1)
    elif width <= _LONGEST_WHOLE_ROW:
        columns = power_of_two(width)
        yield replace(usual, rows=1, columns=columns, whole=True, warps=16, stages=1)


def _changed(tile: Tile, processors: int) -> Iterator[Tile]:
    """One number doubled, halved, or both twice; other loops over the rows."""
    names = ["warps", "rows"]
    if not tile.whole:
        names.append("columns")
    if tile.chunks:
        names.append("chunks")
    for step in _STEPS:
        factor = 2.0**step
        for name in names:
            value = int(getattr(tile, name) * factor)
            if value >= 1:
                changed: dict[str, Any] = {name: value}
                yield replace(tile, **changed)
    if tile.warps > 1 and tile.rows > 1:  # as much for each thread
        yield replace(tile, warps=tile.warps // 2, rows=tile.rows // 2)
    yield replace(tile, warps=2 * tile.warps, rows=2 * tile.rows)
    if not tile.whole:
        yield replace(tile, warps=2 * tile.warps, columns=2 * tile.columns)
    for stages in range(1, _MOST_STAGES):
        yield replace(tile, stages=stages)
    for blocks in (0, 4 * processors, 16 * processors):
        yield replace(tile, blocks=blocks)


def _distance(tile: Tile, usual: Tile) -> float:
    """How far a tile is from the usual one; doubling warps and elements together counts little."""
    rows, columns, warps, chunks = (
        math.log2(max(1, getattr(tile, name)) / max(1, getattr(usual, name)))
        for name in ("rows", "columns", "warps", "chunks")
    )
    if tile.whole != usual.whole:
        columns = 0.0
    other = 0.5 * (tile.whole != usual.whole) + 0.8 * (tile.blocks != usual.blocks)
    other += 0.7 * abs(tile.stages - usual.stages) + abs(chunks)
    return abs(rows + columns - warps) + 0.75 * (abs(rows) + abs(columns)) + other


def _is_sensible(tile: Tile, program: RowProgram, most_shared: int) -> bool:
    """By estimate: values fit in registers, and what is exchanged in shared memory."""
    if tile.rows * tile.columns < 32 * tile.warps:
        return False
    fits_in_registers = registers(tile, program) <= _MOST_REGISTERS
    return fits_in_registers and shared_bytes(tile, program) <= most_shared - _SLACK


def registers(tile: Tile, program: RowProgram) -> int:
    """An estimate of a thread's registers: what one pass loads, and what is kept from it."""
    of_thread = -(-tile.rows * tile.columns // (32 * tile.warps))
    words = 1
    for block in program.passes:
        loads = [s for s in block.element if isinstance(s, Load)]
        words = max(words, sum(LANE_BYTES[s.lane] for s in loads) // 4 + 1)
    if not tile.looped:
        words += sum(LANE_BYTES[keep.lane] for keep in program.kept()) // 4
    return _RESERVED_REGISTERS + of_thread * words


def shared_bytes(tile: Tile, program: RowProgram) -> int:
    """An estimate of a block's shared memory: folds between warps, turned blocks, loads ahead."""
    folds = [s for s in program.statements() if isinstance(s, Fold)]
    across = max(tile.rows, tile.columns) * tile.warps if folds else 0
    turned = 0
    for s in program.statements():
        if isinstance(s, Load) and 1 in s.place.at.rows:
            turned = max(turned, MEMORY_BYTES[s.memory])
    ahead = 0 if tile.stages == 1 else tile.stages * bytes_of_an_iteration(program, tile)
    return 8 * across + tile.rows * tile.columns * turned + ahead
