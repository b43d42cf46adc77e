"""The entry point of the ``flamec`` command.

Exit codes: 0 done; 1 the work failed; 2 the command line names something that does not exist.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from flamec.cli import cache, tune
from flamec.cli.bench import bench
from flamec.cli.demo import demo
from flamec.cli.doctor import doctor
from flamec.cli.dump import dump
from flamec.cli.explain import explain
from flamec.cli.failure import CommandFailed, describe, report
from flamec.cli.kernels import kernels
from flamec.cli.ops import ops
from flamec.cli.repro import bisect, minify, repro
from flamec.errors import CompileError
from flamec.prepared import VERSION
from flamec.runtime.cpu.compiler import CompileError as CompilerError
from flamec.runtime.cpu.compiler import NoCompilerError

app = typer.Typer(
    name="flamec",
    help="flamec: a deep-learning framework whose core is a compiler.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # lines of a paragraph are joined
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, dump, explain, kernels, bench, doctor, ops, repro, bisect, minify):
    app.command()(command)
app.add_typer(cache.app, name="cache")
app.add_typer(tune.app, name="tune")


def _print_version(value: bool) -> None:
    if value:
        print(f"flamec {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Look into what flamec compiles, time it, and check this machine."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; ends the process with its exit code."""
    try:
        app(args=arguments, prog_name="flamec")
    except CommandFailed as error:
        report(str(error))
        sys.exit(1)
    except (CompileError, CompilerError, NoCompilerError) as error:
        report(describe(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
