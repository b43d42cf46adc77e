"""Lower ``dot_general`` to a batched matrix product over even strides."""

from __future__ import annotations

from flamec.codegen.lower.kernel_builder import ParameterList
from flamec.codegen.lower.lanes import lane_type, memory_type
from flamec.ir.graph import Value
from flamec.ir.kernel import Contraction, MatrixOperand
from flamec.ir.shape import Dim, product
from flamec.ir.tasks import Task, TaskGraph, matrix_strides


def lower_contraction(
    task: Task, context: TaskGraph, parameters: ParameterList, escapes: set[Value]
) -> Contraction:
    """The product of a ``dot_general`` task. Its operands are in even memory (``tasks``)."""
    assert task.node is not None
    node, value = task.node, task.results[0]
    attributes = node.attributes
    sizes: list[Dim] = []
    operands = []
    for position, source in enumerate(task.operands):
        layout = context.layout(source)
        assert layout is not None
        strides = matrix_strides(node, position, layout)
        assert strides is not None
        batch, free, contracted = strides
        contract_axes = attributes["contract"][position]
        used = (*contract_axes, *attributes["batch"][position])
        shape = source.type.shape
        sizes.append(product(d for i, d in enumerate(shape) if i not in used))
        operands.append(
            MatrixOperand(
                parameters.number(context.root(source)),
                layout.offset,
                tuple((f.size, f.stride) for f in batch),
                free.stride,
                contracted.stride,
            )
        )
    left_shape = task.operands[0].type.shape
    return Contraction(
        memory_type(value.type.dtype),
        lane_type(value.type.dtype),
        product(left_shape[i] for i in attributes["batch"][0]),
        sizes[0],
        sizes[1],
        product(left_shape[i] for i in attributes["contract"][0]),
        operands[0],
        operands[1],
        parameters.number(value, written=True) if value in escapes else -1,
    )
