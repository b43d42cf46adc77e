"""What the page of ``flamec dump --html`` shows, as data.

In: an ``Inspection``, and perhaps the events of a profile. Out: JSON. Invariants: nodes, kernels
and buffers are named by their positions in their lists; everything is there, so that the page
needs no other file and no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from time import perf_counter
from typing import Any

from flamec.cli.fusion_text import count_operations
from flamec.cli.gpu_stages import gpu_program, gpu_stage_parts, launched_kernels
from flamec.cli.graph_text import type_data
from flamec.cli.size_class_parts import is_on_gpu, with_size_classes
from flamec.cli.source_lines import describe_place, source_text
from flamec.cli.stages import Inspection, stage_parts
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.kernel import Kernel
from flamec.ir.kernel_printer import print_kernel
from flamec.ir.passes.live_ranges import live_ranges
from flamec.ir.passes.plan_memory import accesses_of, memory_use, plan_memory
from flamec.ir.plan import ExecutionPlan, Step
from flamec.ir.printer import format_attribute
from flamec.ir.shape import Dim, evaluate_dim
from flamec.ir.work import node_work
from flamec.prepared import Prepared, options_for_gpu
from flamec.profiler.averages import averages
from flamec.profiler.events import Event, lanes
from flamec.profiler.peaks import device_peaks

_STAGES = ("trace", "grad", "autocast", "optimized", "fused", "kernel", "plan", "source")
_ROW = re.compile(r"\{(\d+), 0, (\w+), \d+\}")  # a step that others are, too
_FUNCTION = re.compile(
    r"^(?:static )?(?:inline )?(?:__attribute__\(\([\w, ]*\)\) )?[\w ]*?\b(\w+)\(", re.MULTILINE
)
_CALLED = re.compile(r"\b((?:loop|product|scalars|steps)_\d+\w*)\b")
_TEXT_LIMIT = 400  # characters of an attribute


def page_data(
    inspection: Inspection,
    function: str,
    origin: str,
    events: Sequence[Event] = (),
    target: str = "",
) -> dict[str, Any]:
    """Everything; ``function`` and ``origin`` say what was inspected with which arguments.

    ``target``: the GPU to show kernels for, such as ``"sm_90"``; without one those of the device
    that the function's tensors are on.
    """
    if target or is_on_gpu(inspection):
        inspection = with_size_classes(inspection, target or "c")
    stages = {name: stage_parts(inspection, name) for name in _STAGES}
    if target:
        stages["triton"] = gpu_stage_parts(inspection, "triton", target)
    return {
        "function": function,
        "inputs": origin,
        "sizes": dict(inspection.bindings),
        "programs": [
            _program(inspection, title, prepared, target, shares(events))
            for title, prepared in inspection.parts
        ],
        "stages": {
            name: [
                {"title": part.title, "language": part.language, "text": part.text}
                for part in parts
            ]
            for name, parts in stages.items()
        },
        "profile": _profile(events),
    }


def shares(events: Sequence[Event]) -> dict[str, float]:
    """The share of the roofline of each kernel that was run, by program and name."""
    found = {}
    for row in averages(events):
        if row.kind == "kernel":
            share = row.roofline_share(device_peaks(row.device))
            if share is not None:
                found[row.key] = share
    return found


def _program(
    inspection: Inspection,
    title: str,
    prepared: Prepared,
    target: str,
    share: Mapping[str, float],
) -> dict[str, Any]:
    passes = [
        {
            "name": r.name,
            "seconds": r.seconds,
            "before": r.nodes_before,
            "after": r.nodes_after,
            "changed": r.changed,
        }
        for r in prepared.pass_records
    ]
    start = perf_counter()
    compiled = (
        gpu_program(prepared, options_for_gpu(target, prepared.options))
        if target
        else prepared.compiled
    )
    seconds = perf_counter() - start
    passes.append(
        {"name": "fuse, lower, emit", "seconds": seconds, "before": 0, "after": 0, "changed": True}
    )
    nodes = _Nodes(inspection.bindings, compiled.bodies)
    nodes.add(compiled.graph, ())
    kernels_of: dict[int, list[int]] = {}
    nodes_of: list[list[int]] = []
    for number, group in enumerate(compiled.groups):
        origins = {node for task in group.tasks for node in task.origins}
        found = {nodes.number[node] for node in origins if node in nodes.number}
        nodes_of.append(sorted(found))
        for node in found:
            kernels_of.setdefault(node, []).append(number)
    for position, data in enumerate(nodes.data):
        data["kernels"] = kernels_of.get(position, [])
    plan = compiled.plan
    kernels = [
        _kernel(step, inspection.bindings)
        | {
            "nodes": nodes_of[number] if number < len(nodes_of) else [],
            "text": _kernel_text(compiled.kernels[number]) if number < len(nodes_of) else "",
        }
        for number, step in enumerate(plan.steps)
    ]
    functions, used = _functions(plan, inspection.bindings)
    for number, kernel in enumerate(kernels):
        kernel["functions"] = used.get(number, [])
        kernel["share"] = share.get(f"{compiled.graph.name}/{kernel['name']}")
    return {
        "title": title or "program",
        "name": compiled.graph.name,
        "nodes": nodes.data,
        "kernels": kernels,
        "functions": functions,
        "passes": passes,
        "memory": _memory(plan, inspection.bindings),
    }


class _Nodes:
    """The nodes of a graph and of the bodies in it, and of its inputs, as JSON.

    ``bodies``: those that loops and branches were compiled with.
    """

    def __init__(
        self, sizes: Mapping[str, int], bodies: Mapping[Node, Mapping[str, Graph]]
    ) -> None:
        self._bodies = bodies
        self.data: list[dict[str, Any]] = []
        self.number: dict[Node | None, int] = {}
        self._sizes = sizes
        self._values: dict[Value, int] = {}

    def add(self, graph: Graph, around: tuple[str, ...]) -> None:
        """Add inputs and nodes; ``around`` is where they are shown."""
        for value in graph.inputs:
            self._values[value] = len(self.data)
            self.data.append(
                {
                    "op": "input",
                    "name": value.name or "",
                    "module": [*around, "inputs"],
                    "inputs": [],
                    "outputs": [_type_text(value)],
                    "bytes": 0,
                    "flops": 0,
                }
            )
        for node in graph.nodes:
            self._add_node(node, around)

    def _add_node(self, node: Node, around: tuple[str, ...]) -> None:
        number = self.number[node] = len(self.data)
        for value in node.outputs:
            self._values[value] = number
        moved, computed = node_work(node)
        module = [*around, *_box(node)]
        self.data.append(
            {
                "op": node.op.name,
                "kind": node.op.kind.value,
                "module": module,
                "inputs": [self._values[v] for v in node.inputs],
                "outputs": [_type_text(v) for v in node.outputs],
                "attributes": {
                    k: format_attribute(v)[:_TEXT_LIMIT]
                    for k, v in node.attributes.items()
                    if not isinstance(v, Graph)
                },
                "bytes": self._value(moved),
                "flops": self._value(computed),
                "line": None if node.location is None else _line(node),
            }
        )
        for name, body in self._bodies.get(node, node.bodies).items():
            self.add(body, (*module, f"{node.op.name} {name} {number}"))

    def _value(self, dim: Dim) -> int:
        return evaluate_dim(dim, self._sizes)


def _box(node: Node) -> list[str]:
    """Where a node is shown: in its module, else with the others of its line."""
    if node.scope or node.location is None:
        return [part for part in node.scope.split(".") if part]
    return [f"{PurePath(node.location.file).name}:{node.location.line}"]


def _line(node: Node) -> dict[str, Any]:
    location = node.location
    assert location is not None
    return {
        "file": PurePath(location.file).name,
        "path": location.file,
        "line": location.line,
        "function": location.function.rpartition(".")[2],
        "text": source_text(location),
    }


def _type_text(value: Value) -> str:
    data = type_data(value.type)
    return f"{data['dtype']}[{', '.join(map(str, data['shape']))}]"


def _kernel(step: Step, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {
        "name": step.name,
        "kind": step.kind,
        "operations": count_operations(step.operations),
        "read": evaluate_dim(step.bytes_read, sizes),
        "written": evaluate_dim(step.bytes_written, sizes),
        "flops": evaluate_dim(step.flops, sizes),
        "lines": [describe_place(place) for place in step.locations],
        "modules": list(step.modules),
    }


def _kernel_text(kernel: Kernel) -> str:
    """The Kernel IR without the user's lines, which stand beside it."""
    lines = print_kernel(kernel).splitlines()
    return "\n".join(line for line in lines if not line.startswith("  # "))


def _functions(
    plan: ExecutionPlan, sizes: Mapping[str, int]
) -> tuple[dict[str, str], dict[int, list[str]]]:
    """The texts of a program's functions by name, and for each step those that it is made of."""
    if plan.language == "triton":
        texts = {f"{k.function} ({number})": k.text for number, k in enumerate(plan.kernels)}
        names = list(texts)
        launched = launched_kernels(plan, sizes)
        return texts, {step: [names[k] for k in used] for step, used in launched.items()}
    functions = _c_functions(plan.source)
    numbers = plan.notes.get("functions", ())
    shared = {int(number): name for number, name in _ROW.findall(plan.source)}
    return functions, {
        i: _used(functions, shared.get(number, f"step_{number}"))
        for i, number in enumerate(numbers)
    }


def _c_functions(source: str) -> dict[str, str]:
    """The functions of a C program by name, in their order, with the comments before them."""
    found: dict[str, str] = {}
    comment = ""
    start = source.index("/* Bytes of private memory")
    for block in re.split(r"\n(?=static |int64_t |/\*)", source[start:]):
        name = _FUNCTION.search(block)
        if block.startswith("/*") and "\nstatic" not in block and "\nint64_t" not in block:
            comment = block + "\n"
        elif name is not None:
            found[name[1]] = comment + block.strip()
            comment = ""
    return found


def _used(functions: Mapping[str, str], name: str) -> list[str]:
    """A step's function and, before it, those that it calls, directly or not."""
    found: dict[str, None] = {}
    pending = [name]
    while pending:
        caller = pending.pop()
        if caller not in found:
            found[caller] = None
            pending += [m for m in _CALLED.findall(functions[caller]) if m in functions]
    return [*reversed(found)]


def _memory(plan: ExecutionPlan, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The arena: which buffer lies where from which step to which."""
    layout = plan_memory(plan, sizes)
    first, last = live_ranges(*accesses_of(plan, sizes))
    blocks = [
        {
            "buffer": buffer,
            "name": plan.buffers[buffer].name,
            "type": plan.buffers[buffer].dtype.name,
            "offset": offset,
            "bytes": evaluate_dim(plan.buffers[buffer].bytes, sizes),
            "first": first[buffer],
            "last": last[buffer],
        }
        for buffer, offset in sorted(layout.offsets.items())
    ]
    use = memory_use(plan, sizes)
    return {
        "peak": layout.peak_bytes,
        "blocks": blocks,
        "steps": len(plan.steps),
        "inputs": use.inputs,
        "outputs": use.outputs,
        "lent": len(layout.guests),
    }


def _profile(events: Sequence[Event]) -> list[dict[str, Any]]:
    """The lanes of a profile with their events; times in microseconds since the first."""
    start = min((e.start for e in events), default=0)
    return [
        {"name": _lane_name(lane[0]), "events": list(_lane_events(lane, start))}
        for lane in lanes(events)
    ]


def _lane_name(event: Event) -> str:
    if event.device == "cpu":
        return f"cpu, thread {event.thread}"
    return f"{event.device}, stream {event.stream:#x}"


def _lane_events(lane: Sequence[Event], start: int) -> Iterator[dict[str, Any]]:
    """With the depth at which they are nested."""
    ends: list[int] = []
    for event in lane:
        while ends and ends[-1] <= event.start:
            ends.pop()
        yield {
            "name": event.name,
            "kind": event.kind,
            "start": (event.start - start) / 1e3,
            "length": (event.end - event.start) / 1e3,
            "depth": len(ends),
            "bytes": event.moved,
            "flops": event.flops,
        }
        ends.append(event.end)
