"""A line on the terminal while something takes long: ``compiling 12/40 kernels``.

Standard error, and only where that is a terminal; the line is gone when the work is done.
rich is imported when there is something to show.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from flamec.runtime.cuda.compile_worker import Progress

if TYPE_CHECKING:
    from rich.status import Status


@contextmanager
def progress_line(verb: str, noun: str) -> Iterator[Progress | None]:
    """What to call with the number done, the number to do and a name; None: no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as stack:
        status: Status | None = None

        def show(done: int, total: int, name: str) -> None:
            nonlocal status
            text = f"{verb} {done}/{total} {noun}"
            if status is None:
                from rich.console import Console

                status = stack.enter_context(Console(stderr=True).status(text))
            else:
                status.update(text)

        yield show
