"""A graph made runnable: the record, and what every backend offers.

In: a traced graph and options. Out: ``Prepared``, whose ``runner`` executes it and
whose properties show the stages in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from flamec.config import CompileOptions
from flamec.errors import CompileError
from flamec.ir.graph import Graph
from flamec.ir.passes.manager import PassRecord, run_passes
from flamec.ir.passes.pipeline import pipeline
from flamec.ir.plan import ExecutionPlan
from flamec.ir.types import Device

if TYPE_CHECKING:
    from flamec.codegen.compile_graph import CompiledGraph
    from flamec.codegen.options import CodegenOptions

VERSION = "0.1.0"


class Invocation(Protocol):
    """A program with its sizes bound: set inputs and outputs (arrays of its device), then run."""

    def set_input(self, position: int, array: Any) -> None: ...
    def set_output(self, position: int, array: Any) -> None: ...
    def run(self) -> None: ...


class Runner(Protocol):
    """A compiled graph."""

    def bind(self, sizes: tuple[int, ...]) -> Invocation: ...


@dataclass
class Prepared:
    """A graph made runnable, and what that took."""

    graph: Graph
    runner: Runner | None
    options: CompileOptions
    plan: ExecutionPlan | None
    codegen: CodegenOptions | None = None
    kernels_compiled: int = 0
    kernels_from_cache: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def bind(self, sizes: tuple[int, ...]) -> Invocation:
        """The program with its symbolic sizes bound."""
        assert self.runner is not None
        return self.runner.bind(sizes)

    @cached_property
    def pass_records(self) -> list[PassRecord]:
        """Every run of a pass, in order; made again if the program came from the cache."""
        return run_passes(self.graph, pipeline(), self.options.verify)[1]

    @cached_property
    def optimized(self) -> Graph:
        """The graph after all passes."""
        return self.pass_records[-1].after

    @cached_property
    def compiled(self) -> CompiledGraph:
        """Fusion groups, kernels and plan; made again if the program came from the cache."""
        if graph_device(self.graph).type == "cuda":
            from flamec.codegen.triton import compile_graph as gpu

            return gpu.compile_graph(self.optimized, self.codegen)
        from flamec.codegen.compile_graph import compile_graph

        return compile_graph(self.optimized, self.codegen)


def graph_device(graph: Graph) -> Device:
    """The one device of a graph's values; CompileError where there are several."""
    values = [*graph.inputs, *(v for node in graph.nodes for v in node.outputs)]
    devices = dict.fromkeys(v.type.device for v in values)
    if len(devices) > 1:
        names = ", ".join(map(str, devices))
        raise CompileError(f"{graph.name} has values on several devices ({names})")
    return next(iter(devices), Device())


def cache_key(graph: Graph, symbols: Sequence[str], identity: str) -> str:
    """The name of a graph's program in the cache."""
    text = "\n".join([VERSION, graph.fingerprint(), ",".join(symbols), identity])
    return hashlib.sha256(text.encode()).hexdigest()
