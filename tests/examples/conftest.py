"""What the examples compile is one program: a function that would be split, or run in Python, is
an error in these tests."""

from __future__ import annotations

import functools

import pytest

import flamec


@pytest.fixture(autouse=True)
def whole_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flamec, "compile", functools.partial(flamec.compile, fullgraph=True))
