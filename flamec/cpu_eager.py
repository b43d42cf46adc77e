"""Eager mode on the CPU: when a composite is compiled to C, and how its program is called.

In: a graph over symbolic sizes and the sizes of a call. Out: a function from arrays to arrays.
NumPy runs operations one by one, each over whole arrays, which for large arrays takes many times
as long as one program; to compile one takes about half a second, once on a machine. So a call is
compiled if its operations by NumPy take about 10 ms or more: after 50 such calls it has paid.
The choice depends on sizes alone, so equal calls give equal results, bit by bit.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flamec import cpu_backend
from flamec.config import default_options
from flamec.element_copies import row_major
from flamec.errors import operation_error
from flamec.host_memory import HostMemory
from flamec.ir.graph import Graph, Node
from flamec.ir.op import OpKind
from flamec.ir.shape import evaluate_shape, product
from flamec.prepared import Prepared
from flamec.runtime.fork_locks import held_in_forks

LEAST_WORK = 1 << 22  # elements that the operations of a call give, so that it is compiled
_FREE = (OpKind.VIEW, OpKind.CREATION, OpKind.BARRIER, OpKind.CUSTOM)
_FAILING = (OpKind.GATHER, OpKind.SCATTER, OpKind.HOST, OpKind.KERNEL)
_PRODUCTS_AN_ELEMENT = 8  # products of a convolution that take as long as an element
_ELEMENTS_A_RUN = 8  # that take as long as NumPy needs to begin with a run of neighbours it reduces

_programs: dict[Any, Prepared] = {}
_lock = held_in_forks(threading.RLock())
_memory = HostMemory()


def is_worth_compiling(graph: Graph, bindings: Mapping[str, int], times: int = 1) -> bool:
    """Whether the graph's operations, one by one, take long if the graph is run ``times`` times;
    False without a C compiler."""
    return times * work_of(graph, bindings) >= LEAST_WORK and can_compile()


def work_of(graph: Graph, bindings: Mapping[str, int]) -> int:
    """The elements that the graph's operations give."""
    return sum(_work(node, bindings) for node in graph.nodes)


def may_fail(graph: Graph) -> bool:
    """Whether values may turn out to be wrong while the graph is run: an index, a matrix."""
    return any(node.op.kind in _FAILING or node.bodies for node in graph.nodes)


def can_compile() -> bool:
    """Whether there is a C compiler and the options ask for it."""
    options = default_options()
    return options.backend != "evaluate" and cpu_backend.is_available(options)


def _work(node: Node, bindings: Mapping[str, int]) -> int:
    """The elements that an operation gives, or what takes as long."""
    if node.op.kind in _FREE:
        return 0
    if node.op.kind is OpKind.LOOP:
        length = evaluate_shape((node.attributes["length"],), bindings)[0]
        return length * work_of(node.attributes["body"], bindings)
    if node.bodies:  # what is run of them only the values tell
        return max(work_of(body, bindings) for body in node.bodies.values())
    count = sum(product(evaluate_shape(v.type.shape, bindings)) for v in node.outputs)
    if node.op.kind is OpKind.CONVOLUTION:
        weight = evaluate_shape(node.inputs[1].type.shape, bindings)
        count = count * product(weight[1:]) // _PRODUCTS_AN_ELEMENT
    elif node.op.kind is OpKind.REDUCTION:
        shape = evaluate_shape(node.inputs[0].type.shape, bindings)
        last = max(node.attributes["axes"], default=-1) + 1
        run = product(shape[last:] if last < len(shape) else shape[-1:])
        count = product(shape) + _ELEMENTS_A_RUN * product(shape) // max(1, run)
    assert isinstance(count, int)
    return count


class CpuCall:
    """A program bound to sizes, on the thread that bound it."""

    def __init__(self, graph: Graph, prepared: Prepared, bindings: Mapping[str, int]) -> None:
        self.name = graph.name
        self.invocation = prepared.bind(tuple(bindings.values()))
        self.types = [
            v.type.with_shape(evaluate_shape(v.type.shape, bindings)) for v in graph.outputs
        ]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The results, in new arrays. Raises what the graph's operations raise."""
        invocation = self.invocation
        dense = []  # held until the program has run
        for position, array in enumerate(arrays):
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                array = row_major(array) if flags.aligned else np.array(array, order="C")
            dense.append(array)
            invocation.set_input(position, array)
        outputs = []
        for position, type in enumerate(self.types):
            array = _memory.empty(type)
            outputs.append(array)
            invocation.set_output(position, array)
        try:
            invocation.run()
        except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            raise operation_error(self.name, error) from error
        return outputs


def bind_graph(graph: Graph, bindings: Mapping[str, int]) -> CpuCall:
    """The graph's program with its sizes bound; CompileError if it cannot be made."""
    symbols = tuple(bindings)
    options = default_options()
    key = (graph.fingerprint(), symbols, options)
    with _lock:
        if key not in _programs:
            _programs[key] = cpu_backend.prepare(graph, symbols, options)
        prepared = _programs[key]
    return CpuCall(graph, prepared, bindings)
