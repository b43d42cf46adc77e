"""``flamec tune``: look at the tuning database, carry it to other machines, empty it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flamec.cli.console import (
    format_seconds,
    make_console,
    make_table,
    print_json,
    print_table,
)
from flamec.cli.failure import CommandFailed
from flamec.config import default_options
from flamec.runtime.tuning_db import TuningDatabase, TuningFileError, TuningRecord

app = typer.Typer(no_args_is_help=True, help="The schedules of GPU kernels that were measured.")
AsJson = Annotated[bool, typer.Option("--json", help="Data for programs.")]


@contextmanager
def _database() -> Iterator[TuningDatabase]:
    """This user's database; CommandFailed for what it warns of and for files that do not work."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield TuningDatabase(default_options().cache_folder)
        except (OSError, TuningFileError) as error:
            raise CommandFailed(str(error)) from error
    if caught:
        raise CommandFailed("\n".join(str(warning.message) for warning in caught))


@app.command("ls")
def list_records(as_json: AsJson = False) -> None:
    """List the schedules, what they are for, and what they gained."""
    with _database() as database:
        records = database.records()
    if as_json:
        print_json({"file": str(database.path), "records": [asdict(r) for r in records]})
        return
    console = make_console()
    if not records:
        console.print(f"the tuning database {database.path} is empty")
        return
    columns = ("kernel", "for", "sizes", "types", "device", "time", "gain", "tried", "schedule")
    rows = [_row(record) for record in records]
    print_table(console, make_table(columns, rows, ("time", "gain", "tried")))
    console.print(f"\n{len(records)} schedules in {database.path}")


def _row(record: TuningRecord) -> tuple[object, ...]:
    key = record.key
    time, gain = "not measured", ""
    if record.seconds is not None:
        time = format_seconds(record.seconds)
        if record.heuristic_seconds is not None:
            gain = f"{record.heuristic_seconds / record.seconds:.2f}x"
    schedule = " ".join(f"{name}={value}" for name, value in record.schedule.items())
    places = (key.kernel[:12], record.label, key.bucket, key.dtype, key.device)
    return (*places, time, gain, record.tried, f"{record.mode}: {schedule}")


@app.command("export")
def export_records(
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="What to write.")],
    as_json: AsJson = False,
) -> None:
    """Write all records into FILE."""
    with _database() as database:
        count = database.export_to(file)
    if as_json:
        print_json({"file": str(file), "records": count})
    else:
        print(f"{count} schedules written to {file}")


@app.command("import")
def import_records(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What was exported."),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="FILE wins over what is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add the records of FILE; those that are there stay unless FILE's search was longer."""
    with _database() as database:
        count, changed = database.import_from(file, replace)
    if as_json:
        print_json({"file": str(file), "records": count, "added": changed})
    else:
        print(f"{changed} of {count} schedules added to {database.path}")


@app.command()
def clear(as_json: AsJson = False) -> None:
    """Remove all records; kernels stay in the cache."""
    with _database() as database:
        count = database.clear()
    if as_json:
        print_json({"file": str(database.path), "removed": count})
    else:
        print(f"{count} schedules removed from {database.path}")
