"""Which blocks the kernels of attention work in, and which a target can hold.

In: a launch of an attention and options. Out: an ``AttentionSchedule``, or several to choose from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.attention_schedule import AttentionSchedule
from flamec.codegen.triton.part_key import PartKey, form_of, rounded
from flamec.codegen.triton.product_operands import describe_operand
from flamec.codegen.triton.product_schedule import Target, target_facts
from flamec.ir.kernel import Attention, Kernel

LAUNCHES = ("forward", "keys", "queries")


@dataclass(frozen=True)
class AttentionLaunch:
    """A launch of a kernel with an attention: ``"forward"``; or ``"keys"``, which gives key and
    value their gradients, and ``"queries"``."""

    kernel: Kernel
    launch: str

    @property
    def attention(self) -> Attention:
        assert self.kernel.attention is not None
        return self.kernel.attention


def attention_launches(kernel: Kernel) -> tuple[AttentionLaunch, ...]:
    """The launches of an attention in order; none for other kernels."""
    a = kernel.attention
    if a is None:
        return ()
    names = LAUNCHES[1:] if a.is_backward else LAUNCHES[:1]
    return tuple(AttentionLaunch(kernel, name) for name in names)


def attention_key(part: AttentionLaunch, options: CodegenOptions) -> PartKey:
    """The name under which the schedule of a launch is remembered (see ``part_key``)."""
    a = part.attention
    form = form_of(replace(a, scale=0))
    lanes = [p.memory for p in part.kernel.parameters]
    text = json.dumps([part.launch, form, lanes], separators=(",", ":"))
    sizes = [options.typical(d) for d in (a.batch, a.rows, a.columns, a.depth, a.width)]
    bucket = "x".join("?" if size is None else str(rounded(size)) for size in sizes)
    return PartKey(hashlib.sha256(text.encode()).hexdigest(), bucket, a.memory)


def is_described(a: Attention) -> bool:
    """Whether the copy engine can read all matrices."""
    given = [(a.query, a.rows, a.depth), (a.key, a.columns, a.depth)]
    given.append((a.value, a.columns, a.width))
    if a.is_backward:
        given.append((a.output, a.rows, a.width))
    return all(describe_operand(m, a.memory, rows, size) for m, rows, size in given)


def padded(size: int) -> int:
    """The numbers of a row in a block: a power of two, and enough for a matrix instruction."""
    return max(16, 1 << (size - 1).bit_length())


def shared_bytes(schedule: AttentionSchedule, a: Attention, launch: str) -> int:
    """About how much shared memory a block needs."""
    numbers = 2 * (padded(a.depth) + padded(a.width))
    if launch == "forward":
        moving, staying = schedule.columns * numbers, schedule.rows * 2 * padded(a.depth)
    elif launch == "keys":
        moving = schedule.rows * (numbers + 8)
        staying = schedule.columns * numbers
    else:
        moving, staying = schedule.columns * numbers, schedule.rows * numbers
    weights = 2 * schedule.rows * schedule.columns if launch != "forward" else 0
    return moving * schedule.stages + staying + weights


def attention_fits(
    schedule: AttentionSchedule, part: AttentionLaunch, options: CodegenOptions
) -> bool:
    """Whether the target can run a launch with such a schedule."""
    target = target_facts(options.target)
    if schedule.tma and not (target.tma and is_described(part.attention)):
        return False
    return _has_room(schedule, part.attention, part.launch, target)


def _has_room(schedule: AttentionSchedule, a: Attention, launch: str, target: Target) -> bool:
    numbers = max(padded(a.depth), padded(a.width))
    held = schedule.rows if launch != "keys" else 2 * schedule.columns
    registers = (held * numbers + 2 * schedule.rows * schedule.columns) // (32 * schedule.warps)
    return registers <= 320 and shared_bytes(schedule, a, launch) <= target.shared_bytes


Blocks = tuple[tuple[int, int, int, int], ...]  # rows, columns, warps, stages

# by the larger of depth and width, the best first where they fit: with instructions of four warps
_FOR_WARP_GROUPS: dict[str, dict[int, Blocks]] = {
    "forward": {
        64: ((128, 64, 4, 3), (64, 64, 4, 2), (64, 128, 4, 2), (64, 64, 4, 3), (128, 64, 4, 2)),
        128: ((128, 64, 8, 2), (128, 64, 4, 2), (64, 64, 4, 3), (128, 128, 8, 3), (64, 64, 4, 2)),
        256: ((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2)),
    },
    "keys": {
        64: ((32, 64, 4, 3), (64, 64, 4, 3), (32, 64, 4, 2), (64, 64, 4, 2), (128, 128, 8, 2)),
        128: ((64, 64, 4, 2), (32, 64, 4, 3), (64, 128, 8, 3), (64, 128, 8, 2), (32, 64, 4, 2)),
        256: ((32, 64, 8, 2), (64, 64, 8, 1)),
    },
    "queries": {
        64: ((64, 32, 4, 3), (64, 64, 4, 3), (64, 64, 4, 2), (128, 64, 8, 3), (128, 32, 4, 3)),
        128: ((64, 64, 4, 1), (64, 128, 4, 1), (128, 128, 8, 2), (128, 64, 8, 3), (64, 64, 4, 2)),
        256: ((64, 32, 8, 2), (64, 64, 8, 1)),
    },
}
_EVEN_FORWARD = (128, 64, 4, 2)  # of 128 numbers, where all blocks have the same work
# and with instructions of one warp, whose operands are in registers
_FOR_WARPS: dict[str, dict[int, Blocks]] = {
    "forward": {
        64: ((64, 128, 4, 2), (128, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 2)),
        128: ((64, 64, 4, 3), (64, 32, 4, 2), (32, 32, 4, 1)),
        256: ((64, 64, 8, 2), (64, 32, 4, 2), (64, 32, 4, 1), (32, 16, 4, 1)),
    },
    "keys": {
        64: ((64, 128, 8, 2), (64, 64, 8, 2), (32, 64, 4, 2), (32, 32, 4, 1)),
        128: ((64, 64, 8, 2), (32, 64, 8, 2), (32, 32, 4, 2), (32, 32, 4, 1)),
        256: ((64, 64, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    },
    "queries": {
        64: ((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 1)),
        128: ((128, 64, 8, 2), (64, 32, 4, 2), (32, 32, 4, 2), (32, 32, 4, 1)),
        256: ((64, 64, 8, 1), (32, 32, 8, 1), (16, 16, 4, 1)),
    },
}


_MOST_HEADS, _L2_SHARE = 64, 32 << 20
_TURNS = {"keys": {64: 1, 128: 4}, "queries": {64: 16, 128: 8}}


def _groups(part: AttentionLaunch, numbers: int, options: CodegenOptions) -> tuple[int, ...]:
    """How many heads take turns, the best by what was measured first: more than one where blocks
    have unequal work. Forward, as many as have their keys and values in the L2 cache."""
    a = part.attention
    if a.upper is None or a.lower is not None:
        return (1,)
    columns = options.typical(a.columns) or 1024
    bytes_of_head = 2 * columns * (a.depth + a.width)
    most = max(1, min(_MOST_HEADS, _L2_SHARE // bytes_of_head))
    group = 1 << (most.bit_length() - 1)
    if part.launch != "forward":
        group = min(group, _TURNS[part.launch][min(numbers, 128)])
    return tuple(dict.fromkeys((group, 1, max(1, group // 4))))


def attention_candidates(
    part: AttentionLaunch, options: CodegenOptions, most: int
) -> list[AttentionSchedule]:
    """At most so many schedules that fit, the one by rule of thumb first.

    LookupError where the target has no room for the smallest blocks.
    """
    a, target = part.attention, target_facts(options.target)
    numbers = max(64, padded(a.depth), padded(a.width))
    tma = target.tma and target.warp_groups and is_described(a)
    blocks = _FOR_WARP_GROUPS if target.warp_groups else _FOR_WARPS
    groups = _groups(part, numbers, options)
    shapes = blocks[part.launch][numbers]
    if blocks is _FOR_WARP_GROUPS and part.launch == "forward" and numbers == 128:
        shapes = shapes if groups[0] > 1 else (_EVEN_FORWARD, *shapes)
    found: dict[AttentionSchedule, None] = {}  # each once
    for group in groups:
        for rows, columns, warps, stages in shapes:
            schedule = AttentionSchedule(rows, columns, warps, stages, tma, group)
            if _has_room(schedule, a, part.launch, target):
                found[schedule] = None
    if not found:
        raise LookupError(f"no blocks of heads of {numbers} numbers fit {options.target}")
    return list(found)[:most]
