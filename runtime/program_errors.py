"""What a program's error codes stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim, index_as_given, parse_dim

_STATED = re.compile(r"(.*) \((\w+) at ([^,]+)\)", re.DOTALL)


class ProgramError(RuntimeError):
    """A compiled program reported an error."""


class ProgramIndexError(IndexError, ProgramError):
    """A compiled program found an index outside of its dimension."""


class ProgramValueError(ProgramError, ValueError):
    """A compiled program found a value that an operation does not take."""


class ProgramDivisionError(ProgramValueError, ZeroDivisionError):
    """A compiled program divided an integer by zero."""


_KINDS: dict[str, type[ProgramError]] = {
    "IndexError": ProgramIndexError,
    "ValueError": ProgramValueError,
    "ZeroDivisionError": ProgramDivisionError,
}


def program_error(
    plan: ExecutionPlan,
    code: int,
    detail: int,
    sizes: Mapping[str, int] | None = None,
    checks: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> ProgramError:
    """The exception of an error code; ``checks``, ``modules``: those of the step that found it.

    ``plan.errors[code - 1]`` is the message; ``{detail}`` in it stands for the number that
    the program left, other text in braces for a size, which ``sizes`` give the value of, and a
    text that begins with the name of an error, ``IndexError: `` say, becomes that.
    """
    if not 0 < code <= len(plan.errors):
        return ProgramError(f"the program returned the unknown error code {code}")

    def value(found: re.Match[str]) -> str:
        text = found[1]
        if text == "detail":
            return str(index_as_given(detail))
        return text if sizes is None else str(evaluate_dim(parse_dim(text), sizes))

    message = re.sub(r"\{([^}]*)\}", value, plan.errors[code - 1])
    if checks:
        message += f" ({', '.join(checks)})"
    name, _, text = message.partition(": ")
    kind = _KINDS.get(name, ProgramError)
    error = kind(_as_eager(message if kind is ProgramError else text, kind is ProgramIndexError))
    if modules:
        error.add_note(f"in module {' or '.join(modules)}")
    return error


def _as_eager(message: str, named: bool) -> str:
    """A message in which one operation is named, as eager mode words it: that begins with its name
    if ``named``."""
    found = _STATED.fullmatch(message)
    if found is None:
        return message
    text, name, line = found.groups()
    prefix = "" if text.startswith(name) or not named else f"{name}: "
    return f"{prefix}{text} (at {line})"
