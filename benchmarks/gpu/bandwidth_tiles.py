"""Tiles beside those that are proposed, to see from one run where the rules are wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.tiling import Tile, propose
from flamec.ir.kernel import RowProgram

Change = Callable[[Tile], Tile]


def _warps(factor: float) -> Change:
    return lambda t: replace(t, warps=max(1, min(32, int(t.warps * factor))))


def _rows(factor: float) -> Change:
    return lambda t: replace(t, rows=max(1, int(t.rows * factor)))


def _columns(factor: float, warps: float = 1) -> Change:
    """Only where blocks need not have whole rows."""

    def change(t: Tile) -> Tile:
        if t.whole or t.owners:
            return t
        return _warps(warps)(replace(t, columns=max(16, int(t.columns * factor))))

    return change


def _chunks(factor: float) -> Change:
    return lambda t: replace(t, chunks=int(t.chunks * factor)) if t.chunks > 1 else t


def _stages(stages: int) -> Change:
    """Only in loops."""
    return lambda t: replace(t, stages=stages) if t.chunks or t.blocks or t.looped else t


def _persistent(blocks: int, stages: int) -> Change:
    """Blocks that go over rows, where nothing is folded over them."""

    def change(t: Tile) -> Tile:
        fits = t.whole and not t.chunks and not t.owners
        return replace(t, blocks=blocks, stages=stages) if fits else t

    return change


VARIANTS: dict[str, Change] = {
    "proposed": lambda t: t,
    "half warps": _warps(0.5),
    "twice warps": _warps(2),
    "half rows": _rows(0.5),
    "twice rows": _rows(2),
    "twice rows, twice warps": lambda t: _rows(2)(_warps(2)(t)),
    "4 times rows, twice warps": lambda t: _rows(4)(_warps(2)(t)),
    "half columns": _columns(0.5),
    "half columns, half warps": _columns(0.5, 0.5),
    "twice columns": _columns(2),
    "twice columns, twice warps": _columns(2, 2),
    "4 times columns, twice warps": _columns(4, 2),
    "stages 1": _stages(1),
    "stages 2": _stages(2),
    "stages 4": _stages(4),
    "half chunks": _chunks(0.5),
    "twice chunks": _chunks(2),
    "4 times chunks": _chunks(4),
    "528 persistent, stages 3": _persistent(528, 3),
    "1056 persistent, stages 2": _persistent(1056, 2),
    "1056 persistent, stages 3": _persistent(1056, 3),
    "264 persistent, stages 4": _persistent(264, 4),
}


def chooser(variant: str) -> Callable[[RowProgram, CodegenOptions], Tile]:
    """What ``compile_graph`` asks for a tile: the proposed one, changed."""
    change = VARIANTS[variant]
    return lambda program, options: change(propose(program, options))
