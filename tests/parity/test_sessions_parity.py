"""Short pieces of code as users type them, with what they print and give: character by character.

``sessions.txt`` has one piece between two lines of dashes. The same text runs with either
package; what is printed and the text of the last line's value must be equal, but for the
package's name and the names of autograd's nodes. Where PyTorch raises an error, flamec must
raise one that the same ``except`` catches.
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

SESSIONS = Path(__file__).with_name("sessions.txt").read_text()
PRELUDE, *PIECES = re.split(r"^---+\n", SESSIONS, flags=re.MULTILINE)


def _text(value: Any) -> str:
    if type(value) in (list, tuple, dict):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return type(value).__name__ + ", ".join(f"{key}: {_text(part)}" for key, part in items)
    return repr(value)


def _neutral(text: str) -> str:
    text = text.replace("flamec", "torch")
    return re.sub(r"grad_fn=<[^>]*>", "grad_fn=<>", text)


def _outcome(package: str, piece: str) -> tuple[str, str, type[Exception] | None]:
    """What is printed, the last line's value as text, and the class of the error."""
    tree = ast.parse(re.sub(r"\btorch\b", package, PRELUDE + piece))
    last = tree.body.pop()
    assert isinstance(last, ast.Expr), "a piece ends with an expression"
    scope: dict[str, Any] = {"__name__": "session"}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as printed:
        warnings.simplefilter("ignore")
        try:
            exec(compile(tree, "<session>", "exec"), scope)
            value = eval(compile(ast.Expression(last.value), "<session>", "eval"), scope)
        except Exception as error:
            return _neutral(printed.getvalue()), "", type(error)
        return _neutral(printed.getvalue()), _neutral(_text(value)), None


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.strip()[:40])
def test_session(piece: str) -> None:
    printed, value, error = _outcome("flamec", piece)
    expected_print, expected_value, expected_error = _outcome("torch", piece)
    assert (printed, value) == (expected_print, expected_value)
    if error is None or expected_error is None:
        assert error is expected_error
    else:
        assert issubclass(error, expected_error)
    if expected_error is not None and expected_error.__module__ == "builtins":
        assert error is not None and issubclass(error, expected_error), error
