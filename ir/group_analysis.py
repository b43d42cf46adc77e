"""Find the iteration space that a set of tasks has in common.

In: tasks in order. Out: a ``GroupSpace``; ``Incompatible`` says why the tasks cannot share
loops.
"""

from __future__ import annotations

from collections.abc import Sequence

from flamec.ir.graph import Value
from flamec.ir.group_rules import run_over
from flamec.ir.group_space import GroupSpace, Operand, is_assembled
from flamec.ir.iteration_space import Axis, Incompatible, leaves, unify
from flamec.ir.layout import Factor, coalesce
from flamec.ir.tasks import Task, TaskGraph


def analyze(
    tasks: Sequence[Task], context: TaskGraph, scalars: frozenset[Value] = frozenset()
) -> GroupSpace:
    """The common iteration space of ``tasks``; Incompatible if they have none.

    ``scalars``: those that they read of what the kernel computes before its loops.
    """
    tasks = [part for task in tasks for part in task.parts]
    space = _spaced(tasks, context, scalars)
    _link_components(space)
    if _link_loads(space) and _runs_together(space):
        space = _spaced(
            tasks, context, scalars
        )  # loads of one array in two directions: keep them apart
        _link_components(space)
    if _runs_together(space):
        raise Incompatible("two dimensions of one value would have to run together")
    return space


def _spaced(tasks: Sequence[Task], context: TaskGraph, scalars: frozenset[Value]) -> GroupSpace:
    space = GroupSpace(tasks, context, scalars)
    for value in scalars:
        space.dims[value] = []
    for task in tasks:
        dims = run_over(space, task)
        space.task_dims[task] = dims
        for value in task.results:
            if is_assembled(task):
                space.assembled.add(value)
            else:
                space.dims[value] = dims
    return space


def _runs_together(space: GroupSpace) -> bool:
    for value in space.dims:
        axes = space.value_axes(value)
        if len(set(axes)) != len(axes):
            return True
    return False


def _link_components(space: GroupSpace) -> None:
    """Tasks that share no value run together over what they both load, if they do."""
    components: list[tuple[set[Axis], list[Operand]]] = []
    for task in space.tasks:
        operands = space.operands[task]
        axes = set(leaves(axis for dim in space.task_dims[task] for axis in dim))
        for operand in operands:
            axes.update(operand.axes())
        if not axes:
            continue
        loads = [o for o in operands if _is_plain_load(o)]
        apart = []
        for known, found in components:
            if known.isdisjoint(axes):
                apart.append((known, found))
            else:
                axes |= known
                loads = found + loads
        components = [*apart, (axes, loads)]
    _, first = components[0] if components else (set(), [])
    for _, other in components[1:]:
        pair = next(((a, b) for a in first for b in other if _same_load(a, b)), None)
        if pair is None:
            raise Incompatible("they have neither values nor loads in common")
        _unify_loads(*pair)


def _link_loads(space: GroupSpace) -> bool:
    """Loads that agree on some loops agree on all: a row that is folded is the row that is
    then used. Whether anything changed."""
    changed = False
    known: dict[Value, list[Operand]] = {}
    for task in space.tasks:
        for operand in space.operands[task]:
            if not _is_plain_load(operand):
                continue
            others = known.setdefault(operand.source, [])
            for other in others:
                mine, theirs = operand.axes(), other.axes()
                shares = any(axis in theirs for axis in mine)
                if shares and mine != theirs and _same_load(operand, other):
                    _unify_loads(operand, other)
                    changed = True
                    break
            else:
                others.append(operand)
    return changed


def _is_plain_load(operand: Operand) -> bool:
    return operand.from_memory and operand.address is not None and not operand.indices


def _same_load(a: Operand, b: Operand) -> bool:
    """Whether two operands are the same elements in the same order, perhaps in other shapes."""
    if a.source is not b.source or a.guards or b.guards:
        return False
    assert a.address is not None and b.address is not None
    return a.address.offset == b.address.offset and _steps(a) == _steps(b)


def _steps(operand: Operand) -> list[Factor]:
    """How a load steps through memory, whatever the dimensions are."""
    assert operand.address is not None
    strides = operand.address.strides()
    return coalesce(Factor(axis.size, strides.get(axis, 0)) for axis in operand.axes())


def _unify_loads(a: Operand, b: Operand) -> None:
    unify([axis for dim in a.dims for axis in dim], [axis for dim in b.dims for axis in dim])
