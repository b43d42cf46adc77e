"""What sets of tasks look like, wherever they stand in a graph.

In: tasks. Out: a hashable signature; ``TaskSignatures.of`` is equal for two sets exactly if
they do the same to values of the same types that are connected in the same way, and know the same
of the numbers in their operands' borders. The equal layers of a network so need be analysed and
lowered only once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from flamec.ir.graph import Node, Value
from flamec.ir.op import OpKind
from flamec.ir.shape import structural_key
from flamec.ir.tasks import Task, TaskGraph

Signature = tuple[tuple[int, ...], ...]


class TaskSignatures:
    """Signatures of the tasks of one graph, whose roots stay as they are."""

    def __init__(self, context: TaskGraph) -> None:
        self.context = context
        self._numbers: dict[Any, int] = {}
        self._tasks: dict[Task, tuple[int, tuple[Value, ...]]] = {}

    def of(self, tasks: Iterable[Task], stored: Container[Value]) -> tuple[Signature, list[Value]]:
        """The signature, and the roots that the tasks read and make in order of appearance.

        ``stored``: the results among them that need memory. The roots of two sets with equal
        signatures correspond, one by one.
        """
        known, numbers = self._tasks, dict[Value, int]()
        tasks = list(tasks)
        looks = [known.get(task) or self._task(task) for task in tasks]
        own = tuple([number for number, _ in looks])
        roots = tuple([numbers.setdefault(r, len(numbers)) for _, found in looks for r in found])
        kept = tuple([value in stored for task in tasks for value in task.results])
        return (own, roots, kept), list(numbers)

    def _task(self, task: Task) -> tuple[int, tuple[Value, ...]]:
        """A number for what a task does by itself, and the roots it reads and makes."""
        if task not in self._tasks:  # else it was found in ``of``
            operands: list[Any] = []
            roots_in_memory = self.context.roots
            if task.kind is OpKind.CONTRACTION:
                pads = map(self.context.zeros_around, self.context.roots_of(task))
                operands.extend(map(_node_key, pads))
            for value in task.operands:
                root, chain = self.context.resolve(value)
                if not chain and root in roots_in_memory:
                    operands.append(root.type.number)
                    continue
                made = None if root in roots_in_memory else _node_key(root.node)
                operands.append((root.type.number, made, *map(self._view_key, chain)))
            region = task.region
            key = (
                _node_key(task.node) if task.ending is None else task.ending.looks,
                tuple(operands),
                tuple([value.type.number for value in task.results]),
                region and (structural_key((region.offset,)), _factors(region.dims)),
                task.from_memory,
                task.one_per_row,
                bool(task.after),
            )
            number = self._numbers.setdefault(key, len(self._numbers))
            roots = (*self.context.roots_of(task), *task.results)
            self._tasks[task] = number, roots
        return self._tasks[task]

    def _view_key(self, node: Node) -> Any:
        """A border is a view that has a number, too."""
        numbers = [repr(self.context.constant(value)) for value in node.inputs[1:]]
        return (_node_key(node), *numbers)


def _node_key(node: Node | None) -> Any:
    if node is None:
        return None
    return (node.op.name, node.attributes_key, *[value.type.number for value in node.outputs])


def _factors(dims: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    return tuple(tuple(structural_key(factor) for factor in dim) for dim in dims)
