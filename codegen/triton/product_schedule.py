"""What can be chosen about the kernel of a matrix product, and what a target allows.

Plain data: a ``ProductSchedule`` is part of ``CodegenOptions``, and so of cache keys.
"""

from __future__ import annotations

from dataclasses import dataclass

_POWERS = ("rows", "columns", "warps", "store_parts", "bands")  # of two
_MOST_BANDS = 4


@dataclass(frozen=True, slots=True)
class ProductSchedule:
    """How a matrix product is cut into blocks.

    A block computes ``rows`` x ``columns`` elements in steps of ``depth`` (0: without matrix
    instructions, one step of depth at a time) with ``warps`` warps; ``stages`` steps are on
    their way at a time. ``tma``: operands come, and dense results go, by the copy engine.
    ``persistent``: each multiprocessor takes one block after the other. ``split_k`` blocks share
    the depth of one tile; their results are joined in order by a second launch. ``group``
    blocks of rows share a stretch of columns, for the L2 cache. ``store_parts``: a tile's
    columns are finished and stored in so many pieces, each of which needs less memory. ``bands``:
    a tile's rows are multiplied in so many pieces; those of fewer than 64 rows are for instructions
    of single warps, which read operands in any order. ``in_registers``: a right
    operand that lies across the depth goes by way of registers, which puts it in order: it takes
    the part of the left one, which alone may do so, and a tile is computed transposed.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    tma: bool = False
    persistent: bool = False
    split_k: int = 1
    group: int = 8
    store_parts: int = 1
    bands: int = 1
    in_registers: bool = False

    def __post_init__(self) -> None:
        for name in (*_POWERS, "stages", "split_k", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"ProductSchedule: {name} must be at least 1, not {self}")
        for name in _POWERS:
            if getattr(self, name) & (getattr(self, name) - 1):
                raise ValueError(f"ProductSchedule: {name} must be a power of two, not {self}")
        if self.depth < 0 or self.depth & (self.depth - 1):
            raise ValueError(f"ProductSchedule: depth must be 0 or a power of two, not {self}")
        if self.store_parts > 2:
            raise ValueError(f"ProductSchedule: a tile is stored in 1 or 2 parts, not {self}")
        if self.bands > min(self.rows, _MOST_BANDS) or (self.bands > 1 and not self.depth):
            raise ValueError(f"ProductSchedule: a tile has up to {_MOST_BANDS} bands, not {self}")
        if self.in_registers and (self.bands > 1 or not self.depth):
            raise ValueError(f"ProductSchedule: no warp groups read registers, with {self}")
        if self.tma and not self.depth:
            raise ValueError("ProductSchedule: the copy engine brings blocks, and depth is 0")


@dataclass(frozen=True, slots=True)
class Target:
    """What schedules must respect of a target such as ``"sm_90"``.

    ``shared_bytes`` a block may have; ``processors``: multiprocessors of the usual device;
    ``tma``: there is a copy engine; ``warp_groups``: four warps share a matrix instruction that
    reads its operands from shared memory; ``rate``: 16-bit products, in millions of operations a
    microsecond and multiprocessor; ``bandwidth``: bytes a microsecond.
    """

    shared_bytes: int
    processors: int
    tma: bool
    warp_groups: bool
    rate: float
    bandwidth: float


_LARGE, _SMALL = 227 << 10, 99 << 10  # shared memory of a block: data centre, workstation
TARGETS = {
    80: Target(163 << 10, 108, False, False, 2.9, 1.9e6),
    86: Target(_SMALL, 84, False, False, 1.7, 0.9e6),
    87: Target(163 << 10, 16, False, False, 1.7, 0.2e6),
    89: Target(_SMALL, 128, False, False, 2.5, 1.0e6),
    90: Target(_LARGE, 132, True, True, 7.5, 4.2e6),
    100: Target(_LARGE, 148, True, True, 15.0, 7.0e6),
    103: Target(_LARGE, 148, True, True, 15.0, 7.0e6),
    120: Target(_SMALL, 170, True, False, 2.5, 1.7e6),
    121: Target(_SMALL, 48, True, False, 2.5, 0.3e6),
}
_OLDEST = Target(64 << 10, 40, False, False, 1.6, 0.3e6)


def target_facts(target: str) -> Target:
    """The facts of a target, or of the last one before it; ValueError for another form."""
    if not target.startswith("sm_") or not target[3:].isdigit():
        raise ValueError(f"a target has the form 'sm_90', not {target!r}")
    known = [number for number in TARGETS if number <= int(target[3:])]
    return TARGETS[max(known)] if known else _OLDEST
