"""What can be chosen about the kernels of attention; plain data, part of cache keys."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionSchedule:
    """``rows`` queries meet ``columns`` keys at a time, by ``warps`` warps; blocks for ``stages``
    steps are on their way at a time. ``tma``: they come by the copy engine. ``group`` heads take
    turns: the blocks of one at a time (1), or those with most work of several first, whose keys
    and values must then stay in the L2 cache together."""

    rows: int
    columns: int
    warps: int
    stages: int
    tma: bool = False
    group: int = 1

    def __post_init__(self) -> None:
        for name in ("rows", "columns", "warps"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise ValueError(f"AttentionSchedule: {name} must be a power of two, not {self}")
        if min(self.rows, self.columns) < 16:
            raise ValueError(f"AttentionSchedule: blocks are 16x16 or larger, not {self}")
        if min(self.stages, self.group) < 1:
            raise ValueError(f"AttentionSchedule: stages and group are at least 1, not {self}")
