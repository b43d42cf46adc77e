"""Endings (``ir.endings``) stay one task where fusion would make one kernel of them anyway.

In: the tasks of a graph. Out: the same; endings of which fusion makes several kernels, when it
looks at nothing else, are divided into their operations. Endings that look alike are tried once.
"""

from __future__ import annotations

from collections.abc import Callable

from flamec.ir.passes.islands import MergedIsland, locations
from flamec.ir.task_signature import Signature, TaskSignatures
from flamec.ir.tasks import Task, TaskGraph


def keep_endings(
    context: TaskGraph,
    signatures: TaskSignatures,
    merge: Callable[[TaskGraph], MergedIsland | None],
) -> list[tuple[MergedIsland, Task]]:
    """``merge``: how an ending, given by itself, becomes one kernel; None if it does not. Returns
    that for each kind of ending, with the first one from each place of the user's program."""
    models: dict[Signature, MergedIsland | None] = {}
    first: dict[object, tuple[MergedIsland, Task]] = {}
    divided: set[Task] = set()
    for task in context.tasks:
        if task.ending is None:
            continue
        key, _ = signatures.of((task,), task.results)
        if key not in models:
            models[key] = merge(context.of_ending(task))
        model = models[key]
        if model is None:
            divided.add(task)
        else:
            first.setdefault((key, locations((task,))), (model, task))
    if divided:
        context.open_endings(divided)
    return list(first.values())
