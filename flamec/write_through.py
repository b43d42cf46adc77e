"""Writes through views as pure operations: what a base holds after a view of it was written.

In: a builder, a base, the steps from the base to the view, and the view's new value. Out: the
base's new value. Invariant: only the builder's operations are used, so that the same text serves
the tape, traces and symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.ir.builder import Builder
from flamec.ir.op import lookup
from flamec.ir.shape import product
from flamec.ir.types import bool_, int64
from flamec.tensor import ViewStep

EXPAND = lookup("expand")


def with_zero_gradient(b: Builder, new: Any, old: Any) -> Any:
    """``new``, whose backward pass gives ``old``, which it replaced, a gradient of 0."""
    type = b.type_of(new)
    always = b.full(value=True, shape=(), dtype=bool_, device=type.device)
    return b.where(always, new, old)


def write_through(b: Builder, base: Any, steps: Sequence[ViewStep], value: Any) -> Any:
    """``base`` with the elements at ``steps`` replaced by ``value``, as pure operations."""
    parents = [base]
    for op, attributes in steps[:-1]:
        parents.append(b.apply(op, (parents[-1],), attributes))
    child = value
    if not steps:
        return b.expand_to(child, b.type_of(base).shape)
    if any(op is EXPAND for op, _ in steps):
        return _scatter_through(b, base, steps, value)
    last_op, last_attributes = steps[-1]
    shape = last_op.infer_types((b.type_of(parents[-1]),), last_attributes)[0].shape
    child = b.expand_to(child, shape)
    for (op, attributes), parent in zip(reversed(steps), reversed(parents), strict=True):
        assert op.write_back is not None
        child = op.write_back(b, parent, child, attributes)
    return child


def _scatter_through(b: Builder, base: Any, steps: Sequence[ViewStep], value: Any) -> Any:
    """As ``write_through`` for a view that passes through an expanded one.

    The view's steps are applied to the positions of the base's elements, which tells
    where each element of ``value`` goes.
    """
    type = b.type_of(base)
    count = product(type.shape)
    order = b.iota(shape=(count,), axis=0, dtype=int64, device=type.device)
    positions = b.reshape(order, shape=type.shape)
    for op, attributes in steps:
        positions = b.apply(op, (positions,), attributes)
    written = product(b.type_of(positions).shape)
    child = b.reshape(b.expand_to(value, b.type_of(positions).shape), shape=(written,))
    flat = b.reshape(base, shape=(count,))
    result = b.index_put(flat, child, b.reshape(positions, shape=(written,)), mode="set")
    return b.reshape(result, shape=type.shape)
