"""Graphs on a GPU: chosen by their values' device; clear errors where there is no GPU."""

from __future__ import annotations

import numpy as np
import pytest

import flamec.ir.ops  # noqa: F401 - registers the operations
from flamec import preparation
from flamec.config import default_options
from flamec.device_array import DeviceArray
from flamec.errors import CompileError
from flamec.gpu import gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.shape import Dim, SymbolicDim
from flamec.ir.types import Device, TensorType, float32
from flamec.prepared import Prepared, graph_device
from flamec.runtime.cuda.driver import unavailable_reason

GPU = Device("cuda", 0)


def graph_on(*devices: Device, size: Dim = 7) -> Graph:
    b = GraphBuilder()
    inputs = [b.input(TensorType((size,), float32, d)) for d in devices]
    return b.build([b.exp(x) for x in inputs], {0: b.add(inputs[0], inputs[0])})


def test_a_graph_on_a_gpu_becomes_triton() -> None:
    graph = graph_on(GPU)
    assert graph_device(graph) == GPU
    prepared = Prepared(graph, None, default_options(), None)
    assert prepared.compiled.plan.language == "triton"


def test_a_graph_on_two_gpus_is_refused() -> None:
    with pytest.raises(CompileError, match="computes on cuda:0 and cuda:1"):
        graph_device(graph_on(GPU, Device("cuda", 1)))


@pytest.mark.skipif(unavailable_reason() is None, reason="there is a GPU")
def test_without_a_gpu_the_error_says_why() -> None:
    with pytest.raises(CompileError, match="cuda:0 cannot be used"):
        preparation.prepare(graph_on(GPU), (), default_options())


@pytest.mark.gpu
@pytest.mark.skipif(unavailable_reason() is not None, reason="there is no GPU")
def test_run() -> None:
    options = default_options()
    prepared = preparation.prepare(graph_on(GPU, size=SymbolicDim.symbol("B")), ("B",), options)
    here = gpu(GPU)
    for size in (7, 1000):
        host = np.linspace(0, 1, size + 1, dtype=np.float32)
        whole = here.upload(host)
        shifted = DeviceArray(GPU, (size,), float32, whole.address + 4, whole.memory)
        result = here.allocate((size,), float32)
        invocation = prepared.bind((size,))
        invocation.set_input(0, shifted)
        invocation.set_output(0, result)
        invocation.run()
        np.testing.assert_allclose(here.download(result), np.exp(host[1:]), 1e-6)
        np.testing.assert_allclose(here.download(shifted), 2 * host[1:])
