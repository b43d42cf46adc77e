"""An execution plan as tables and as data: steps, buffers, bytes, the arena's peak.

Symbolic sizes are shown as they are and, in totals, evaluated for the example's sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flamec.cli.console import format_bytes, table_lines
from flamec.cli.fusion_text import count_operations
from flamec.cli.memory_text import memory_data, memory_lines
from flamec.cli.source_lines import describe_place
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan, MemoryLayout
from flamec.ir.shape import Dim, evaluate_dim, format_dim

_STEPS = ("", "kernel", "kind", "reads", "writes", "bytes read", "bytes written", "operations")
_BUFFERS = ("", "buffer", "kind", "dtype", "elements", "bytes", "arena offset")


def plan_lines(plan: ExecutionPlan, bindings: Mapping[str, int]) -> list[str]:
    """Totals, then a table of steps, then one of buffers."""
    layout = plan_memory(plan, bindings)
    sizes = "".join(f", {s} = {bindings[s]}" for s in plan.symbols)
    totals = plan_totals(plan, layout, bindings)
    lines = [
        f"{totals['kernels']} kernels, {format_bytes(totals['bytes_moved'])} moved, "
        f"arena {format_bytes(totals['arena_bytes'])}{sizes}",
        *memory_lines(plan, bindings),
        "",
    ]
    lines += table_lines(_STEPS, _step_rows(plan), numeric=("bytes read", "bytes written"))
    lines += ["", *_step_sources(plan), ""]
    rows = [_buffer_row(i, plan, layout) for i in range(len(plan.buffers))]
    lines += table_lines(_BUFFERS, rows, numeric=("elements", "bytes", "arena offset"))
    if plan.errors:
        lines += ["", "errors:", *(f"  {i}: {e}" for i, e in enumerate(plan.errors, 1))]
    return lines


def plan_totals(
    plan: ExecutionPlan, layout: MemoryLayout, bindings: Mapping[str, int]
) -> dict[str, int]:
    """Kernels, bytes moved and arena size for one choice of sizes."""
    return {
        "kernels": plan.kernel_count,
        "bytes_moved": evaluate_dim(plan.bytes_moved(), bindings),
        "arena_bytes": layout.peak_bytes,
    }


def plan_data(plan: ExecutionPlan, bindings: Mapping[str, int]) -> dict[str, Any]:
    """The plan as JSON, without its source text."""
    layout = plan_memory(plan, bindings)
    data: dict[str, Any] = json.loads(plan.to_json())
    del data["source"]
    for step in data["steps"]:
        step["source"] = [describe_place(place) for place in step["locations"]]
    offsets = {str(buffer): offset for buffer, offset in sorted(layout.offsets.items())}
    guests = {
        str(buffer): {"output": lender, "offset": offset}
        for buffer, (lender, offset) in sorted(layout.guests.items())
    }
    places = {"arena_offsets": offsets, "in_outputs": guests}
    totals = plan_totals(plan, layout, bindings)
    return {**data, **totals, "memory": memory_data(plan, bindings), **places}


def _step_rows(plan: ExecutionPlan) -> list[tuple[str, ...]]:
    return [
        (
            str(number),
            step.name,
            step.kind,
            _names(plan, step.reads),
            _names(plan, step.writes),
            dim_text(step.bytes_read),
            dim_text(step.bytes_written),
            _shorten(count_operations(step.operations)),
        )
        for number, step in enumerate(plan.steps)
    ]


def _step_sources(plan: ExecutionPlan) -> list[str]:
    return [
        f"# {step.name}: {describe_place(place)}" for step in plan.steps for place in step.locations
    ]


def _names(plan: ExecutionPlan, buffers: tuple[int, ...]) -> str:
    return _shorten(" ".join(plan.buffers[b].name for b in buffers), 40)


def _buffer_row(position: int, plan: ExecutionPlan, layout: MemoryLayout) -> tuple[str, ...]:
    buffer = plan.buffers[position]
    place: object = layout.offsets.get(position, "")
    if position in layout.guests:
        lender, offset = layout.guests[position]
        place = f"in {plan.buffers[lender].name}: {offset}"
    return (
        str(position),
        buffer.name,
        buffer.kind,
        buffer.dtype.name,
        dim_text(buffer.elements),
        dim_text(buffer.bytes),
        str(place),
    )


def dim_text(dim: Dim) -> str:
    """A size with separators, or the text of a symbolic size."""
    return f"{dim:,}" if isinstance(dim, int) else format_dim(dim)


def _shorten(text: str, limit: int = 70) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
