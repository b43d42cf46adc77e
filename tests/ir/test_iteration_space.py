"""Axes that are unified: what they stand for, and how far one looks for it."""

from __future__ import annotations

from flamec.ir.group_space import Address
from flamec.ir.iteration_space import Axis, leaves, unify


def test_an_axis_unified_with_many_finds_the_last_at_once() -> None:
    """Each elementwise operation of a kernel unifies an axis with those before: their number must
    neither be a depth of recursion nor what each look costs."""
    first, others = Axis(6), [Axis(6) for _ in range(5000)]
    for other in others:
        unify([first], [other])
    assert leaves([first]) == [others[-1]]
    assert first.parts == (others[-1],)


def test_parts_of_parts() -> None:
    whole, rest = Axis(24), [Axis(2), Axis(12)]
    unify([whole], rest)
    finest = [Axis(2), Axis(3), Axis(4)]
    unify([whole], finest)
    assert [axis.size for axis in leaves([whole])] == [2, 3, 4]
    assert leaves([whole]) == leaves(rest) == leaves(finest)


def test_an_address_keeps_its_strides_until_an_axis_is_split_or_merged() -> None:
    axis = Axis(12)
    address = Address(0, ((axis, 5),))
    assert address.strides() == {axis: 5}
    assert address.strides() is address.strides()
    unify([axis], [Axis(3), Axis(4)])
    outer, inner = leaves([axis])
    assert address.strides() == {outer: 20, inner: 5}
    unify([outer], [other := Axis(3)])
    assert address.strides() == {other: 20, inner: 5}


def test_an_axis_that_does_not_move_an_address_may_come_to_move_it() -> None:
    moves, stays = Axis(12), Axis(12)
    address = Address(0, ((moves, 5), (stays, 0)))
    assert address.strides() == {moves: 5}
    unify([moves], [stays])
    assert address.strides() == {stays: 5}
