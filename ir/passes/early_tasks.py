"""Find what should be finished before the large rows of a program are begun.

In: the tasks of a graph. Out: small tasks that lead to a number folded over everything, which
something large needs: the count of targets by which a mean loss, and so each row of its gradient,
is divided. Were they in the kernel that folds the rows for the loss, the gradient would have to
wait for that kernel's last row, and would need a kernel, and a pass over the logits, of its own.
"""

from __future__ import annotations

from flamec.ir.estimates import value_bytes
from flamec.ir.graph import Value
from flamec.ir.op import OpKind
from flamec.ir.shape import product, structurally_equal
from flamec.ir.tasks import Task, TaskGraph

LARGE = 1 << 20  # bytes that are worth a kernel more
RATIO = 64  # by which they are more than what is computed early


def early_tasks(context: TaskGraph) -> frozenset[Task]:
    """See the module's docstring."""
    if max(map(value_bytes, context.roots), default=0) < LARGE:
        return frozenset()
    size = {task: _most_bytes(context, task) for task in context.tasks}
    below: dict[Task, int] = {}  # the most bytes of what needs a task
    for task in reversed(context.tasks):
        below.setdefault(task, 0)
        for other in context.dependencies(task):
            below[other] = max(below.get(other, 0), size[task], below[task])
    found: set[Task] = set()
    for task in context.tasks:
        if _folds_everything(task) and below[task] >= LARGE:
            made = _with_ancestors(context, task, size, below[task] // RATIO)
            found |= made
    return frozenset(found)


def _most_bytes(context: TaskGraph, task: Task) -> int:
    """The size of the largest array that a task reads or makes."""
    values: set[Value] = {*task.results, *context.roots_of(task)}
    return max(map(value_bytes, values), default=0)


def _folds_everything(task: Task) -> bool:
    if task.kind is not OpKind.REDUCTION:
        return False
    (result,) = task.results
    return structurally_equal(product(result.type.shape), 1)


def _with_ancestors(context: TaskGraph, task: Task, size: dict[Task, int], most: int) -> set[Task]:
    """A task and all that it needs; nothing if one of those is large."""
    made: set[Task] = set()
    pending = [task]
    while pending:
        one = pending.pop()
        if one in made:
            continue
        if size[one] > most:
            return set()
        made.add(one)
        pending += context.dependencies(one)
    return made
