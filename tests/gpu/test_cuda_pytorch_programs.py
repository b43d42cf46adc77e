"""Programs as PyTorch's users write them give on a GPU what they give on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from pytorch_programs import Compiled, Source, compare, plain, results, sources

import flamec

pytestmark = pytest.mark.gpu

PROGRAMS = sources(
    *(
        f"programs_{topic}"
        for topic in ("vision", "language", "time", "representations", "practice", "generative")
    )
)


@cache
def on_the_cpu(source: Source) -> dict[str, Any]:
    return results(flamec, source, plain)


@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.parametrize("source", PROGRAMS, ids=str)
@pytest.mark.filterwarnings("ignore:.*Python code")
def test_program(source: Source, way: str) -> None:
    found = results(flamec, source, Compiled() if way == "compiled" else plain, "cuda")
    compare(found, on_the_cpu(source), rtol=2e-3, atol=2e-4)
