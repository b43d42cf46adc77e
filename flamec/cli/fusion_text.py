"""Kernels, fusion groups and fusion decisions of a program, as text and as data."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flamec.cli.source_lines import describe_place
from flamec.ir.kernel import print_kernel
from flamec.ir.plan import Step
from flamec.ir.shape import Dim, format_dim
from flamec.prepared import Prepared


def fusion_lines(prepared: Prepared) -> list[str]:
    """The kernels with what each holds, then the pairs that were fused and those that were not."""
    made, refused = (decision_lines(prepared, made) for made in (True, False))
    return [
        *group_lines(prepared),
        "",
        "fused:",
        *(f"  {line}" for line in made or ["none"]),
        "",
        "not fused:",
        *(f"  {line}" for line in refused or ["none"]),
    ]


def fusion_data(prepared: Prepared) -> dict[str, Any]:
    """The same as JSON."""
    return {"groups": group_data(prepared), "decisions": decision_data(prepared)}


def group_lines(prepared: Prepared) -> list[str]:
    """A line for each kernel, with the user's lines that it does the work of."""
    lines = []
    for step in prepared.compiled.plan.steps:
        lines.append(f"{step.name} ({step.kind}): {', '.join(step.operations)}")
        lines += [f"  # {describe_place(place)}" for place in step.locations]
    return lines


def group_data(prepared: Prepared) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [step_data(step) for step in prepared.compiled.plan.steps]


def step_data(step: Step) -> dict[str, Any]:
    """A step of a plan as JSON; symbolic sizes are texts."""
    return {
        "name": step.name,
        "kind": step.kind,
        "operations": list(step.operations),
        "locations": list(step.locations),
        "source": [describe_place(place) for place in step.locations],
        "reads": list(step.reads),
        "writes": list(step.writes),
        "bytes_read": dim_data(step.bytes_read),
        "bytes_written": dim_data(step.bytes_written),
        "flops": dim_data(step.flops),
    }


def dim_data(dim: Dim) -> int | str:
    """A size as JSON: a number, or the text of a symbolic size."""
    return dim if isinstance(dim, int) else format_dim(dim)


def decision_lines(prepared: Prepared, made: bool) -> list[str]:
    """A line for each pair that was fused, or was not, with the reason; equal lines counted."""
    lines = Counter(
        f"{d.producer} -> {d.consumer}: {d.reason}"
        for d in prepared.compiled.decisions
        if d.made is made
    )
    return [line if count == 1 else f"{line} ({count} times)" for line, count in lines.items()]


def decision_data(prepared: Prepared) -> list[dict[str, Any]]:
    """The same as JSON, made or not."""
    return [
        {"producer": d.producer, "consumer": d.consumer, "made": d.made, "reason": d.reason}
        for d in prepared.compiled.decisions
    ]


def kernel_lines(prepared: Prepared) -> list[str]:
    """Every kernel in the Kernel IR, with the text of the user's lines."""
    lines: list[str] = []
    for kernel in prepared.compiled.kernels:
        for line in print_kernel(kernel).rstrip().splitlines():
            indent, mark, place = line.partition("# ")
            lines.append(f"{indent}# {describe_place(place)}" if mark else line)
        lines.append("")
    return lines[:-1]


def kernel_data(prepared: Prepared) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "kernels": [
            {
                "name": kernel.name,
                "kind": kernel.kind,
                "operations": list(kernel.operations),
                "locations": list(kernel.locations),
                "text": print_kernel(kernel),
            }
            for kernel in prepared.compiled.kernels
        ]
    }
