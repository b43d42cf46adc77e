"""What a compiled variant costs besides time: kernels, bytes moved, memory.

In: a program that ran and the values of its sizes. Out: numbers; None where the program has
no plan because it runs through NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flamec.compiled_function import CompiledFunction, Variant
from flamec.differentiable import DifferentiableProgram
from flamec.ir.graph import Graph
from flamec.ir.op import OpKind
from flamec.ir.passes.plan_memory import plan_memory
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim, product
from flamec.ir.types import TensorType
from flamec.split_program import SplitProgram

_FREE = (OpKind.VIEW, OpKind.BARRIER)


@dataclass(frozen=True)
class Cost:
    """Operations that eager runs and bytes they move; kernels and bytes of the program."""

    operations: int
    operation_bytes: int
    kernels: int | None
    kernel_bytes: int | None
    arena_bytes: int | None


def program_cost(program: Variant) -> Cost:
    """The cost of the variant for the sizes that it was traced with (its forward program)."""
    whole = program.original if isinstance(program, DifferentiableProgram) else program.captured
    bindings = whole.trace.oracle.hints
    operations, operation_bytes = eager_cost(whole.graph, bindings)
    segments = program.segments if isinstance(program, SplitProgram) else []
    plans = [p.plan for p in (*(s.prepared for s in segments), program.prepared) if p.plan]
    if not plans:
        return Cost(operations, operation_bytes, None, None, None)
    return Cost(
        operations,
        operation_bytes,
        sum(plan.kernel_count for plan in plans),
        sum(evaluate_dim(plan.bytes_moved(), bindings) for plan in plans),
        max(arena_bytes(plan, bindings) for plan in plans),
    )


def latest_cost(function: CompiledFunction) -> Cost:
    """The cost of the variant that ran last."""
    return program_cost(function.programs[0])


def eager_cost(graph: Graph, bindings: Mapping[str, int]) -> tuple[int, int]:
    """Operations other than views, and the bytes that they read and write one by one."""
    nodes = [n for n in graph.nodes if n.op.kind not in _FREE]
    moved = sum(
        type_bytes(value.type, bindings)
        for node in nodes
        for value in (*node.inputs, *node.outputs)
    )
    return len(nodes), moved


def type_bytes(type: TensorType, bindings: Mapping[str, int]) -> int:
    """The size of a dense array of this type."""
    return evaluate_dim(product(type.shape), bindings) * type.dtype.itemsize


def arena_bytes(plan: ExecutionPlan, bindings: Mapping[str, int]) -> int:
    """The peak of the arena that temporaries share."""
    return plan_memory(plan, bindings).peak_bytes
