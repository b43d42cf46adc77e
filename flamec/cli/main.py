"""The entry point of the ``flamec`` command, which imports the files of the commands that are asked
for: one to run it, all to list them.

Exit codes: 0 done; 1 the work failed; 2 the command line names something that does not exist.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import typer
import typer.core
import typer.main

from flamec.cli.failure import CommandFailed, describe, report
from flamec.config import default_options
from flamec.errors import CompileError
from flamec.prepared import VERSION
from flamec.runtime.cpu.compiler import CompileError as CompilerError
from flamec.runtime.cpu.compiler import NoCompilerError

_COMMANDS = {  # the file of each, and its function there or ``app``, which has commands of its own
    "demo": ("demo", "demo"),
    "dump": ("dump", "dump"),
    "explain": ("explain", "explain"),
    "kernels": ("kernels", "kernels"),
    "bench": ("bench", "bench"),
    "doctor": ("doctor", "doctor"),
    "ops": ("ops", "ops"),
    "repro": ("repro", "repro"),
    "bisect": ("repro", "bisect"),
    "minify": ("repro", "minify"),
    "cache": ("cache", "app"),
    "tune": ("tune", "app"),
}
_MARKUP: Any = "markdown"  # lines of a paragraph are joined


class _Commands(Mapping[str, Any]):
    """Typer's object for each command, made when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        file, attribute = _COMMANDS[name]
        found = getattr(importlib.import_module(f"flamec.cli.{file}"), attribute)
        group = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=_MARKUP)
        if isinstance(found, typer.Typer):
            group.add_typer(found, name=name)
        else:
            group.command(name)(found)
        return typer.main.get_group(group).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_COMMANDS)

    def __len__(self) -> int:
        return len(_COMMANDS)


class _Group(typer.core.TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.commands]


app = typer.Typer(
    name="flamec",
    cls=_Group,
    help="flamec: a deep-learning framework whose core is a compiler.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=_MARKUP,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    try:
        default_options()
    except ValueError as error:
        raise CommandFailed(f"the environment (FLAMEC_...) cannot be used: {error}") from None


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
