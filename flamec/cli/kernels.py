"""``flamec kernels``: the kernels of a program, and any of them as a file that runs by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flamec.cli import example_inputs, target
from flamec.cli.console import make_console, make_table, print_heading, print_json, print_table
from flamec.cli.failure import CommandFailed, writing
from flamec.cli.gpu_stages import checked_code
from flamec.cli.kernel_file import kernel_file
from flamec.cli.kernel_inputs import save_inputs
from flamec.cli.kernel_rows import KernelRow, Program, kernel_rows, programs
from flamec.cli.stages import inspect

_COLUMNS = ("kernel", "kind", "bytes", "FLOPs", "operations", "lines", "modules")
_GPU_COLUMNS = ("registers", "stack", "shared", "warps")


def kernels(
    function: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION", help=target.HELP)],
    input: Annotated[
        list[str] | None, typer.Option("--input", "-i", help=example_inputs.HELP)
    ] = None,
    code: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="c|sm_NN",
            callback=checked_code,
            help="C, or the GPU that code is made for.",
        ),
    ] = "c",
    write: Annotated[
        str | None,
        typer.Option("--write", metavar="NAME", help="Write this kernel to the file --out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where --write writes to.")
    ] = None,
    real: Annotated[
        bool,
        typer.Option(
            "--real-inputs",
            help="With --write, in C: run FUNCTION up to the kernel and save what it is given.",
        ),
    ] = False,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Make every size above 1 symbolic.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of random example data.")] = 0,
) -> None:
    """List the kernels of FUNCTION with bytes, arithmetic and your lines; write one as a file.

    The file is a Python program that needs flamec (and a C compiler, or a GPU): it has the
    kernel's source in it, compiles it, runs it with inputs that are the same every time (random
    ones, or with --real-inputs those of a run, in a file beside it), and prints the time and
    checksums. Change the source and run it again.

    Example: flamec kernels train.py:step --write kernel_0 --out kernel_0.py
    """
    if (write is None) != (out is None):
        raise typer.BadParameter("--write NAME and --out FILE belong together")
    if real and (write is None or code != "c"):
        raise typer.BadParameter("--real-inputs belongs to --write, for kernels in C")
    found = target.load_target(function, True if dynamic else None)
    example = example_inputs.example_inputs(found, input or (), seed)
    inspection = inspect(found, example, found.function.options)
    made = programs(inspection, code)
    on_gpu = any(program.target != "c" for program in made)
    if real and on_gpu:
        raise typer.BadParameter("--real-inputs belongs to --write, for kernels in C")
    if write is not None and out is not None:
        program, number = _named(made, write)
        if real:
            saved = out.with_suffix(".npz")
            with writing(saved):
                save_inputs(found, example, program, number, saved)
        with writing(out):
            out.write_text(kernel_file(program, number, function, real))
        if as_json:
            print_json({"function": function, "kernel": write, "file": str(out)})
            return
        make_console().print(f"wrote {write} to {out}; run it with: python {out}")
        return
    rows = {program.title: kernel_rows(program) for program in made}
    if as_json:
        data = {title or "main": [row.data() for row in found] for title, found in rows.items()}
        print_json({"function": function, "target": code, "kernels": data})
        return
    console = make_console()
    for title, listed in rows.items():
        if title:
            print_heading(console, title)
        columns = _COLUMNS[:4] + (_GPU_COLUMNS if on_gpu else ()) + _COLUMNS[4:]
        numeric = ("bytes", "FLOPs", *_GPU_COLUMNS)
        cells = [_cells(row, on_gpu) for row in listed]
        print_table(console, make_table(columns, cells, numeric))


def _named(made: list[Program], name: str) -> tuple[Program, int]:
    """The kernel ``kernel_3``, or ``backward/kernel_3`` where there are several programs.

    Where a program is there for a class of sizes and for all, ``kernel_3`` is that of the class.
    """
    names = []
    title, _, kernel = name.rpartition("/")
    for program in made:
        known = program.title == title or (program is made[0] and not title)
        known = known or (title != "" and program.title.startswith(f"{title}, "))
        for number, step in enumerate(program.compiled.plan.steps):
            if known and kernel == step.name:
                return program, number
            names.append(f"{program.title}/{step.name}" if program.title else step.name)
    raise CommandFailed(f"no kernel is called {name!r}; there are {', '.join(names)}")


def _cells(row: KernelRow, on_gpu: bool) -> list[str]:
    code = row.code
    gpu = [
        "+".join(str(c.registers) for c in code),
        "+".join(str(c.stack_bytes) for c in code),
        "+".join(str(c.shared_bytes) for c in code),
        "+".join(str(c.threads // 32) for c in code),
    ]
    work = [f"{row.bytes:,}", f"{row.flops:,}"]
    return [
        row.name,
        row.kind,
        *work,
        *(gpu if on_gpu else ()),
        row.operations,
        row.lines,
        ", ".join(row.modules),
    ]
