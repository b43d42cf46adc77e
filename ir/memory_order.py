"""How a group's operands and results lie in memory, as its loops see them.

In: a group's axes (``GroupSpace``) and which of its values are stored. Out: the addresses that it
loads and stores, with their weight in bytes; which neighbouring loops may be one for all of them;
and the order of loops that takes most bytes one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flamec.ir.estimates import estimate
from flamec.ir.graph import Value
from flamec.ir.group_space import Address, GroupSpace
from flamec.ir.iteration_space import Axis, leaves
from flamec.ir.layout import dense
from flamec.ir.shape import Dim, product, structurally_equal


def extent(axes: Sequence[Axis]) -> int:
    return estimate(product(axis.size for axis in axes))


def accesses(space: GroupSpace, escapes: set[Value]) -> list[tuple[Address, int]]:
    """All loads and stores of a group with their weight in bytes; stores count twice."""
    found: list[tuple[Address, int]] = []
    for task in space.tasks:
        for operand in space.operands[task]:
            if operand.address is not None and operand.from_memory:
                size = operand.source.type.dtype.itemsize
                found.append((operand.address, size))
        for value in task.results:
            size = value.type.dtype.itemsize
            if task in space.regions:
                found.append((space.regions[task], 2 * size))
            elif value in escapes and value in space.dims:
                found.append((store_address(space, value), 2 * size))
    return found


def all_addresses(space: GroupSpace, escapes: set[Value]) -> list[Address]:
    """Every linear form of the indices that a kernel evaluates; loops must agree with all."""
    found = [address for address, _ in accesses(space, escapes)]
    found.extend(space.positions.values())
    for task in space.tasks:
        pending = list(space.operands[task])
        while pending:
            operand = pending.pop()
            if operand.is_position and operand.address is not None:
                found.append(operand.address)
            for index, *_ in operand.indices:
                pending.append(index)
                if index.address is not None:
                    found.append(index.address)
            found.extend(guard.index for guard in operand.guards)
    return found


def coalesces(outer: Axis, inner: Axis, strides: Sequence[Mapping[Axis, Dim]]) -> bool:
    """Whether two neighbouring loops may be one for all addresses."""
    return all(structurally_equal(s.get(outer, 0), s.get(inner, 0) * inner.size) for s in strides)


def even_run(space: GroupSpace, escapes: set[Value], order: list[Axis]) -> int:
    """How many of the innermost loops are one loop for all addresses."""
    strides = [address.strides() for address in all_addresses(space, escapes)]
    count = min(1, len(order))
    while count < len(order) and coalesces(order[-count - 1], order[-count], strides):
        count += 1
    return count


def store_address(space: GroupSpace, value: Value) -> Address:
    """The row-major place of a value's elements."""
    known = space.stores.get(value)
    if known is None:
        terms = []
        layout = dense(value.type.shape)
        for axes, factors in zip(space.dims[value], layout.dims, strict=True):
            stride = factors[0].stride if factors else 0
            for axis in reversed(leaves(axes)):
                terms.append((axis, stride))
                stride = stride * axis.size
        known = space.stores[value] = Address(0, tuple(terms))
    return known


def memory_order(space: GroupSpace, escapes: set[Value]) -> list[Axis]:
    """All axes, those first that most bytes are far apart along."""
    axes = space.all_axes()
    votes: dict[tuple[Axis, ...], int] = {}
    widest: tuple[int, int] = (-1, -1)
    best: tuple[Axis, ...] = ()
    for address, weight in accesses(space, escapes):
        strides = address.strides()
        order = tuple(
            sorted((a for a in axes if a in strides), key=lambda a: -abs(estimate(strides[a])))
        )
        votes[order] = votes.get(order, 0) + weight
        rank = (extent(order), votes[order])
        if rank > widest:
            widest, best = rank, order
    return [a for a in axes if a not in best] + list(best)
