"""Lower ``dot_general`` to a batched matrix product over even strides."""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.lower.kernel_builder import ParameterList
from flamec.codegen.lower.lanes import lane_type, memory_type
from flamec.ir.graph import Value
from flamec.ir.kernel import (
    Contraction,
    Linear,
    Load,
    MatrixOperand,
    Pass,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.layout import dense_strides
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


def place_product(program: RowProgram) -> RowProgram:
    """Let the product be written where the result will be, instead of into a panel in cache.

    That is possible where a stored value of the same type lies exactly as the product does and
    is stored no earlier than the product is read for the last time.
    """
    contraction = program.contraction
    if contraction is None or contraction.result >= 0:
        return program
    wanted = _product_place(program)
    reads = [
        number
        for number, block in enumerate(program.passes)
        for s in (*block.row, *block.element)
        if _reads_product(s)
    ]
    for number, block in enumerate(program.passes):
        for statement in block.element:
            if not isinstance(statement, Store) or number < max(reads, default=0):
                continue
            place = statement.place
            alike = statement.memory == contraction.memory and place.at == wanted
            if alike and not place.indices:
                return _with_product_in(program, place.parameter)
    return program


def _product_place(program: RowProgram) -> Linear:
    """Where a row-major product lies, for the loops of the program."""
    loops = (*program.rows, *program.inner)
    strides = dense_strides(tuple(loop.size for loop in loops))
    return Linear(0, strides[: len(program.rows)], strides[len(program.rows) :])


def _reads_product(statement: object) -> bool:
    return isinstance(statement, Load) and statement.place.parameter == -1


def _with_product_in(program: RowProgram, parameter: int) -> RowProgram:
    passes = []
    for block in program.passes:
        passes.append(Pass(_moved(block.row, parameter), _moved(block.element, parameter)))
    assert program.contraction is not None
    contraction = replace(program.contraction, result=parameter)
    return replace(program, passes=tuple(passes), contraction=contraction)


def _moved(statements: tuple[Statement, ...], parameter: int) -> tuple[Statement, ...]:
    """Statements that find the product in another parameter."""
    return tuple(
        replace(s, place=replace(s.place, parameter=parameter))
        if isinstance(s, Load) and _reads_product(s)
        else s
        for s in statements
    )
