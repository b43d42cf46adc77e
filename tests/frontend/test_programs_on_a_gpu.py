"""Programs as PyTorch's users write them, moved to a GPU with ``device``: what is put where."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_programs import Source, compare, plain, results, sources

import flamec

PROGRAMS = sources(
    *(
        f"programs_{topic}"
        for topic in ("vision", "language", "time", "representations", "practice", "generative")
    )
)


@pytest.mark.parametrize("source", PROGRAMS, ids=str)
def test_a_program_gives_on_a_gpu_what_it_gives_on_the_cpu(source: Source, simulated: Any) -> None:
    compare(results(flamec, source, plain, "cuda"), results(flamec, source, plain))
