"""Kernels, fusion groups and fusion decisions of a program, as text and as data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from flamec.cli.source_lines import describe_place
from flamec.ir.kernel_printer import print_kernel
from flamec.ir.passes.fusion_groups import FusionDecision, FusionGroup
from flamec.ir.passes.recognize_attention import attention_decisions
from flamec.ir.plan import Step
from flamec.ir.shape import Dim, format_dim
from flamec.prepared import Prepared, graph_device

_FOLDERS = re.compile(r"(?<=\()[^()]*/")  # of the files that a decision names in parentheses


def fusion_lines(prepared: Prepared) -> list[str]:
    """The kernels with what each holds, then the pairs that were fused and those that were not."""
    return [
        *group_lines(prepared),
        "",
        "fused:",
        *(f"  {line}" for line in fused_lines(prepared) or ["none"]),
        "",
        "not fused:",
        *(f"  {line}" for line in not_fused_lines(prepared) or ["none"]),
    ]


def fusion_data(prepared: Prepared) -> dict[str, Any]:
    """The same as JSON."""
    return {"groups": group_data(prepared), "decisions": decision_data(prepared)}


def group_lines(prepared: Prepared) -> list[str]:
    """A line for each kernel, with the user's lines that it does the work of."""
    compiled = prepared.compiled
    groups = {i: _group_text(group) for i, group in enumerate(compiled.groups)}
    lines = []
    for number, step in enumerate(compiled.plan.steps):
        content = groups.get(number) or count_operations(step.operations)
        lines.append(f"{step.name} ({step.kind}): {content}")
        lines += [f"  # {describe_place(place)}" for place in step.locations]
    return lines


def _group_text(group: FusionGroup) -> str:
    """``anchor dot_general; epilogue add, exp``, or the operations where there is no anchor."""
    anchor = group.anchor
    if anchor is None:
        text = count_operations([name for t in group.tasks for name in t.names])
    else:
        parts = {
            "prologue": [name for t in group.prologue for name in t.names],
            "anchor": [anchor.name],
            "epilogue": [name for t in group.epilogue for name in t.names],
        }
        text = "; ".join(f"{k} {count_operations(v)}" for k, v in parts.items() if v)
    segments = len(group.segments)
    return f"{text} ({segments} loops side by side)" if segments > 1 else text


def count_operations(names: Sequence[str]) -> str:
    """``add, mul x3``: each operation once, in order of appearance, with its number."""
    counted = Counter(names).items()
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in counted)


def group_data(prepared: Prepared) -> list[dict[str, Any]]:
    """The same as JSON."""
    groups = prepared.compiled.groups
    rows = []
    for number, step in enumerate(prepared.compiled.plan.steps):
        row = step_data(step)
        if number < len(groups):
            group = groups[number]
            row["anchor"] = group.anchor.name if group.anchor else None
            row["prologue"] = [name for t in group.prologue for name in t.names]
            row["epilogue"] = [name for t in group.epilogue for name in t.names]
            row["segments"] = len(group.segments)
        rows.append(row)
    return rows


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


def decisions_of(prepared: Prepared) -> list[FusionDecision]:
    """What was fused and what was not: attention, as a whole, then kernels with one another."""
    found = []
    if graph_device(prepared.graph).type == "cuda":
        for decision in attention_decisions(prepared.after("eliminate_transfers")):
            place = f" ({decision.node.location})" if decision.node.location else ""
            reason = decision.reason if decision.made else f"not attention: {decision.reason}"
            product = f"{decision.node.op.name}{place}"
            found.append(FusionDecision("softmax", product, decision.made, reason))
    return [*found, *prepared.compiled.decisions]


def fused_lines(prepared: Prepared) -> list[str]:
    """A line for each pair that was fused, with what that saves; equal lines are counted."""
    lines = Counter(f"{_pair(d)}: {d.reason}" for d in decisions_of(prepared) if d.made)
    return [_counted(line, count) for line, count in lines.items()]


def not_fused_lines(prepared: Prepared) -> list[str]:
    """The pairs that were not fused, by reason; equal lines are counted."""
    by_reason: dict[str, Counter[str]] = {}
    for decision in decisions_of(prepared):
        if not decision.made:
            by_reason.setdefault(decision.reason, Counter())[_pair(decision)] += 1
    lines = []
    for reason, pairs in by_reason.items():
        lines.append(f"{reason}:")
        lines += [f"  {_counted(pair, count)}" for pair, count in pairs.items()]
    return lines


def _pair(decision: FusionDecision) -> str:
    return _FOLDERS.sub("", f"{decision.producer} -> {decision.consumer}")


def _counted(line: str, count: int) -> str:
    return line if count == 1 else f"{line} ({count} times)"


def decision_data(prepared: Prepared) -> list[dict[str, Any]]:
    """The same as JSON, made or not."""
    return [
        {"producer": d.producer, "consumer": d.consumer, "made": d.made, "reason": d.reason}
        for d in decisions_of(prepared)
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
