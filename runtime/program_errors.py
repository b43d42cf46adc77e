"""What a program's error codes stand for."""

from __future__ import annotations

from flamec.ir.plan import ExecutionPlan

_INDEX_ERROR = "IndexError: "


class ProgramError(RuntimeError):
    """A compiled program reported an error."""


def program_error(plan: ExecutionPlan, code: int, detail: int) -> IndexError | ProgramError:
    """The exception of an error code.

    ``plan.errors[code - 1]`` is the message; ``{detail}`` in it stands for the number that
    the program left, and a text that begins with ``IndexError: `` becomes that.
    """
    if not 0 < code <= len(plan.errors):
        return ProgramError(f"the program returned the unknown error code {code}")
    message = plan.errors[code - 1].replace("{detail}", str(detail))
    if message.startswith(_INDEX_ERROR):
        return IndexError(message.removeprefix(_INDEX_ERROR))
    return ProgramError(message)
