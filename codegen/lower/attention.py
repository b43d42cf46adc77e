"""Lower attention to the matrices that its kernels read and write."""

from __future__ import annotations

from flamec.codegen.lower.kernel_builder import ParameterList
from flamec.codegen.lower.lanes import memory_type
from flamec.ir.graph import Value
from flamec.ir.kernel import Attention, MatrixOperand
from flamec.ir.layout import Layout, dense
from flamec.ir.matrix_layout import even_matrix
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.shape import product
from flamec.ir.tasks import Task, TaskGraph


def lower_attention(task: Task, context: TaskGraph, parameters: ParameterList) -> Attention:
    """The attention of a task, forward or backward. Its operands are in even memory (``tasks``);
    results lie densely in the orders that the node asks for."""
    node = task.node
    assert node is not None
    q, k, v, *rest = task.operands
    backward = len(rest) >= 3
    mask = rest[:-3] if backward else rest

    def given(value: Value) -> MatrixOperand:
        layout = context.layout(value)
        assert layout is not None
        return _matrix(parameters.number(context.root(value)), layout)

    def made(value: Value, order: tuple[int, ...]) -> MatrixOperand:
        whole = dense(value.type.shape)
        dims = tuple(whole.dims[axis] for axis in inverse_permutation(order))
        return _matrix(parameters.number(value, written=True), Layout(whole.offset, dims))

    def part_of(value: Value, n: int, axis: int, order: tuple[int, ...]) -> MatrixOperand:
        whole = dense(value.type.shape)
        rest = (*whole.dims[:axis], *whole.dims[axis + 1 :])
        dims = tuple(rest[axis] for axis in inverse_permutation(order))
        offset = whole.dims[axis][0].stride * n
        return _matrix(parameters.number(value, written=True), Layout(offset, dims))

    query, key, value, *masks = map(given, (q, k, v, *mask))
    orders = node.attributes["orders"]
    results, delta = [], -1
    if backward:
        result = given(rest[-3])
        logarithm, delta = (parameters.number(context.root(x)) for x in rest[-2:])
        if "stacked" in node.attributes:
            results = [
                part_of(task.results[0], n, node.attributes["stacked"], order)
                for n, order in enumerate(orders)
            ]
        else:
            results = [made(x, order) for x, order in zip(task.results, orders, strict=True)]
    else:
        result = made(task.results[0], orders[0])
        logarithm = parameters.number(task.results[1], written=True)
    *batch, rows, depth = q.type.shape
    width = v.type.shape[-1]
    assert isinstance(depth, int) and isinstance(width, int), "the size of a head is a number"
    return Attention(
        memory_type(q.type.dtype),
        product(batch),
        rows,
        k.type.shape[-2],
        depth,
        width,
        node.attributes["scale"],
        node.attributes["lower"],
        node.attributes["upper"],
        node.attributes["zero_rows"],
        query,
        key,
        value,
        masks[0] if masks else None,
        result,
        logarithm,
        delta,
        tuple(results),
    )


def _matrix(parameter: int, layout: Layout) -> MatrixOperand:
    found = even_matrix(layout)
    assert found is not None
    batch, row, column = found
    factors = tuple((f.size, f.stride) for f in batch)
    return MatrixOperand(parameter, layout.offset, factors, row.stride, column.stride)
