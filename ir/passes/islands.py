"""Elementwise islands: sets of tasks that fusion looks at by themselves, equal ones once.

In: the tasks of a graph. Out: sets of elementwise tasks, each connected by values that one makes
and another reads, and what fusion made of one of them in a form that fits every other that looks
the same. A scalar that several sets read belongs to none of them. The chains between the products
of a network's layers are many equal islands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flamec.ir.graph import Location
from flamec.ir.passes.fusion_state import Dependencies, FusionState, WorkingGroup
from flamec.ir.task_signature import TaskSignatures
from flamec.ir.tasks import Task, only_scalars

LARGEST = 256  # tasks; what is larger is hardly there twice
Numbers = tuple[int, ...]  # of tasks: their places in their island


@dataclass(frozen=True)
class MergedIsland:
    """``groups``: what became one, of several tasks each. ``merges``: pairs in order, with the
    bytes saved. ``refused``: pairs of groups (by their first tasks), and why they stay apart."""

    groups: tuple[Numbers, ...]
    merges: tuple[tuple[Numbers, Numbers, int], ...]
    refused: tuple[tuple[int, int, str], ...]
    locations: tuple[Location | None, ...]


def find_islands(dependencies: Dependencies, wanted: Callable[[Task], bool]) -> list[list[Task]]:
    """The islands of several tasks among those ``wanted``, in order of their first tasks."""
    parent: dict[Task, Task] = {task: task for task in dependencies.tasks if wanted(task)}

    def find(task: Task) -> Task:
        while parent[task] is not task:
            parent[task] = task = parent[parent[task]]
        return task

    def join(a: Task, b: Task) -> None:
        a, b = find(a), find(b)
        if a is not b:
            first, second = (a, b) if a.position < b.position else (b, a)
            parent[second] = first

    scalar = {task: only_scalars((task,)) for task in parent}
    shared = []
    for task in parent:
        users = dependencies.users(task)
        if scalar[task] and len(users) > 1 and not all(scalar.get(user) for user in users):
            shared.append(task)
            users = [user for user in users if scalar.get(user)]
        for user in users:
            if user in parent:
                join(task, user)
    for task in reversed(shared):
        users = dependencies.users(task)
        if all(user in parent for user in users):
            homes = {find(user) for user in users if not scalar[user]}
            if len(homes) == 1:
                join(task, homes.pop())
    islands: dict[Task, list[Task]] = {}
    for task in parent:
        islands.setdefault(find(task), []).append(task)
    return [island for island in islands.values() if len(island) > 1]


def looks(
    island: Sequence[Task],
    dependencies: Dependencies,
    state: FusionState,
    signatures: TaskSignatures,
    early: frozenset[Task],
) -> object:
    """Equal for islands of which fusion makes the same; None for one that is like no other."""
    if len(island) > LARGEST:
        return None
    inside = set(island)
    if any(t.after or any(len(state.makers(v)) > 1 for v in t.results) for t in island):
        return None
    places = {state.bits_of(task): i for i, task in enumerate(island)}
    all_bits = 0
    for bits in places:
        all_bits |= bits
    outside = []  # how many tasks need a task (none, one, several); what of the island needs those
    for task in island:
        users = [user for user in dependencies.users(task) if user not in inside]
        needing = state.needing(users, places, all_bits) if users else ()
        outside.append((min(2, len(users)), *needing))
    signature, _ = signatures.of(island, state.escapes(island))
    return signature, tuple(outside), tuple([task in early for task in island])


def record(
    island: Sequence[Task],
    state: FusionState,
    merges: Sequence[tuple[WorkingGroup, WorkingGroup, int]],
    refused: Callable[[WorkingGroup, WorkingGroup], str | None],
) -> MergedIsland:
    """What has been made of an island."""
    number = {task: i for i, task in enumerate(island)}

    def numbers(group: WorkingGroup) -> Numbers:
        return tuple([number[task] for task in group.tasks])

    groups = state.groups_of(island)
    reasons = [(a, b, refused(a, b)) for a in groups for b in state.successors(a) if b in groups]
    return MergedIsland(
        tuple(numbers(group) for group in groups if len(group.tasks) > 1),
        tuple((numbers(a), numbers(b), saved) for a, b, saved in merges),
        tuple((number[a.tasks[0]], number[b.tasks[0]], why) for a, b, why in reasons if why),
        locations(island),
    )


def locations(island: Sequence[Task]) -> tuple[Location | None, ...]:
    """The user's lines that the tasks come from."""
    return tuple([node.location for task in island for node in task.origins])
