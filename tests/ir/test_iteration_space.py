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


def test_a_settled_address_keeps_its_strides() -> None:
    axis = Axis(12)
    address = Address(0, ((axis, 5),))
    unify([axis], [Axis(3), Axis(4)])
    outer, inner = leaves([axis])
    assert address.strides() == {outer: 20, inner: 5}
    assert address.strides() is not address.strides()
    assert address.settle().strides() is address.strides()
