"""The line on the terminal while kernels are compiled."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from flamec.progress import progress_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line("compiling", "kernels") as progress:
        assert progress is None
    assert stream.getvalue() == ""


def test_the_line_counts_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told of progress by other threads, and ends with the block, errors included."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(KeyboardInterrupt), progress_line("compiling", "kernels") as progress:
        assert progress is not None
        with ThreadPoolExecutor(2) as threads:
            for done in (1, 2):
                threads.submit(progress, done, 2, "affine").result()
        raise KeyboardInterrupt
    text = stream.getvalue()
    assert "compiling 2/2 kernels" in text
    assert text.endswith("\x1b[2K")  # the line is erased


def test_work_that_reports_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line("compiling", "kernels"):
        pass
    assert stream.getvalue() == ""
