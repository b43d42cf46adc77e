"""``flamec dump``: what a function becomes, stage by stage."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated

import typer

from flamec.cli import example_inputs, target
from flamec.cli.console import make_console, print_heading, print_json, print_text
from flamec.cli.failure import writing
from flamec.cli.gpu_stages import GPU_STAGES, checked_gpu, gpu_stage_parts
from flamec.cli.graph_text import graph_lines, numbers_like
from flamec.cli.html_page import html_page, profiled_run
from flamec.cli.page_data import page_data
from flamec.cli.size_class_parts import is_on_gpu, with_size_classes
from flamec.cli.stages import STAGES, Inspection, StagePart, inspect, stage_parts
from flamec.ir.graph import Graph

_GRAPH_STAGES = ("trace", "grad", "autocast", "optimized")


def complete_stage(incomplete: str) -> list[str]:
    """Stage names for tab completion."""
    return [s for s in (*STAGES, *GPU_STAGES, "all") if s.startswith(incomplete)]


def dump(
    function: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help=target.HELP)],
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            help=f"One of {', '.join(STAGES)}, all; for a GPU {', '.join(GPU_STAGES)}.",
            autocompletion=complete_stage,
            metavar="STAGE",
        ),
    ] = "optimized",
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", help=example_inputs.HELP)
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="sm_NN",
            callback=checked_gpu,
            help="The GPU that code is made for; default: sm_90. With --html: show its kernels.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", metavar="OUT", help="Write all stages as one page that works offline."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="With --html: run the function and show its times.")
    ] = False,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", metavar="A B", help="The difference between two stages."),
    ] = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Make every size above 1 symbolic.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
    color: Annotated[
        bool | None,
        typer.Option("--color/--no-color", help="Colours; default: on a terminal only."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random example data.")] = 0,
) -> None:
    """Print what FUNCTION becomes at a stage of its compilation.

    Arguments come from --input, from @flamec.compile(inputs=...), or from a function
    flamec_inputs() in the file. Nothing is run but the trace, unless --profile asks for it.

    Example: flamec dump train.py:step --stage kernel
    """
    for name in diff or (stage,):
        if name not in (*STAGES, *GPU_STAGES, "all") or (diff and name not in STAGES):
            names = STAGES if diff else (*STAGES, *GPU_STAGES)
            raise typer.BadParameter(f"no stage is called {name!r}; there are {', '.join(names)}")
    if profile and html is None:
        raise typer.BadParameter("--profile belongs to --html OUT")
    found = target.load_target(function, True if dynamic else None)
    example = example_inputs.example_inputs(found, input or (), seed)
    inspection = inspect(found, example, found.function.options)
    if html is not None:
        events = profiled_run(found, example) if profile else ()
        page = html_page(page_data(inspection, function, example.origin, events, gpu or ""))
        with writing(html):
            html.write_text(page)
        make_console(color).print(f"wrote {html}")
        return
    if diff:
        text = stage_diff(inspection, *diff)
        if as_json:
            print_json({"function": function, "diff": {"stages": diff, "text": text}})
        else:
            print_text(make_console(color), text, "diff")
        return
    if is_on_gpu(inspection):
        inspection = with_size_classes(inspection, "c")
    stages = STAGES if stage == "all" else (stage,)
    parts = {
        name: gpu_stage_parts(inspection, name, gpu or "sm_90")
        if name in GPU_STAGES
        else stage_parts(inspection, name)
        for name in stages
    }
    if as_json:
        data = {name: [_data(p) for p in parts[name]] for name in stages}
        print_json({"function": function, "inputs": example.origin, "stages": data})
        return
    console = make_console(color)
    several = sum(map(len, parts.values())) > 1
    for position, part in enumerate(p for name in stages for p in parts[name]):
        if several:
            if position:
                print_text(console, "", "text")
            print_heading(console, part.title)
        print_text(console, part.text, part.language)


def _data(part: StagePart) -> dict[str, object]:
    return {"title": part.title, "text": part.text, **part.data}


def stage_diff(inspection: Inspection, before: str, after: str) -> str:
    """A unified diff; between graphs, values that both compute keep their numbers."""
    left, right = _graph(inspection, before), _graph(inspection, after)
    if left is not None and right is not None:
        old = graph_lines(left)
        new = graph_lines(right, numbers=numbers_like(left, right))
    else:
        old, new = _lines(inspection, before), _lines(inspection, after)
    lines = list(difflib.unified_diff(old, new, before, after, lineterm=""))
    return "\n".join(lines) or f"{before} and {after} are the same"


def _graph(inspection: Inspection, stage: str) -> Graph | None:
    """The one graph of a stage, if it is one."""
    if stage not in _GRAPH_STAGES or len(inspection.parts) > 1:
        return None
    prepared = inspection.parts[0][1]
    if stage == "autocast":
        return prepared.after(stage)
    return prepared.optimized if stage == "optimized" else inspection.captured.graph


def _lines(inspection: Inspection, stage: str) -> list[str]:
    parts = stage_parts(inspection, stage)
    return [line for part in parts for line in ("", part.title, *part.lines)]
