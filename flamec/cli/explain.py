"""``flamec explain``: why a function was compiled as it was, and how often.

The function is called with its example arguments, then with those of ``flamec_calls()`` if
the file has it, else with two other batch sizes, to show what a new size costs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from flamec.cli import example_inputs, target
from flamec.cli.console import format_seconds, make_console, print_heading, print_json, table_lines
from flamec.cli.example_inputs import Example, as_example
from flamec.cli.failure import CommandFailed
from flamec.cli.fusion_text import (
    decision_data,
    fused_lines,
    group_data,
    group_lines,
    not_fused_lines,
)
from flamec.cli.memory_text import memory_data, memory_lines
from flamec.cli.stages import backward_ranges
from flamec.cli.target import Target, user_code
from flamec.compiled_function import CompiledFunction, Variant
from flamec.prepared import Prepared
from flamec.sized_runner import planned
from flamec.structures import flatten, unflatten
from flamec.tensor import Tensor

_SHOWN = 40
_INSTEAD_OF_SPLITS = (
    "flamec.cond or flamec.where for a branch and flamec.while_loop for a loop keep one program"
)


@dataclass
class CallRecord:
    """One call: what it was, what it led to, how long was compiled for it."""

    label: str
    outcome: str
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0


def explain(
    function: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help=target.HELP)],
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", help=example_inputs.HELP)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show long lists of guards and fusions in full.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
) -> None:
    """Say what was traced, assumed, fused and not fused, and why it was compiled again.

    FUNCTION is really called: with its example arguments, and with those that a function
    flamec_calls() in the file yields; without one, with two more batch sizes.
    """
    found = target.load_target(function)
    example = example_inputs.example_inputs(found, input or ())
    compiled = found.fresh()
    records = [run_call(compiled, call) for call in calls_of(found, example)]
    if records[0].outcome.startswith("failed"):
        raise CommandFailed(f"{found.name} {records[0].outcome}")
    programs = compiled.programs[::-1]  # the oldest first
    if as_json:
        print_json(
            {
                "function": function,
                "calls": [vars(r) for r in records],
                "stats": _stats_data(compiled),
                "programs": [program_data(p) for p in programs],
            }
        )
        return
    console = make_console()
    print_heading(console, "calls")
    rows = [
        (r.label, r.outcome, format_seconds(r.seconds) if r.seconds else "", "; ".join(r.reasons))
        for r in records
    ]
    heads = ("call", "", "compiling", "why compiled again")
    _print_lines(console, table_lines(heads, rows, ("compiling",)))
    for number, program in enumerate(programs):
        console.print()
        print_heading(console, f"program {number + 1} of {len(programs)}")
        _print_program(console, program, everything)


def calls_of(found: Target, example: Example) -> Iterator[tuple[str, Example]]:
    """The calls to make, lazily: a later one may depend on what an earlier one changed."""
    yield describe_arguments(example), example
    generate = getattr(found.module, "flamec_calls", None)
    if generate is not None:
        with user_code("flamec_calls()"):
            for value in generate():
                call = as_example(value, "flamec_calls()")
                yield describe_arguments(call), call
        return
    for extra in (1, 2):
        other = with_batch(example, extra)
        if other is not None:
            yield describe_arguments(other), other


def run_call(function: CompiledFunction, call: tuple[str, Example]) -> CallRecord:
    """Make one call and tell what it led to; an exception of the function is an outcome."""
    label, example = call
    stats = function.stats
    traces, failures, seconds = stats.traces, len(stats.guard_failures), stats.compile_seconds
    runs, classes = stats.python_runs, stats.size_classes
    try:
        with warnings.catch_warnings(), user_code(label):
            warnings.simplefilter("ignore", RuntimeWarning)
            function(*example.args, **example.kwargs)
    except CommandFailed as error:
        return CallRecord(label, f"failed: {str(error).splitlines()[-1]}")
    reasons = [f.reason for f in stats.guard_failures[failures:]]
    outcome = "ran a program that was there" if stats.traces == traces else "traced and compiled"
    if stats.traces == traces and stats.size_classes > classes:
        outcome = "made code for a class of sizes"
    if stats.python_runs > runs:
        outcome = "ran the Python code, and what it computes compiled"
        reasons += function.effects[:1]
    return CallRecord(label, outcome, reasons, stats.compile_seconds - seconds)


def with_batch(example: Example, extra: int) -> Example | None:
    """The example with ``extra`` more rows in each tensor that shares the first one's batch."""
    leaves, structure = flatten((example.args, example.kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors or int(tensors[0].shape[0]) == 0:
        return None
    batch = int(tensors[0].shape[0])
    changed = [
        _longer(leaf, extra)
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] == batch
        else leaf
        for leaf in leaves
    ]
    args, kwargs = unflatten(structure, iter(changed))
    return Example(args, kwargs, "another batch size")


def _longer(tensor: Tensor, extra: int) -> Tensor:
    array = tensor._array
    assert array is not None
    rows = np.arange(len(array) + extra) % len(array)
    result = Tensor._from_array(array[rows])
    result._requires_grad = tensor._requires_grad
    return result


def describe_arguments(example: Example) -> str:
    """``x: float32[16, 10], 0.5``: types of tensors, other values as they are."""
    parts = [_argument_text(a) for a in example.args]
    parts += [f"{k}={_argument_text(v)}" for k, v in example.kwargs.items()]
    return f"({', '.join(parts)})"


def _argument_text(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(value._type)
    text = repr(value)
    return text if len(text) <= 30 else f"<{type(value).__name__}>"


# programs ----------------------------------------------------------------------------
def guard_lines(program: Variant) -> list[str]:
    """What the program assumes, in words, without repetitions."""
    return list(dict.fromkeys(c.description for c in program.check.conditions))


def size_class_lines(prepared: Prepared) -> list[str]:
    """For which sizes there are programs on a GPU, and what each took."""
    return [
        f"{text}: {len(p.plan.actions)} launches, {p.kernels_compiled} kernels compiled, "
        f"{p.kernels_from_cache} from the cache, {format_seconds(sum(p.seconds.values()))}"
        for text, p in prepared.sized.items()
        if p.plan is not None
    ]


def _hints(program: Variant) -> Mapping[str, int]:
    """The sizes that the program was traced with."""
    return program.captured.trace.oracle.hints


def _sources(program: Variant) -> list[tuple[str, str, str]]:
    """(origin, name, type) of each input of the graph."""
    captured = program.captured
    rows = []
    for value, source in zip(captured.graph.inputs, captured.sources, strict=True):
        origin = {"argument": "argument", "captured": "captured tensor", "base": "shared memory"}
        kind = origin.get(source.kind, "Python number")
        if source.position >= 0 and source.path:
            kind = "tensor of Python's state"
        rows.append((kind, source.name or value.name or "", str(value.type)))
    return rows


def _print_program(console: Console, program: Variant, everything: bool) -> None:
    captured = program.captured
    graph = captured.graph
    sizes = f"; symbolic sizes: {', '.join(captured.symbols)}" if captured.symbols else ""
    updates = f", {len(graph.updates)} updated in place" if graph.updates else ""
    _print_lines(
        console,
        [
            f"traced: {len(graph.nodes)} operations, {len(graph.inputs)} inputs{updates}, "
            f"{len(graph.outputs)} outputs{sizes}",
            *(f"  {comment}" for _, _, comment in backward_ranges(captured)),
        ],
    )
    _print_section(console, "inputs", table_lines(("from", "name", "type"), _sources(program)))
    limit = None if everything else _SHOWN
    if program.splits:
        _print_section(console, "splits", [str(s) for s in program.splits], limit)
        console.print(f"  {_INSTEAD_OF_SPLITS}")
    _print_section(console, "guards", guard_lines(program), limit)
    for title, prepared in program.parts:
        suffix = f" ({title})" if title else ""
        _print_section(console, f"kernels{suffix}", group_lines(prepared))
        if prepared.sized:
            _print_section(console, f"classes of sizes{suffix}", size_class_lines(prepared), limit)
        found = planned(prepared, _hints(program))
        if found is not None:
            lines = memory_lines(*found)
            _print_section(console, f"memory{suffix}", lines, limit)
        _print_section(console, f"fused{suffix}", fused_lines(prepared), limit)
        _print_section(console, f"not fused{suffix}", not_fused_lines(prepared), limit)


def _print_section(
    console: Console, title: str, lines: list[str], limit: int | None = None
) -> None:
    shown = lines[:limit] or ["none"]
    if len(shown) < len(lines):
        shown.append(f"... and {len(lines) - len(shown)} more (--all shows them)")
    _print_lines(console, ["", f"{title}:", *(f"  {line}" for line in shown)])


def _print_lines(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(line, markup=False)


def program_data(program: Variant) -> dict[str, Any]:
    """A program as JSON."""
    captured = program.captured
    return {
        "operations": len(captured.graph.nodes),
        "symbols": list(captured.symbols),
        "inputs": [dict(zip(("from", "name", "type"), s, strict=True)) for s in _sources(program)],
        "updates": len(captured.graph.updates),
        "splits": [str(s) for s in program.splits],
        "guards": guard_lines(program),
        "kernels": {t or "main": group_data(p) for t, p in program.parts},
        "size_classes": {t or "main": [*p.sized] for t, p in program.parts},
        "fusion": {t or "main": decision_data(p) for t, p in program.parts},
        "memory": {
            t or "main": memory_data(*found)
            for t, p in program.parts
            if (found := planned(p, _hints(program))) is not None
        },
    }


def _stats_data(function: CompiledFunction) -> dict[str, Any]:
    stats = function.stats
    return {**vars(stats), "guard_failures": [str(f) for f in stats.guard_failures]}
