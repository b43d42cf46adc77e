"""``flamec bench``: a function eager, compiled, and as its PyTorch twin, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from flamec.cli import example_inputs, target
from flamec.cli.compile_time import CompileTime, measure_compile
from flamec.cli.console import (
    format_bytes,
    format_seconds,
    make_console,
    make_table,
    print_json,
    print_table,
)
from flamec.cli.measures import Cost, latest_cost
from flamec.cli.timing import Timing, peak_allocation, time_calls
from flamec.cli.torch_twin import find_twin


def bench(
    function: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help=target.HELP)],
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", help=example_inputs.HELP)
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="How long each of eager, compiled, torch is timed.")
    ] = 2.0,
    compile_time: Annotated[
        bool, typer.Option(help="Measure compile times, in processes of their own.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
) -> None:
    """Time FUNCTION eager against compiled, and against torch.

    torch is timed where it is installed and the file has a function torch_FUNCTION (and,
    optionally, torch_inputs()). The function is called many times: a training step trains.
    """
    found = target.load_target(function)
    example = example_inputs.example_inputs(found, input or ())
    compiled = found.fresh()
    twin, note = find_twin(found, example)

    def call(f: Callable[..., Any]) -> Callable[[], Any]:
        return lambda: f(*example.args, **example.kwargs)

    calls = {"eager": call(compiled.function), "compiled": call(compiled)}
    if twin is not None:
        calls["torch"] = twin
    with target.user_code(found.name):
        for one in calls.values():
            one()
        timings = time_calls(calls, seconds)
        peaks = {name: peak_allocation(calls[name]) for name in ("eager", "compiled")}
    cost = latest_cost(compiled)
    peaks["compiled"] += cost.arena_bytes or 0
    times = measure_compile(function, input or ()) if compile_time else None
    if as_json:
        print_json(
            {
                "function": function,
                "inputs": example.origin,
                "timings": {n: {**asdict(t), "spread": t.spread} for n, t in timings.items()},
                "speedup": timings["eager"].median / timings["compiled"].median,
                "torch": note or "timed",
                "compile": None
                if times is None
                else {"cold": asdict(times[0]), "warm": asdict(times[1])},
                "cost": asdict(cost),
                "peak_bytes": peaks,
            }
        )
        return
    console = make_console()
    print_timings(console, timings)
    if note and hasattr(found.module, f"torch_{found.name}"):
        console.print(f"torch: {note}")
    _print_facts(console, cost, peaks, times)


def print_timings(console: Console, timings: dict[str, Timing]) -> None:
    """A row for each way of running, with its speed relative to eager."""
    eager = timings["eager"].median
    rows = [
        (
            name,
            format_seconds(t.median),
            f"±{t.spread:.1%}",
            format_seconds(t.fastest),
            t.samples,
            f"{eager / t.median:.2f}x",
        )
        for name, t in timings.items()
    ]
    columns = ("", "median", "spread", "fastest", "samples", "speed-up")
    print_table(console, make_table(columns, rows, columns[1:]))


def _print_facts(
    console: Console,
    cost: Cost,
    peaks: dict[str, int],
    times: tuple[CompileTime, CompileTime] | None,
) -> None:
    through_numpy = "(runs through NumPy)"
    rows: list[tuple[str, object, object]] = [
        ("operations / kernels", cost.operations, cost.kernels or through_numpy),
        (
            "bytes moved",
            format_bytes(cost.operation_bytes),
            through_numpy if cost.kernel_bytes is None else format_bytes(cost.kernel_bytes),
        ),
        ("peak memory", format_bytes(peaks["eager"]), format_bytes(peaks["compiled"])),
    ]
    console.print()
    print_table(console, make_table(("", "eager", "compiled"), rows, ("eager", "compiled")))
    if times is not None:
        labels = ("cold cache", "warm cache")
        entries = [
            (
                label,
                format_seconds(t.first_call),
                format_seconds(t.compiling),
                t.kernels_compiled,
                t.kernels_from_cache,
            )
            for label, t in zip(labels, times, strict=True)
        ]
        columns = ("", "first call", "of it compiling", "kernels compiled", "from cache")
        console.print()
        print_table(console, make_table(columns, entries, columns[1:]))
