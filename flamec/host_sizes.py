"""Sizes, places and windows that Python numbers decide on: symbols that each call computes.

In: expressions of whole numbers (``host_numbers.py``) where a size, an index or a bound of a slice
is wanted. Out: sizes over symbols, each the value of an expression in a call (``HostSize``), which
the generated check computes: so one program serves all values. Invariants: a symbol is never
negative: it is the number or, if that is negative, its opposite, which is a condition of the
program; what Python counts from the end of a dimension, or clamps to it, is computed in Python, so
that it needs no condition.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec import bounds_of_slices
from flamec.errors import user_location
from flamec.host_numbers import Expression, Extent
from flamec.ir.graph import Location
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    evaluate_dim,
    structurally_equal,
    substitute,
    symbols_of,
)

if TYPE_CHECKING:
    from flamec.host_state import HostState

_COMBINED = (operator.add, operator.sub, operator.mul)
Bound = Expression | Dim | None
_INT64 = 2**63


def fits_int64(value: int) -> bool:
    """Whether a program can take a number for a size, or its opposite."""
    return -_INT64 < value < _INT64


@dataclass(frozen=True, eq=False)
class HostSize:
    """``symbol`` is ``sign`` times the value of ``expression``; both are in the traced call
    ``value`` and the like."""

    symbol: str
    sign: int
    expression: Expression
    value: int
    location: Location | None

    def __str__(self) -> str:
        names = ", ".join(self.expression.place_names())
        kind = "negative" if self.sign < 0 else "not negative"
        return f"the size that {names} gives is {kind} (at {self.location})"


class HostSizes:
    """The symbols of one trace. ``vary``: there may be any; ``exact``: example values are those of
    the traced call, also 0 and 1, which sizes might be told apart by."""

    def __init__(self, host: HostState) -> None:
        self._host = host
        self.exact, self.vary = False, True
        self.found: list[HostSize] = []
        self._symbols: dict[Expression, Dim] = {}
        self._leaves: dict[Expression, str] = {}

    def serves(self, *bounds: Bound) -> bool:
        """Whether these can be computed before a call's program runs, and one varies."""
        trace = self._host.trace
        late = set() if trace is None or trace.execution is None else trace.execution.found_sizes
        varies = False
        if not self.vary:
            return False
        for bound in bounds:
            if isinstance(bound, Expression):
                varies = True
                if bound.moment or type(bound.value) is not int or not fits_int64(bound.value):
                    return False
            elif isinstance(bound, SymbolicDim) and symbols_of(bound) & set(late):
                return False
        return varies

    # sizes ----------------------------------------------------------------------------------
    def expression(self, size: SymbolicDim) -> Expression | None:
        """A size as Python computes it before a call's program runs; None if it is found there."""
        trace = self._host.trace
        late = () if trace is None or trace.execution is None else trace.execution.found_sizes
        if self._host.tensors is None or symbols_of(size) & set(late):
            return None
        found: Expression = self._operand(size)
        return found

    def size(self, expression: Expression) -> Dim:
        """The number as a size, a polynomial over symbols; it may be negative."""
        form = self._polynomial(expression)
        leaves = {name: leaf for leaf, name in self._leaves.items()}
        return substitute(form, {n: self._symbol(leaves[n]) for n in symbols_of(form)})

    def _polynomial(self, value: Expression | int) -> Dim:
        """Sums and products of what cannot be taken apart, each under a name of its own."""
        if not isinstance(value, Expression):
            return value
        function = value.function
        if function in _COMBINED and all(_is_whole(o) for o in value.operands):
            combined: Dim = function(*[self._polynomial(o) for o in value.operands])
            return combined
        if function is operator.neg:
            return 0 - self._polynomial(value.operands[0])
        name = self._leaves.setdefault(value, f"n{len(self._leaves)}")
        return SymbolicDim.symbol(name)

    def _symbol(self, expression: Expression, most: int | None = None) -> Dim:
        """The symbol of an expression, with its sign. ``most``: its greatest value."""
        known = self._symbols.get(expression)
        if known is not None:
            return known
        trace = self._host.trace
        assert trace is not None
        oracle = trace.oracle
        sign = -1 if expression.value < 0 else 1
        value = sign * expression.value
        example = value if self.exact or value > 1 else 2 + len(oracle.hints)
        if most is not None and example > most:
            example = value
        symbol = f"s{len(oracle.hints)}"
        oracle.introduce(symbol, example, (0, most))
        if trace.execution is not None:
            trace.execution.bindings[symbol] = value
        self.found.append(HostSize(symbol, sign, expression, value, user_location()))
        dim = self._symbols[expression] = sign * SymbolicDim.symbol(symbol)
        return dim

    # places and windows -----------------------------------------------------------------------
    def is_inside(self, index: Expression, extent: Dim) -> bool:
        """Whether there is an element ``index``, also from the end: a condition."""
        return self._host.decide(self._of(bounds_of_slices.is_inside, index, extent))

    def place(self, index: Expression, extent: Dim, count: int = 1) -> Dim:
        """The place of element ``index`` of a dimension, of which it is known that it and ``count``
        elements in all are there."""
        return self._symbol(self._of(bounds_of_slices.place, index, extent), _below(extent, count))

    def narrowed(self, start: Bound, length: Bound, extent: Dim) -> tuple[Dim, Dim] | None:
        """Where so many elements begin, and their number; None if they are not inside, which is a
        condition."""
        if not self._host.decide(self._of(bounds_of_slices.fits, start, length, extent)):
            return None
        count: Any = self.size(length) if isinstance(length, Expression) else length
        first = self._of(bounds_of_slices.place, start, extent)
        if isinstance(first, Expression):
            return self._symbol(first, _below(extent, 0)), count
        return first, count

    def window(self, start: Bound, stop: Bound, step: int, extent: Dim) -> tuple[Dim, Dim]:
        """Where the slice ``start:stop:step`` of a dimension begins, and how many elements it has.

        Bounds that are always as far apart have that length as long as they are inside.
        """
        length = self._length(start, stop, extent) if step == 1 else None
        if length is not None:
            assert isinstance(start, Expression)
            if structurally_equal(length, 0):
                return 0, 0
            return self.place(start, extent, length if isinstance(length, int) else 0), length
        most = extent if isinstance(extent, int) else None
        count = self._symbol(self._of(bounds_of_slices.count, start, stop, step, extent), most)
        if start is None or (isinstance(start, int) and start == 0):
            return 0, count
        to_the_end = stop is None or (
            not isinstance(stop, Expression) and structurally_equal(stop, extent)
        )
        if step == 1 and to_the_end:
            return extent - count, count
        return self._symbol(self._of(bounds_of_slices.first, start, extent), most), count

    def _length(self, start: Bound, stop: Bound, extent: Dim) -> Dim | None:
        """How far apart two bounds are, if no number decides on that and both are inside the
        dimension."""
        if not isinstance(start, Expression) or not isinstance(stop, (Expression, SymbolicDim)):
            return None
        if isinstance(stop, SymbolicDim):
            length = stop - self.size(start)
        else:
            length = self._polynomial(stop) - self._polynomial(start)
        if symbols_of(length) & {*self._leaves.values(), *self.values()}:
            return None
        inside = self._of(bounds_of_slices.are_inside, start, stop, extent)
        return length if inside.value and self._host.decide(inside) else None

    def _of(self, function: Any, *operands: Any) -> Any:
        """The expression of a function of bounds and sizes; the number, if none varies."""
        given = tuple([self._operand(o) for o in operands])
        if not any(isinstance(o, Expression) for o in given):
            return function(*given)
        return self._host.apply(function, given)

    def _operand(self, value: Any) -> Any:
        if not isinstance(value, SymbolicDim):
            return value
        return self._host.place_expression(Extent(value), evaluate_dim(value, self._actual()))

    def _actual(self) -> dict[str, int]:
        """The values of symbols in the traced call."""
        trace, tensors = self._host.trace, self._host.tensors
        assert trace is not None and tensors is not None
        return {**trace.oracle.hints, **tensors.symbol_values(), **self.values()}

    def values(self) -> dict[str, int]:
        """What the symbols are in the traced call."""
        return {found.symbol: found.value for found in self.found}


def _is_whole(operand: Any) -> bool:
    return type(operand.value if isinstance(operand, Expression) else operand) is int


def _below(extent: Dim, count: int) -> int | None:
    return extent - count if isinstance(extent, int) else None
