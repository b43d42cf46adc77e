"""``flamec repro``, ``bisect`` and ``minify``: a failure again, where it begins, and in small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flamec.cli import example_inputs, target
from flamec.cli.failure import CommandFailed, report, writing
from flamec.cli.source_lines import describe_location
from flamec.debugging.bisection import bisect as bisect_reproduction
from flamec.debugging.call_recording import record_call
from flamec.debugging.minification import minify as minify_reproduction
from flamec.debugging.replay import replay
from flamec.debugging.reproduction import Reproduction, is_reproduction, read, to_text
from flamec.errors import StageError
from flamec.ir.bodies import all_nodes
from flamec.ir.graph import Graph
from flamec.saving.errors import FileFormatError


def repro(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A reproduction that flamec wrote.")],
) -> None:
    """Run a reproduction: exit code 1 for its failure, 2 for another one, 0 for none."""
    _read(file)
    code, text = replay(file)
    if not code:
        print(text)
        return
    report(text)
    raise typer.Exit(code)


def bisect(
    what: Annotated[
        str, typer.Argument(metavar="FILE", help=f"A reproduction, or a function. {target.HELP}")
    ],
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", help=example_inputs.HELP)
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="How far a result may be off, relative to its largest element."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a reproduction of what differs, for minify.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of random example data.")] = 0,
) -> None:
    """Find the stage of the compiler after which a result is wrong.

    Every pass is checked by NumPy, in float64 and in the dtypes of the program; then the program
    is run, with and without fusion. Exit code 1 if a stage changes a result or fails.

    Example: flamec bisect train.py:step --input "float32[16,10]"
    """
    if tolerance is not None and not tolerance >= 0:
        raise typer.BadParameter(f"--tolerance must be 0 or more, not {tolerance}")
    wrong = False
    for title, reproduction in _programs(what, input or [], seed):
        if title:
            print(f"== {title} ==")
        try:
            found = bisect_reproduction(reproduction, tolerance)
        except StageError as error:
            raise CommandFailed(f"the stage {error.stage} fails: {error}") from error
        except ValueError as error:
            raise CommandFailed(str(error)) from error
        if found is None:
            print("no stage changes a result")
            continue
        print("\n".join(found.lines(describe_location)))
        wrong = True
        if save is not None:
            with writing(save):
                save.write_text(to_text(replace(reproduction, stage=found.stage, error="")))
            print(f"written: {save}")
            break
    if wrong:
        raise typer.Exit(1)


def minify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A reproduction that flamec wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: FILE with -minified.")
    ] = None,
) -> None:
    """Make the smallest program that fails as FILE does: same stage, exception and message."""
    reproduction = _read(file)
    try:
        found = minify_reproduction(reproduction)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    path = output or file.with_name(f"{file.stem}-minified.py")
    with writing(path):
        path.write_text(to_text(found.reproduction))
    before, after = reproduction.graph, found.reproduction.graph
    print(f"held: {found.signature}")
    print(f"nodes: {_nodes(before)} -> {_nodes(after)}")
    print(f"inputs: {len(before.inputs)} -> {len(after.inputs)}")
    print(f"passes: {len(reproduction.passes)} -> {len(found.reproduction.passes)}")
    print(f"programs tried: {found.tried}")
    print(f"written: {path}")


def _nodes(graph: Graph) -> int:
    """Those in the bodies of loops and branches included."""
    return sum(1 for _ in all_nodes(graph))


def _read(file: Path) -> Reproduction:
    if not file.is_file():
        raise typer.BadParameter(f"there is no file {str(file)!r}")
    try:
        return read(file)
    except FileFormatError as error:
        raise CommandFailed(str(error)) from error


def _programs(what: str, texts: list[str], seed: int) -> list[tuple[str, Reproduction]]:
    if is_reproduction(Path(what)):
        return [("", _read(Path(what)))]
    found = target.load_target(what)
    example = example_inputs.example_inputs(found, texts, seed)
    with target.user_code(found.name):
        return record_call(found.function, example.args, example.kwargs)
