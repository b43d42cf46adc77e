"""Programs as PyTorch's users write them give on a GPU what they give on the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from pytorch_programs import Compiled, Source, compare, plain, results, sources

import flamec

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("float32_convolutions")]

PROGRAMS = sources(
    *(
        f"programs_{topic}"
        for topic in ("vision", "language", "time", "representations", "practice", "generative")
    )
)
# the others compile many kernels each
QUICK = {
    ("grad_cam_with_hooks", "compiled"),
    ("vector_quantised_autoencoder", "compiled"),
    ("maml_by_hand", "compiled"),
    ("mixture_of_experts_with_routing", "compiled"),
    ("checkpoint_and_resume", "compiled"),
    ("mixed_precision_with_scaler", "compiled"),
    ("dqn_with_target_network", "eager"),
    ("object_detection_parts", "eager"),
}


@cache
def on_the_cpu(source: Source) -> dict[str, Any]:
    return results(flamec, source, plain)


@pytest.mark.parametrize(
    ("source", "way"),
    [
        pytest.param(
            source,
            way,
            marks=() if (source.name, way) in QUICK else pytest.mark.slow,
            id=f"{source}-{way}",
        )
        for source in PROGRAMS
        for way in ("eager", "compiled")
    ],
)
@pytest.mark.filterwarnings("ignore:.*Python code")
def test_program(source: Source, way: str) -> None:
    found = results(flamec, source, Compiled() if way == "compiled" else plain, "cuda")
    compare(found, on_the_cpu(source), rtol=2e-3, atol=2e-4)
