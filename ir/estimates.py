"""Sizes as numbers where only an estimate is needed: to compare, never to decide what is right.

In: sizes, perhaps symbolic. Out: numbers. A symbol counts as ``TYPICAL_SIZE``, or within
``typical_sizes`` as what is said there. Invariant: an estimate depends on the size and on what the
enclosing ``typical_sizes`` says, not on what was estimated before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from flamec.ir.graph import Value
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, product, symbols_of
from flamec.ir.types import TensorType

TYPICAL_SIZE = 64


class _Typical:
    """Sizes that symbols typically have; ``nbytes``: of types that were asked for."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes
        self.nbytes: dict[TensorType, int] = {}


_typical: ContextVar[_Typical | None] = ContextVar("typical_sizes", default=None)


@contextmanager
def typical_sizes(sizes: Mapping[str, int]) -> Iterator[None]:
    """Estimates within are made for these sizes of symbols; nothing changes if there are none."""
    token = _typical.set(_Typical(sizes) if sizes else _typical.get())
    try:
        yield
    finally:
        _typical.reset(token)


def estimate(size: Dim) -> int:
    """A size as a number, for comparisons only; never negative, though no call may have typical
    sizes, as where ``s0`` elements of 12 are left out."""
    if isinstance(size, int):
        return size
    return max(0, _estimated(size))


def _estimated(size: SymbolicDim) -> int:
    typical = _typical.get()
    names = symbols_of(size)
    if typical is not None:
        try:
            return evaluate_dim(size, {n: typical.sizes.get(n, TYPICAL_SIZE) for n in names})
        except ZeroDivisionError:  # no size of a call is like that
            pass
    return evaluate_dim(size, dict.fromkeys(names, TYPICAL_SIZE))


def value_bytes(value: Value) -> int:
    """The size of a value, where symbolic sizes are taken for typical ones."""
    type = value.type
    typical = _typical.get()
    if typical is not None:
        nbytes = typical.nbytes.get(type)
        if nbytes is None:
            nbytes = typical.nbytes[type] = _type_bytes(type)
        return nbytes
    if type.estimated_bytes is None:  # asked very often
        type.estimated_bytes = _type_bytes(type)
    return type.estimated_bytes


def _type_bytes(type: TensorType) -> int:
    return estimate(product(type.shape)) * type.dtype.itemsize
