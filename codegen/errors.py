"""Errors of code generation, apart from the generator so that naming them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LoweringError(Exception):
    """An operation that the back end cannot express; the message names it."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """An exception that leaves the block knows the stage that it arose in, see ``stage_of``."""
    try:
        yield
    except Exception as error:
        vars(error).setdefault("flamec_stage", name)
        raise


def stage_of(error: BaseException, default: str) -> str:
    """The innermost ``stage`` that an exception left, ``default`` if it left none."""
    return str(vars(error).get("flamec_stage", default))
