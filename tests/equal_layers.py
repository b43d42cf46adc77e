"""Training steps of networks of equal layers, for tests of what compiling them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

from gpt2_example import example

import flamec
from flamec.codegen.compile_graph import CompiledGraph, run_last_passes
from flamec.codegen.compile_graph import last_passes as last_for_c
from flamec.codegen.options import CodegenOptions
from flamec.codegen.triton.compile_graph import compile_graph as compile_for_triton
from flamec.codegen.triton.compile_graph import last_passes as last_for_triton
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.ir.graph import Graph
from flamec.ir.passes.forget_derivatives import forget_derivatives
from flamec.ir.passes.fusion_groups import FusionOptions
from flamec.ir.passes.fusion_state import LARGEST_SEGMENT
from flamec.ir.passes.manager import run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.passes.recognize_attention import attention_of

GPU = FusionOptions(
    True,
    elementwise_epilogues=True,
    recompute_expensive=True,
    prologues=True,
    bundled_scalars=LARGEST_SEGMENT,
)
Prepare = Callable[[Graph], Graph]
for_c: Prepare = partial(run_last_passes, passes=last_for_c(CodegenOptions()))
BACK_ENDS: dict[str, tuple[Prepare, FusionOptions, bool]] = {
    "c": (for_c, FusionOptions(), False),
    "triton": (
        partial(run_last_passes, passes=last_for_triton(CodegenOptions())),
        GPU,
        True,
    ),
}


@cache
def traced(layers: int) -> Graph:
    """GPT-2's training step (forward, backward, clipping, AdamW)."""
    gpt2 = example()
    training = gpt2.Training(gpt2.Config(64, 16, layers, 2, 16))
    step = CompiledFunction(training.step, replace(default_options(), backend="evaluate"))
    tokens = flamec.zeros(2, 16, dtype=flamec.int64)
    return step.trace((tokens, tokens), {}).graph


@cache
def graph(layers: int, back_end: str) -> Graph:
    """The same, optimized for a back end."""
    found = traced(layers)
    if back_end == "triton":  # on a CPU: attention is as written
        found = attention_of(forget_derivatives(found))[0]
    return run_passes(found, pipeline())[0]


def on_a_gpu(layers: int) -> CompiledGraph:
    return compile_for_triton(graph(layers, "triton"))
