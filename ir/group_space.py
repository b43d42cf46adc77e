"""The iteration space of a set of tasks that are to share one loop nest: the record.

For every value computed in the group the axes of its dimensions, and for every operand
how it is found: computed in the group, loaded from a buffer, a constant, or a position
(iota). ``group_analysis.analyze`` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from flamec.ir.graph import Value
from flamec.ir.iteration_space import Axis, Dims, leaves
from flamec.ir.op import OpKind
from flamec.ir.shape import Dim, structurally_equal
from flamec.ir.tasks import Task, TaskGraph


@dataclass(slots=True)
class Address:
    """``offset`` plus, for each axis, index times stride; in elements."""

    offset: Dim
    terms: tuple[tuple[Axis, Dim], ...]
    _known: Mapping[Axis, Dim] | None = field(default=None, compare=False, repr=False)

    def strides(self) -> Mapping[Axis, Dim]:
        """The stride of each leaf axis; axes along which the address is constant are absent.

        What was found holds until one of its axes is split or merged.
        """
        known = self._known
        if known is None or any(axis.parts is not None for axis in known):
            known = self._known = self._strides_of_leaves()
        return known

    def _strides_of_leaves(self) -> Mapping[Axis, Dim]:
        strides: dict[Axis, Dim] = {}
        for axis, stride in self.terms:
            step: Dim = stride
            for leaf in reversed(leaves((axis,))):
                if not structurally_equal(step, 0):
                    strides[leaf] = strides.get(leaf, 0) + step
                step = step * leaf.size
        return strides


@dataclass(frozen=True)
class Guard:
    """The access is real where 0 <= ``index`` < size, else there is a fill value."""

    index: Address
    size: Dim


@dataclass
class Operand:
    """How one operand of one task is found.

    ``source`` is the root. ``computed``: it is a value of the group. Otherwise ``address`` is
    where it is loaded; of an iota the address *is* the value; a constant has neither.
    ``indices`` are computed offsets: (operand, stride, size of the indexed dimension, whether it
    is known to lie in that). ``fill`` is the constant that stands where a guard fails (None: what
    the task says).
    """

    source: Value
    dims: Dims
    computed: bool = False
    from_memory: bool = False
    address: Address | None = None
    indices: tuple[tuple[Operand, Dim, Dim, bool], ...] = ()
    guards: tuple[Guard, ...] = ()
    fill: Value | None = None

    @property
    def is_position(self) -> bool:
        return self.address is not None and not self.from_memory

    def axes(self) -> list[Axis]:
        """The leaf axes over which the operand's dimensions run."""
        return leaves([axis for dim in self.dims for axis in dim])


@dataclass
class GroupSpace:
    """See the module's docstring.

    ``task_dims`` are the dimensions that each task runs over to give its results (for a
    reduction, those of the result). ``regions`` says where copies write, ``positions`` which
    element of a row-major array is meant (random bits, iota, the column of a placed value).
    ``picks`` are the gathers that fold a computed row. ``stores``: where results lie,
    as far as that was asked (``memory_order.store_address``). ``scalars`` are those of other
    tasks that the kernel computes before its loops.
    """

    tasks: Sequence[Task]
    context: TaskGraph
    scalars: frozenset[Value] = frozenset()
    dims: dict[Value, Dims] = field(default_factory=dict)
    task_dims: dict[Task, Dims] = field(default_factory=dict)
    operands: dict[Task, list[Operand]] = field(default_factory=dict)
    regions: dict[Task, Address] = field(default_factory=dict)
    positions: dict[Task, Address] = field(default_factory=dict)
    assembled: set[Value] = field(default_factory=set)
    picks: set[Task] = field(default_factory=set)
    stores: dict[Value, Address] = field(default_factory=dict)

    def task_axes(self, task: Task) -> list[Axis]:
        """The leaf axes that a task runs over."""
        return leaves([axis for dim in self.task_dims[task] for axis in dim])

    def value_axes(self, value: Value) -> list[Axis]:
        return leaves([axis for dim in self.dims[value] for axis in dim])

    def all_axes(self) -> list[Axis]:
        """Every leaf axis once, in the order of first appearance."""
        seen: dict[Axis, None] = {}
        for task in self.tasks:
            for operand in self.operands[task]:
                seen.update(dict.fromkeys(operand.axes()))
            seen.update(dict.fromkeys(self.task_axes(task)))
        return list(seen)


def is_assembled(task: Task) -> bool:
    """Whether a task fills only a part of its result, or adds to what is there."""
    scatters = task.node is not None and task.node.op.kind is OpKind.SCATTER
    return task.is_copy or (scatters and not task.one_per_row)
