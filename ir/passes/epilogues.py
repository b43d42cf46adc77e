"""What may follow a matrix product in its kernel.

In: the tasks of a group with a product, and the values that it would store. Out: why they should
not be one kernel; "" if they should.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flamec.ir.estimates import estimate, value_bytes
from flamec.ir.graph import Value
from flamec.ir.matrix_layout import matrix_strides
from flamec.ir.op import OpKind
from flamec.ir.passes.fusion_state import FusionState
from flamec.ir.shape import product as dim_product
from flamec.ir.tasks import Task

EPILOGUE_TENSORS = 4  # that an epilogue may touch beside the product
ALWAYS_CACHED = 1 << 17  # bytes that are no burden to any cache
SMALL = 8  # how many times smaller than a value its bias or its row's statistics are
FEW_ROWS = 64
LARGE_PRODUCT = 1 << 22  # multiplications that are worth several threads


def heavy_epilogue(state: FusionState, tasks: Sequence[Task], escapes: set[Value]) -> str:
    """Where a product is computed in panels that its epilogue finds in cache."""
    product = _product(tasks)
    *batch, rows, columns = product.results[0].type.shape
    assert product.node is not None
    depth = product.operands[0].type.shape[product.node.attributes["contract"][0][0]]
    count = dim_product((*batch, rows))
    few = isinstance(count, int) and count < FEW_ROWS and estimate(columns) > 4 * count
    if few and estimate(count * columns * depth) > LARGE_PRODUCT:
        return "a product of few rows is divided among threads along its columns"
    size = value_bytes(product.results[0])
    operands = {state.context.root(v) for v in product.operands}
    touched = (state.inputs(tasks) - operands) | (escapes - set(product.results))
    total = sum(value_bytes(v) for v in touched)
    if total > max(EPILOGUE_TENSORS * size, ALWAYS_CACHED):
        return "the epilogue moves more memory than the product"
    return ""


def wide_epilogue(state: FusionState, tasks: Sequence[Task], escapes: set[Value]) -> str:
    """An epilogue takes the product's place in memory; it does not leave much more there.

    What must be in memory for others is free, and what can be computed again from the rest.
    """
    product = _product(tasks)
    makers = {v: t for t in tasks for v in t.results}
    known = {v for v in escapes if state.is_result(v) or state.in_memory(v)}
    kept = 0
    for value in (v for t in tasks for v in t.results if v in escapes and v not in known):
        if not _follows(state, value, known, makers):
            narrow = _narrowest(state, value, makers)
            kept += value_bytes(makers[value].operands[0] if makers[value].is_copy else narrow)
            known.add(narrow)
        known.add(value)
    if kept > value_bytes(product.results[0]):
        return "the epilogue would leave more in memory than the product"
    return ""


def only_rearranges(state: FusionState, tasks: Sequence[Task], escapes: set[Value]) -> bool:
    """Whether tasks are a product and a copy of its result in another order, which a product of
    operands that are no matrices writes itself."""
    if len(tasks) != 2 or not state.context.uneven_products:
        return False
    product, copy = tasks
    if product.kind is not OpKind.CONTRACTION or not copy.is_copy or product.node is None:
        return False
    layouts = map(state.context.layout, product.operands)
    even = (
        layout is not None and matrix_strides(product.node, position, layout) is not None
        for position, layout in enumerate(layouts)
    )
    return not all(even) and escapes.isdisjoint(product.results)


def _product(tasks: Sequence[Task]) -> Task:
    return next(t for t in tasks if t.kind is OpKind.CONTRACTION)


def _narrowest(state: FusionState, value: Value, makers: Mapping[Value, Task]) -> Value:
    """What can be in memory instead: a value that was only widened."""
    task = makers[value]
    if task.kind is not OpKind.ELEMENTWISE or len(task.operands) > 1:
        return value
    root = state.context.root(task.operands[0])
    return root if root in makers and value_bytes(root) < value_bytes(value) else value


def _follows(
    state: FusionState, value: Value, known: set[Value], makers: Mapping[Value, Task]
) -> bool:
    """Whether ``value`` can be computed again from what is known and from small values."""
    pending = [value]
    while pending:
        task = makers[pending.pop()]
        if task.kind is not OpKind.ELEMENTWISE:
            return False
        for root in (state.context.root(operand) for operand in task.operands):
            if root in known or root not in state.context.roots:
                continue
            if root in makers:
                pending.append(root)
            elif SMALL * value_bytes(root) > value_bytes(value):
                return False
    return True
