"""``flamec cache``: look at the kernel cache, find it, empty it, take it to another machine."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Annotated

import typer

from flamec.cli.console import (
    format_bytes,
    make_console,
    make_table,
    print_json,
    print_table,
)
from flamec.cli.failure import CommandFailed
from flamec.config import default_options
from flamec.runtime.kernel_cache import CacheWarning, KernelCache

app = typer.Typer(no_args_is_help=True, help="The compiled kernels that are kept on disk.")


def open_cache() -> KernelCache | None:
    """The cache of this user; None if its folder does not exist yet, CommandFailed if unusable."""
    options = default_options()
    if not options.cache_folder.exists():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        cache = KernelCache(options.cache_folder, options.cache_bytes)
    if cache.left is not None:
        raise CommandFailed(f"the kernel cache {cache.folder} cannot be used: {cache.left}")
    return cache


@app.command()
def path() -> None:
    """Print the folder of the cache."""
    print(default_options().cache_folder)


@app.command("ls")
def list_entries(
    as_json: Annotated[bool, typer.Option("--json", help="Data for programs.")] = False,
) -> None:
    """List the entries, the most recently used first."""
    cache = open_cache()
    entries = cache.entries() if cache is not None else []
    if as_json:
        print_json(
            {
                "folder": str(default_options().cache_folder),
                "bytes": sum(e.size for e in entries),
                "entries": [
                    {
                        "key": e.key,
                        "kind": e.kind,
                        "size": e.size,
                        "last_used": e.last_used,
                        "facts": dict(e.facts),
                    }
                    for e in entries
                ],
            }
        )
        return
    console = make_console()
    if not entries:
        console.print(f"the cache {default_options().cache_folder} is empty")
        return
    rows = [
        (
            e.key[:16],
            e.kind,
            format_bytes(e.size),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(e.last_used)),
            ", ".join(f"{k}={v}" for k, v in e.facts.items()),
        )
        for e in entries
    ]
    print_table(console, make_table(("key", "kind", "size", "last used", "facts"), rows, ("size",)))
    total = format_bytes(sum(e.size for e in entries))
    console.print(f"\n{len(entries)} entries, {total} in {default_options().cache_folder}")


@app.command("export")
def export_entries(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
) -> None:
    """Write all entries to one file, for another machine of the same architecture."""
    from flamec.deployment.cache_files import export_cache

    cache = open_cache()
    if cache is None:
        raise CommandFailed(f"the cache {default_options().cache_folder} is empty")
    try:
        count = export_cache(cache, file)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error}") from error
    print(f"wrote {count} entries to {file} ({format_bytes(file.stat().st_size)})")


@app.command("import")
def import_entries(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that 'export' wrote.")],
) -> None:
    """Take the entries of such a file over; what was altered, or does not fit, is refused."""
    from flamec.deployment.cache_files import import_cache
    from flamec.saving.errors import FileFormatError

    options = default_options()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CacheWarning)  # such a folder is an error here
            cache = KernelCache(options.cache_folder, options.cache_bytes)
            imported = import_cache(file, cache, options)
    except (OSError, FileFormatError) as error:
        raise CommandFailed(str(error)) from error
    print(f"took {imported.taken} entries into {options.cache_folder}")
    if imported.left_out:
        print(f"left {imported.left_out} out: {imported.reason}")


@app.command()
def clear() -> None:
    """Remove everything from the cache."""
    cache = open_cache()
    freed = cache.clear() if cache is not None else 0
    print(f"freed {format_bytes(freed)} in {default_options().cache_folder}")
