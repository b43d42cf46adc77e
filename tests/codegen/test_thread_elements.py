"""Kernels in which no value goes from thread to thread: what a thread loads is what it stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flamec
from flamec.codegen.triton.compile_graph import compile_graph
from flamec.config import default_options
from flamec.fused_program import trace_function
from flamec.ir.types import DType, TensorType, bool_, float32, int64
from flamec.prepared import Prepared
from flamec.runtime.cuda.triton_compiler import compile_kernel
from flamec.runtime.kernel_cache import KernelCache

pytest.importorskip("triton")

Operand = tuple[DType, int, int]
X: Operand = (float32, 64, 2048)

CASES: dict[str, tuple[Callable[..., Any], list[Operand]]] = {
    "looked up": (
        lambda x, i, j: x[i.reshape(-1), j.reshape(-1)],
        [X, (int64, 8, 2048), (int64, 8, 2048)],
    ),
    "looked up in a row": (lambda x, i: x.gather(1, i), [X, (int64, 64, 2048)]),
    "backwards": (lambda x: x.flip(1), [X]),
    "where bytes say": (lambda x, m: x.masked_fill(m, 0.0), [X, (bool_, 64, 2048)]),
    "in a triangle": (lambda x: flamec.tril(x), [X]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_kernel_needs_no_shared_memory(name: str, tmp_path: Path) -> None:
    function, operands = CASES[name]
    types = [TensorType((rows, columns), dtype) for dtype, rows, columns in operands]
    graph = trace_function(function, types, {}, [False] * len(types), {}).forward
    plan = compile_graph(Prepared(graph, None, default_options(), None).optimized).plan
    (source,) = plan.kernels
    binary, _ = compile_kernel(source, "sm_90", KernelCache(tmp_path))
    assert binary.shared_bytes == 0 and binary.stack_bytes == 0
