"""Kernels and C text of a few programs, compared with golden files.

With FLAMEC_UPDATE_GOLDEN=1 the golden files are written anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from kernel_cases import Builder, adam, cross_entropy, linear_gelu, reshaped_chain, softmax, sums
from triton_graphs import recurrence

from flamec.codegen.compile_graph import compile_graph
from flamec.ir.graph import Graph, Value
from flamec.ir.kernel_printer import print_kernel
from flamec.ir.types import CPU, float32

GOLDEN = Path(__file__).parent.parent / "golden"


def returning(make: Callable[[Builder], list[Value]]) -> Callable[[], Graph]:
    def build() -> Graph:
        b = Builder(share=True)
        return b.build(make(b))

    return build


def optimizer_step() -> Graph:
    b = Builder(share=True)
    return b.build(*adam(b, ((64, 32), (32,))))


def convolution() -> Graph:
    """Images with their channels last, as between two layers, by a kernel as it is stored."""
    b = Builder(share=True)
    images, kernel = b.tensor(4, 16, 18, 8), b.tensor(20, 8, 3, 3)
    result = b.convolution(
        b.permute(images, axes=(0, 3, 1, 2)),
        kernel,
        strides=(2, 1),
        padding=((0, 0), (0, 0)),
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        groups=1,
    )
    return b.build([b.maximum(result, b.full(value=0.0, shape=(), dtype=float32, device=CPU))])


GRAPHS: dict[str, Callable[[], Graph]] = {
    "softmax": returning(softmax),
    "cross_entropy": returning(cross_entropy),
    "sums": returning(sums),
    "linear_gelu": returning(linear_gelu),
    "reshaped_chain": returning(reshaped_chain),
    "optimizer_step": optimizer_step,
    "convolution": convolution,
    "recurrence": lambda: recurrence(Builder(share=True), 4, 24, 5),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_and_source(name: str) -> None:
    result = compile_graph(GRAPHS[name]())
    source = result.plan.source
    body = source[source.index("/* Bytes of private memory") :]
    text = "".join(map(print_kernel, result.kernels)) + "\n" + body
    file = GOLDEN / f"c_{name}.txt"
    if os.environ.get("FLAMEC_UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
