"""What commands print through: colours on a terminal, plain text in a pipe.

Lines are never wrapped or cut in a pipe; tables are as wide as they need.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

_WIDE = 400
_THEME = Theme(
    {
        "flamec.comment": "green",
        "flamec.value": "cyan",
        "flamec.dtype": "magenta",
        "flamec.shape": "magenta",
        "flamec.op": "bold blue",
        "flamec.keyword": "bold",
        "flamec.added": "green",
        "flamec.removed": "red",
        "flamec.hunk": "cyan",
    }
)


class IrHighlighter(RegexHighlighter):
    """Colours for the text of graphs and kernels."""

    base_style = "flamec."
    highlights = [  # noqa: RUF012 - rich declares it as a plain class attribute
        r"(?P<op>\b[a-z_]\w*)\(",
        r"(?P<value>%[\d?]+)",
        r"(?P<dtype>\b(?:float|int|uint)\d+|\bbfloat16|\bbool)(?P<shape>\[[^\]]*\])?",
        r"^\s*(?P<keyword>graph|input|return|update|kernel|run|for|in|out)\b",
    ]

    def highlight(self, text: Text) -> None:
        if text.plain.lstrip().startswith("#"):
            text.stylize("flamec.comment")
        else:
            super().highlight(text)


class DiffHighlighter(RegexHighlighter):
    """Colours for a unified diff."""

    base_style = "flamec."
    highlights = [  # noqa: RUF012 - rich declares it as a plain class attribute
        r"^(?P<added>\+.*)$",
        r"^(?P<removed>-.*)$",
        r"^(?P<hunk>@@.*)$",
    ]


def make_console(color: bool | None = None) -> Console:
    """A console on standard output. ``color``: None decides by whether it is a terminal."""
    terminal = sys.stdout.isatty() if color is None else color
    return Console(
        file=sys.stdout,
        force_terminal=terminal,
        no_color=not terminal,
        width=None if sys.stdout.isatty() else _WIDE,
        theme=_THEME,
        highlight=False,
        soft_wrap=True,
    )


def print_text(console: Console, text: str, language: str = "ir") -> None:
    """Print lines, coloured by language: "ir", "c", "asm", "python", "diff" or "text"."""
    if not console.is_terminal:
        console.file.write(text + "\n")
        return
    if language in ("c", "asm", "python"):
        lexer = "gas" if language == "asm" else language
        console.print(Syntax(text, lexer, background_color="default").highlight(text), end="")
        return
    highlighter = {"ir": IrHighlighter(), "diff": DiffHighlighter()}.get(language)
    rich_text = Text(text)
    if highlighter is not None:
        for line in rich_text.split("\n"):
            highlighter.highlight(line)
            console.print(line)
        return
    console.print(rich_text)


def print_heading(console: Console, title: str) -> None:
    """The title of a section."""
    console.print(Text(f"== {title} ==", style="bold yellow"))


def print_json(data: Any) -> None:
    """Data for programs, on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")


def make_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()
) -> Table:
    """A table without frames; ``numeric`` columns are aligned to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table; in a pipe without blanks at the ends of lines."""
    if console.is_terminal:
        console.print(table)
        return
    console.file.write("\n".join(_plain_lines(table)) + "\n")


def table_lines(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], numeric: Sequence[str] = ()
) -> list[str]:
    """The same table as plain lines."""
    return _plain_lines(make_table(columns, rows, numeric))


def _plain_lines(table: Table) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=_WIDE, no_color=True, highlight=False).print(table)
    return [line.rstrip() for line in stream.getvalue().rstrip().splitlines()]


def format_bytes(count: float) -> str:
    """``1.5 MiB``; exact below one KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the loop returns")


def format_seconds(seconds: float) -> str:
    """With a unit that keeps the number between 1 and 1000."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds * 1e9:.0f} ns"
