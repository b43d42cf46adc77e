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

GOLDEN = Path(__file__).parent.parent / "golden"


def returning(make: Callable[[Builder], list[Value]]) -> Callable[[], Graph]:
    def build() -> Graph:
        b = Builder(share=True)
        return b.build(make(b))

    return build


def optimizer_step() -> Graph:
    b = Builder(share=True)
    return b.build(*adam(b, ((64, 32), (32,))))


GRAPHS: dict[str, Callable[[], Graph]] = {
    "softmax": returning(softmax),
    "cross_entropy": returning(cross_entropy),
    "sums": returning(sums),
    "linear_gelu": returning(linear_gelu),
    "reshaped_chain": returning(reshaped_chain),
    "optimizer_step": optimizer_step,
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
