"""Lower a sort to the lines of memory that it puts in order."""

from __future__ import annotations

from flamec.codegen.lower.kernel_builder import ParameterList
from flamec.codegen.lower.lanes import memory_type
from flamec.ir.kernel import Sort
from flamec.ir.shape import product
from flamec.ir.tasks import Task, TaskGraph


def lower_sort(task: Task, context: TaskGraph, parameters: ParameterList) -> Sort:
    """The sort of a task, whose operand is a whole buffer (``tasks``)."""
    node = task.node
    assert node is not None
    (x,), (values, places) = task.operands, task.results
    shape, axis = x.type.shape, node.attributes["axis"]
    descending = node.attributes.get("descending", node.attributes.get("largest"))
    assert isinstance(descending, bool), "an order has a direction"
    return Sort(
        memory_type(x.type.dtype),
        product(shape[:axis]),
        shape[axis],
        product(shape[axis + 1 :]),
        descending,
        values.type.shape[axis],
        parameters.number(context.root(x)),
        parameters.number(values, written=True),
        parameters.number(places, written=True),
    )
