"""The tests of the rows of docs/FROM_PYTORCH.md, by their first cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ROWS: dict[str, Callable[..., None]] = {}


def row(title: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test of the row with this first cell."""

    def keep(test: Callable[..., None]) -> Callable[..., None]:
        ROWS[title] = test
        return test

    return keep


def raises(call: Callable[[], Any], *kinds: type[Exception]) -> None:
    with pytest.raises(kinds or (RuntimeError, TypeError, NotImplementedError, ValueError)):
        call()
