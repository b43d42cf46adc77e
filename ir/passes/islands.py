"""Islands: sets of tasks that fusion looks at by themselves, equal ones once.

In: the tasks of a graph. Out: sets of tasks, each connected by values that one makes and another
reads and that a kernel may keep, and what fusion made of one of them in a form that fits every
other that looks the same. Two tasks are not connected by a value if something that can be in no
kernel with both stands between them on another way, so that they never share one either: the
layers of a network are many equal islands, although each adds to what the one before gave. A scalar
that several sets read belongs to none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence
from dataclasses import dataclass
from operator import attrgetter

from flamec.ir.graph import Location
from flamec.ir.passes.fusion_state import Dependencies, FusionState, WorkingGroup
from flamec.ir.task_signature import TaskSignatures
from flamec.ir.tasks import Task

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


@dataclass(frozen=True)
class Islands:
    """``sets``: the tasks of each island, in order; the islands are in order of their first tasks.
    ``apart``: groups, others that need them but never share a kernel with them, and why; ``open``:
    tasks of groups that may share one with a group of another island."""

    sets: list[list[Task]]
    apart: list[tuple[WorkingGroup, WorkingGroup, str]]
    open: list[Task]


def find_islands(
    state: FusionState,
    wanted: Collection[WorkingGroup],
    scalar: Callable[[WorkingGroup], bool],
    separate: Callable[[WorkingGroup, WorkingGroup], str],
    between: str,
) -> Islands:
    """The islands of several groups among those ``wanted``.

    ``scalar``: whether a group is operations on scalars only; ``separate``: why a group can be in
    no kernel with one that needs it, "" if it can; ``between``: that others stand between them.
    """
    parent = {group: group for group in sorted(wanted, key=attrgetter("position"))}

    def find(group: WorkingGroup) -> WorkingGroup:
        while parent[group] is not group:
            parent[group] = group = parent[parent[group]]
        return group

    def join(a: WorkingGroup, b: WorkingGroup) -> None:
        a, b = find(a), find(b)
        if a is not b:
            first, second = (a, b) if a.position < b.position else (b, a)
            parent[second] = first

    scalars = {group for group in parent if scalar(group)}
    ways = _ways(state, parent, separate, between)
    apart: list[tuple[WorkingGroup, WorkingGroup, str]] = []
    shared, crossing = [], []
    for group in parent:
        users, reasons = ways[group]
        is_scalar = group in scalars
        several = is_scalar and len(users) > 1 and not scalars.issuperset(users)
        if several:
            shared.append(group)
        for user, why in reasons.items():
            if why:
                apart.append((group, user, why))
            elif (user in scalars) is is_scalar or (is_scalar and not several):
                join(group, user)
            else:
                crossing.append(group.tasks[0])
    for group in reversed(shared):
        users = ways[group][0]
        if parent.keys() >= users:
            homes = {find(user) for user in users if user not in scalars}
            if len(homes) == 1:
                join(group, homes.pop())
    islands: dict[WorkingGroup, list[WorkingGroup]] = {}
    for group in parent:
        islands.setdefault(find(group), []).append(group)
    sets = (
        [t for group in groups for t in group.tasks] for groups in islands.values() if groups[1:]
    )
    in_order = [sorted(tasks, key=attrgetter("position")) for tasks in sets]
    return Islands(in_order, apart, crossing)


_Ways = tuple[set[WorkingGroup], dict[WorkingGroup, str]]


def _ways(
    state: FusionState,
    wanted: Container[WorkingGroup],
    separate: Callable[[WorkingGroup, WorkingGroup], str],
    between: str,
) -> dict[WorkingGroup, _Ways]:
    """For each group wanted its users, and why it is apart from those of them that are wanted:
    also because they are reached another way on which a kernel ends."""
    below = {group: state.below(group) for group in state.groups()}
    beyond: dict[WorkingGroup, int] = {}  # what is reached from a group through the end of a kernel
    found: dict[WorkingGroup, _Ways] = {}
    for group in sorted(below, key=lambda group: below[group].bit_count()):  # what needs it first
        reached, users, inside = 0, state.successors(group), group in wanted
        reasons: dict[WorkingGroup, str] = {}
        for user in users:
            why = between
            if inside and user in wanted:
                why = reasons[user] = separate(group, user)
            reached |= below[user] | user.bits if why else beyond[user]
        beyond[group] = reached
        if inside:
            for user, why in reasons.items():
                if not why and reached & user.bits:
                    reasons[user] = between
            found[group] = users, reasons
    return found


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
    # how many tasks need a task (none, one, several), and what of the island needs those
    outside: list[tuple[int, ...]] = []
    for task in island:
        users = [user for user in dependencies.users(task) if user not in inside]
        needing = state.needing(users, places, all_bits) if users else ()
        outside.append((min(2, len(users)), *needing))
    signature, _ = signatures.of(island, state.escapes(island))
    groups = tuple([places[state.bits_of(task)] for task in island])
    return signature, groups, tuple(outside), tuple([task in early for task in island])


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
