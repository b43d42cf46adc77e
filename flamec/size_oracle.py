"""Questions about symbolic sizes while tracing, and the guards that the answers become."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from flamec.conversions import ask
from flamec.errors import is_framework_file, user_location
from flamec.host_numbers import computed_of_sizes, mark_of_sizes
from flamec.ir.graph import Location
from flamec.ir.op import lookup
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    evaluate_dim,
    format_dim,
    multiple_of_symbol,
    symbols_of,
)
from flamec.ir.types import CPU, TensorType, int64
from flamec.size_bounds import Interval, SizeBounds, answer
from flamec.tensor import RuntimeNumber, Tensor


@dataclass
class ShapeGuard:
    """A relation between sizes that the trace relied on."""

    left: Dim
    relation: str
    right: Dim
    holds: bool
    location: Location | None

    @property
    def symbols(self) -> set[str]:
        """The names of the symbols."""
        return {str(s) for dim in (self.left, self.right) for s in symbols_of(dim)}

    def check(self, bindings: Mapping[str, int]) -> bool:
        """Whether the relation is what it was; not where a size is divided by one that is 0."""
        try:
            left, right = evaluate_dim(self.left, bindings), evaluate_dim(self.right, bindings)
        except ZeroDivisionError:
            return False
        result = {"==": left == right, "<": left < right, "<=": left <= right}[self.relation]
        return result == self.holds

    def fixes(self, symbol: str, value: int) -> bool:
        """Whether this, which asks about one symbol, is so for ``value`` alone, as far as others
        tell: near ones, small ones and multiples."""
        near = {value + step for step in (-8, -2, -1, 1, 2, 4, 8, 16, 64)}
        others = near | {*range(10), 16, 32, 64, 2 * value, 3 * value, 64 * value} - {value}
        return not any(self.check({symbol: other}) for other in others if other >= 0)

    def __str__(self) -> str:
        negated = {"==": "!=", "<": ">=", "<=": ">"}
        relation = self.relation if self.holds else negated[self.relation]
        return f"{self.left} {relation} {self.right}"


def exactly(bindings: Mapping[str, int]) -> tuple[ShapeGuard, ...]:
    """Guards that hold for these values of the symbols alone."""
    symbol = SymbolicDim.symbol
    return tuple(ShapeGuard(symbol(n), "==", size, True, None) for n, size in bindings.items())


def needed_as_numbers(guards: Iterable[ShapeGuard]) -> str:
    """Advice for a function of many programs, by the guards of all: the lines that made a size a
    number, with a program for each; "" if there are none."""
    numbers: dict[str, set[int]] = {}
    for guard in guards:
        if guard.relation == "==" and guard.holds and isinstance(guard.right, int):
            numbers.setdefault(str(guard.location or ""), set()).add(guard.right)
    lines = [line for line, found in numbers.items() if line and len(found) > 2]
    if not lines:
        return ""
    return (
        f". Sizes are needed as numbers, with a program for each, at {', '.join(lines)} (the turns "
        "of a range are such a number; flamec.fori_loop(0, n, ...) is one program for all sizes)"
    )


def symbol_values(types: Mapping[int, TensorType], leaves: Sequence[Any]) -> dict[str, int]:
    """The values of symbols for arguments; ``types``: their symbolic types, by position."""
    values: dict[str, int] = {}
    for position, type in types.items():
        for dim, size in zip(type.shape, leaves[position]._type.shape, strict=True):
            found = multiple_of_symbol(dim)
            if found is not None:
                values.setdefault(found[1], size // found[0])
    return values


class SizeOracle:
    """Answers questions about symbolic sizes from example sizes, and records the answers."""

    one_program = False  # see ``Dynamic``

    def __init__(self, apply: Callable[..., Any], expression: Callable[[SymbolicDim], Any]) -> None:
        self._apply = apply
        self.expression = expression  # what Python computes a size by; None if it cannot
        self.hints: dict[str, int] = {}
        self.guards: dict[tuple[str, str, str], ShapeGuard] = {}
        self._ranges: dict[str, Interval] = {}

    def declare(self, dim: Dim, symbol: str, example: int, bounds: SizeBounds) -> None:
        """Let ``dim``, a multiple of ``symbol``, be a size that keeps to ``bounds``: guarded."""
        self.hints[symbol] = example // bounds.multiple_of
        if bounds.min > 0:
            self._add(bounds.min, "<=", dim)
        if bounds.max is not None:
            self._add(dim, "<=", bounds.max)
        self._ranges[symbol] = bounds.of_symbol()

    def introduce(self, symbol: str, example: int, interval: Interval) -> None:
        """Let there be a symbol that is in ``interval`` whatever a call is like."""
        self.hints[symbol] = example
        if interval[1] is not None:
            self._ranges[symbol] = interval

    def _add(self, left: Dim, relation: str, right: Dim) -> None:
        guard = ShapeGuard(left, relation, right, True, user_location())
        self.guards[format_dim(left), relation, format_dim(right)] = guard

    def decide(self, left: Dim, relation: str, right: Dim) -> bool:
        known = answer(left, relation, right, self._ranges) if self._ranges else None
        if known is not None:
            return known
        key = (format_dim(left), relation, format_dim(right))
        guard = self.guards.get(key)
        if guard is None:
            guard = ShapeGuard(left, relation, right, True, user_location())
            guard.holds = guard.check(self.hints)
            self.guards[key] = guard
        return guard.holds

    def specialize(self, dim: SymbolicDim) -> int:
        value = evaluate_dim(dim, self.hints)
        self.decide(dim, "==", value)
        return value

    def converts(self, dim: SymbolicDim, kind: type, frame: FrameType) -> None:
        if self.serves(frame) and self.expression(dim) is not None:
            ask(kind, frame)

    def computed(self, function: Callable[..., Any], *operands: Any) -> Any:
        return computed_of_sizes(function, *operands)

    def serves(self, frame: FrameType) -> bool:
        return not is_framework_file(frame.f_code.co_filename)

    def as_scalar(self, dim: SymbolicDim) -> Tensor:
        """A size as a number of the program, with the dtypes of a Python number."""
        attributes = {"size": dim, "dtype": int64, "device": CPU}
        number = RuntimeNumber.of(self._apply(lookup("dim_size"), (), attributes))
        mark_of_sizes(number, self.expression(dim))
        return number
