"""How a command fails: one exception for the commands, one place that reports.

Exit codes: 0 done, 1 the work failed, 2 the command line asks for something that does
not exist (typer's own ``BadParameter``).
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flamec.errors import is_framework_file

_OWN_FOLDER = f"{Path(__file__).parent}/"


class CommandFailed(Exception):
    """The command cannot be carried out; the message is for the user."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write what the user wants at ``path``; CommandFailed if it cannot be written there."""
    try:
        yield
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror}") from error


def describe(error: BaseException) -> str:
    """An exception of the user's program as text: its frames, without those of flamec."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not is_framework_file(frame.filename)
        and not frame.filename.startswith(("<frozen", _OWN_FOLDER))
    ]
    lines = traceback.format_list(frames) if frames else []
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()


def report(message: str) -> None:
    """Say on standard error why the command failed."""
    print(f"flamec: {message}", file=sys.stderr)
