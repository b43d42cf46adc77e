"""What a program is predicted to take of memory, what waits in it and what is computed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from flamec.cli.console import format_bytes
from flamec.cli.source_lines import describe_place
from flamec.ir.passes.plan_memory import memory_use
from flamec.ir.plan import ExecutionPlan


def memory_lines(plan: ExecutionPlan, bindings: Mapping[str, int]) -> list[str]:
    """The predicted bytes of a call; with a memory budget below 1 what it led to, and why."""
    use = memory_use(plan, bindings)
    lines = [
        f"{format_bytes(use.total)} while the program runs: inputs {format_bytes(use.inputs)}, "
        f"outputs {format_bytes(use.outputs)}, arena {format_bytes(use.arena)}"
    ]
    memory = plan.notes.get("memory")
    if memory is None:
        return lines
    peaks, chosen = memory["peaks"], memory["chosen"]
    lines.append(
        f"arena {format_bytes(peaks[chosen])}, between {format_bytes(peaks[0])} with nothing "
        f"computed again and {format_bytes(peaks[-1])}, the least of {len(peaks)} programs"
    )
    again = Counter((name, type, place, size) for name, type, place, size in memory["repeated"])
    lines += [
        f"computed again: {_counted(count)}{name} {type}, {format_bytes(size)}{_at(place)}"
        for (name, type, place, size), count in again.items()
    ]
    kept = Counter(
        (name, type, place, size, why) for name, type, place, size, why in memory["kept"]
    )
    lines += [
        f"kept at the peak: {_counted(count)}{name} {type}, {format_bytes(size)}{_at(place)}: {why}"
        for (name, type, place, size, why), count in kept.items()
    ]
    return lines


def memory_data(plan: ExecutionPlan, bindings: Mapping[str, int]) -> dict[str, Any]:
    """The same as JSON, bytes."""
    use = memory_use(plan, bindings)
    return {**use._asdict(), "total": use.total, **plan.notes.get("memory", {})}


def _counted(count: int) -> str:
    return f"{count} x " if count > 1 else ""


def _at(place: str) -> str:
    return f"  # {describe_place(place)}" if place else ""
