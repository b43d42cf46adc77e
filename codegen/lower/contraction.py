"""Lower ``dot_general`` to a batched matrix product over strides, even ones where there are."""

from __future__ import annotations

from collections.abc import Sequence

from flamec.codegen.lower.depth_order import in_one_order
from flamec.codegen.lower.direct_results import exchanged
from flamec.codegen.lower.lanes import lane_type, memory_type
from flamec.codegen.lower.value_lowering import ValueLowering
from flamec.codegen.lower.zero_borders import with_borders
from flamec.ir.graph import Value
from flamec.ir.kernel import Contraction, MatrixOperand, Prologue, Steps, UnevenSteps
from flamec.ir.layout import Factor
from flamec.ir.matrix_layout import matrix_steps, matrix_strides
from flamec.ir.passes.absorb_prologues import Absorbed, operand_space
from flamec.ir.shape import Dim, product
from flamec.ir.tasks import Task, TaskGraph


def lower_contraction(
    task: Task,
    context: TaskGraph,
    builder: ValueLowering,
    escapes: set[Value],
    absorbed: Absorbed,
) -> Contraction:
    """The product of a ``dot_general`` task. Its operands are in even memory (``tasks``), or are
    computed by the tasks that it absorbed."""
    assert task.node is not None
    parameters = builder.parameters
    node, value = task.node, task.results[0]
    attributes = node.attributes
    sizes: list[Dim] = []
    operands = []
    for position, source in enumerate(task.operands):
        contract_axes = attributes["contract"][position]
        used = (*contract_axes, *attributes["batch"][position])
        shape = source.type.shape
        sizes.append(product(d for i, d in enumerate(shape) if i not in used))
        if (task, position) in absorbed:
            prologue = _prologue(task, position, absorbed, context, builder)
            operands.append(MatrixOperand(-1, 0, (), 0, 0, prologue))
            continue
        layout = context.layout(source)
        assert layout is not None
        strides = matrix_strides(node, position, layout)
        batch, free, contracted = matrix_steps(node, position, layout)
        operands.append(
            MatrixOperand(
                parameters.number(context.root(source)),
                layout.offset,
                _steps(batch),
                0 if strides is None else strides[1].stride,
                0 if strides is None else strides[2].stride,
                uneven=UnevenSteps(_steps(free), _steps(contracted)) if strides is None else None,
            )
        )
    left_shape = task.operands[0].type.shape
    depth = product(left_shape[i] for i in attributes["contract"][0])
    left, right = in_one_order(operands[0], operands[1], sizes[0], sizes[1], depth)
    if left.uneven is not None:
        first, second = (context.root(operand) for operand in task.operands)
        left, right = with_borders(left, first, context), with_borders(right, second, context)
    whole = Contraction(
        memory_type(value.type.dtype),
        lane_type(value.type.dtype),
        product(left_shape[i] for i in attributes["batch"][0]),
        sizes[0],
        sizes[1],
        depth,
        left,
        right,
        parameters.number(value, written=True) if value in escapes else -1,
        part_of=attributes.get("part_of", ""),
    )
    return exchanged(whole) if len(builder.space.tasks) == 1 else whole


def _steps(factors: Sequence[Factor]) -> Steps:
    return tuple((f.size, f.stride) for f in factors)


def _prologue(
    task: Task, position: int, absorbed: Absorbed, context: TaskGraph, builder: ValueLowering
) -> Prologue:
    """The statements of an operand; loads are of the program's parameters."""
    found = operand_space(absorbed[task, position], task, position, context)
    lowering = ValueLowering(found.space, found.nest, set(), builder.kernel)
    lowering.parameters, lowering.imports = builder.parameters, builder.imports
    name, row, element = lowering.statements_of(found.operand)
    dtype = task.operands[position].type.dtype
    rows, inner = lowering.loops()
    return Prologue(
        memory_type(dtype),
        lane_type(dtype),
        name,
        rows,
        inner,
        tuple(row.statements),
        tuple(element.statements),
    )
