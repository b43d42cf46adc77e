"""The stages of one compiled function, each as text for people and data for programs.

In: a function and example arguments. Out: an ``Inspection``, and ``stage_parts`` of it.
Nothing is run but the trace; the C compiler is called for the stage ``asm`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flamec.capture import Captured
from flamec.cli.console import table_lines
from flamec.cli.example_inputs import Example
from flamec.cli.fusion_text import fusion_data, fusion_lines, kernel_data, kernel_lines
from flamec.cli.graph_text import HiddenRange, graph_data, graph_lines
from flamec.cli.plan_text import plan_data, plan_lines
from flamec.cli.source_lines import describe_location
from flamec.cli.target import Target, user_code
from flamec.config import CompileOptions
from flamec.differentiable import DifferentiableProgram
from flamec.ir.graph import Graph
from flamec.prepared import Prepared
from flamec.runtime.cpu.compiler import compile_assembly, find_compiler
from flamec.split_program import SplitProgram

STAGES = ("trace", "grad", "autocast", "optimized", "fused", "kernel", "plan", "source", "asm")


@dataclass(frozen=True)
class Inspection:
    """What a function became.

    ``joint`` is the graph with its gradients where autograd continues outside of the
    function; ``parts`` are the programs by title ("" if there is one only); ``sizes`` are the
    values of symbols where they are not only those of the trace.
    """

    captured: Captured
    joint: Graph | None
    parts: tuple[tuple[str, Prepared], ...]
    sizes: Mapping[str, int] | None = None

    @property
    def bindings(self) -> Mapping[str, int]:
        """The example's values of the symbolic sizes."""
        return self.captured.trace.oracle.hints if self.sizes is None else self.sizes


@dataclass(frozen=True)
class StagePart:
    """Text of a stage. ``language``: "ir", "c", "asm", "python" or "text"."""

    title: str
    language: str
    lines: tuple[str, ...]
    data: Any

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def inspect(target: Target, example: Example, options: CompileOptions) -> Inspection:
    """Trace the function for the example arguments; CommandFailed if that fails."""
    function = target.fresh(replace(options, backend="evaluate"))
    with user_code(f"tracing {target.name}"):
        program = function.compile_variant(example.args, example.kwargs)
    last = program.final if isinstance(program, SplitProgram) else program
    parts = tuple(program.parts)
    if isinstance(last, DifferentiableProgram):
        return Inspection(last.original, last.joint, parts)
    return Inspection(program.captured, None, parts)


def stage_parts(inspection: Inspection, stage: str) -> list[StagePart]:
    """One stage, a part for each program."""
    return _STAGES[stage](inspection)


def backward_ranges(captured: Captured) -> list[HiddenRange]:
    """The nodes that each ``backward()`` call in the function gave rise to."""
    ranges = []
    for start, stop, location in captured.trace.backward.calls:
        where = f"{describe_location(location)} -> " if location is not None else "backward: "
        ranges.append((start, stop, f"{where}{stop - start} gradient nodes, see stage grad"))
    return ranges


def _trace(inspection: Inspection) -> list[StagePart]:
    graph = inspection.captured.graph
    hidden = backward_ranges(inspection.captured)
    data = graph_data(graph, hidden)
    return [StagePart("trace", "ir", tuple(graph_lines(graph, hidden)), data)]


def _grad(inspection: Inspection) -> list[StagePart]:
    graph = inspection.joint or inspection.captured.graph
    return [StagePart("grad", "ir", tuple(graph_lines(graph)), graph_data(graph))]


def _autocast(inspection: Inspection) -> list[StagePart]:
    return [
        _part("autocast", title, "ir", graph_lines(graph), graph_data(graph))
        for title, prepared in inspection.parts
        for graph in (prepared.after("autocast"),)
    ]


def _optimized(inspection: Inspection) -> list[StagePart]:
    parts = []
    for title, prepared in inspection.parts:
        records = [
            {
                "pass": r.name,
                "seconds": r.seconds,
                "nodes_before": r.nodes_before,
                "nodes_after": r.nodes_after,
                "changed": r.changed,
            }
            for r in prepared.pass_records
        ]
        graph = prepared.optimized
        parts.append(_part("passes", title, "text", pass_table(prepared), {"passes": records}))
        parts.append(_part("optimized", title, "ir", graph_lines(graph), graph_data(graph)))
    return parts


def pass_table(prepared: Prepared) -> list[str]:
    """Every run of a pass: time, nodes before and after, and whether it changed anything."""
    rows = [
        (
            r.name,
            f"{r.seconds * 1e3:.2f}",
            r.nodes_before,
            r.nodes_after,
            "" if r.changed else "unchanged",
        )
        for r in prepared.pass_records
    ]
    return table_lines(
        ("pass", "ms", "before", "after", ""), rows, numeric=("ms", "before", "after")
    )


def _fused(inspection: Inspection) -> list[StagePart]:
    return [
        _part("fused", title, "ir", fusion_lines(prepared), fusion_data(prepared))
        for title, prepared in inspection.parts
    ]


def _kernel(inspection: Inspection) -> list[StagePart]:
    return [
        _part("kernel", title, "ir", kernel_lines(prepared), kernel_data(prepared))
        for title, prepared in inspection.parts
    ]


def _plan(inspection: Inspection) -> list[StagePart]:
    parts = []
    for title, prepared in inspection.parts:
        plan = prepared.compiled.plan
        lines = plan_lines(plan, inspection.bindings)
        parts.append(_part("plan", title, "text", lines, plan_data(plan, inspection.bindings)))
    return parts


def _source(inspection: Inspection) -> list[StagePart]:
    parts = []
    for title, prepared in inspection.parts:
        text = prepared.compiled.plan.source
        parts.append(_part("source", title, "c", text.splitlines(), {"source": text}))
    return parts


def _asm(inspection: Inspection) -> list[StagePart]:
    parts = []
    for title, prepared in inspection.parts:
        compiler = find_compiler(prepared.options.c_compiler)
        text = compile_assembly(compiler, prepared.compiled.plan.source)
        data = {"assembly": text, "compiler": compiler.name}
        parts.append(_part("asm", title, "asm", text.splitlines(), data))
    return parts


def _part(
    stage: str, title: str, language: str, lines: Sequence[str], data: Mapping[str, Any]
) -> StagePart:
    name = f"{stage} ({title})" if title else stage
    return StagePart(name, language, tuple(lines), {"program": title or "main", **data})


_STAGES: dict[str, Callable[[Inspection], list[StagePart]]] = {
    "trace": _trace,
    "grad": _grad,
    "autocast": _autocast,
    "optimized": _optimized,
    "fused": _fused,
    "kernel": _kernel,
    "plan": _plan,
    "source": _source,
    "asm": _asm,
}
