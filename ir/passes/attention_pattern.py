"""The forward pattern of attention, matched from the last product backwards.

In: a node. Out: ``Found`` (operands, bounds, scale) if it is the product of
a softmax with something; ``NotFound`` with the reason if it is that, but not attention; None if
it is something else. Scores may be scaled, converted, masked and added to in any order; bounds on
positions are told from masks in memory by ``band_masks``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import OpKind
from flamec.ir.ops.contraction import free_axes
from flamec.ir.passes.band_masks import Line, Positions, band, opposite
from flamec.ir.shape import Dim, structurally_equal
from flamec.ir.types import TensorType

Axes = tuple[int, ...]
# What is at most this (-1e9, rounded to 16 bits) stands for minus infinity where every row has
# another score.
_LOWEST = -9e8


@dataclass(frozen=True)
class Mask:
    """A value that decides about scores: chosen where it is True (False, if ``negated``), or
    added to them."""

    value: Value
    shape: tuple[Dim, ...]
    negated: bool = False

    def emit(self, b: GraphBuilder, value: Value) -> Any:
        """The mask operand of ``attention``."""
        if self.negated:
            value = b.bitwise_not(value)
        return b.expand_to(value, self.shape)


@dataclass(frozen=True)
class Found:
    """softmax(scale * query @ key^T, masked) @ value. The orders bring the operands into the form
    [*batch, length, numbers]."""

    query: Value
    key: Value
    value: Value
    query_order: Axes
    key_order: Axes
    value_order: Axes
    weights: Value
    output: Value
    zero_rows: bool
    scale: float = 1.0
    lower: Dim | None = None
    upper: Dim | None = None
    mask: Mask | None = None

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of ``attention``, without the orders."""
        return {
            "scale": self.scale,
            "lower": self.lower,
            "upper": self.upper,
            "zero_rows": self.zero_rows,
        }

    def operands(self) -> list[Value]:
        """Query, key, value and the mask's value."""
        masks = [self.mask.value] if self.mask is not None else []
        return [self.query, self.key, self.value, *masks]

    def types(self) -> list[TensorType]:
        return [value.type for value in self.operands()]


@dataclass(frozen=True)
class NotFound:
    """A softmax is multiplied, but its operand is no masked product."""

    reason: str


def find_forward(node: Node, positions: Positions) -> Found | NotFound | None:
    """See the module's docstring."""
    if node.op.kind is not OpKind.CONTRACTION:
        return None
    right = _second_order(node)
    if right is None:
        return None
    softmax = _Softmax.ending(node.inputs[0])
    if softmax is None:
        between = _before_softmax(node.inputs[0])
        return NotFound(f"weights go through {between} first") if between else None
    try:
        chain = _Chain(positions, softmax.rank)
        product = chain.follow(softmax.scores)
        lower, upper = chain.bounds()
    except _Mismatch as mismatch:
        return NotFound(str(mismatch))
    query_order, key_order = chain.orders
    query, key = product.inputs
    found = Found(
        query,
        key,
        node.inputs[1],
        query_order,
        key_order,
        right,
        node.inputs[0],
        node.output,
        softmax.zero_rows,
        chain.scale,
        lower,
        upper,
        chain.mask,
    )
    if any(v.type.dtype is not product.output.type.dtype for v in (node.inputs[1], node.output)):
        return NotFound("query, key and value differ in dtype")
    return found


class _Mismatch(Exception):
    """Scores are not of the pattern; the message says why."""


def _name(value: Value) -> str:
    return "" if value.node is None else value.node.op.name


def _single(value: Value) -> Node | None:
    """The node of a value; None for an input."""
    return value.node


def _unwrapped(value: Value, *names: str) -> Value:
    """Without operations of these names around it."""
    while value.node is not None and value.node.op.name in names:
        value = value.node.inputs[0]
    return value


def _is_number(value: Value, number: float) -> bool:
    node = _unwrapped(value, "expand", "reshape").node
    if node is None or node.op.name != "full" or isinstance(node.attributes["value"], bool):
        return False
    return bool(node.attributes["value"] == number)


@dataclass(frozen=True)
class _Softmax:
    """exp(scores - largest) / sum over the last axis, as ``softmax_over`` and people write it."""

    scores: Value
    zero_rows: bool
    rank: int

    @staticmethod
    def ending(weights: Value) -> _Softmax | None:
        """The softmax that a value is, perhaps converted."""
        quotient = _unwrapped(weights, "convert").node
        if quotient is None or quotient.op.name != "div":
            return None
        powers, total = quotient.inputs
        rank = powers.type.ndim
        if _name(powers) != "exp" or powers.type.shape != quotient.output.type.shape:
            return None
        total, zero_total = _unless(total, 0.0, 1.0)
        summed = _folded(total, "sum", rank)
        difference = powers.node.inputs[0].node if powers.node else None
        if summed is not powers or difference is None or difference.op.name != "sub":
            return None
        scores, largest = difference.inputs
        largest, zero_largest = _unless(_unwrapped(largest, "detach"), -math.inf, 0.0)
        if _folded(_unwrapped(largest, "detach"), "amax", rank) is not scores:
            return None
        if zero_total is not zero_largest:
            return None
        return _Softmax(scores, zero_total, rank)


_NEAR = 6  # operations between a softmax and a product, for a reason to be given


def _before_softmax(value: Value) -> str:
    """The operation on weights (dropout, say) that hides a softmax; "" if there is none."""
    pending, name = [value], ""
    for _ in range(_NEAR):
        if not pending:
            break
        value = pending.pop(0)
        if _Softmax.ending(value) is not None:
            return name
        if value.node is None or value.node.op.kind is not OpKind.ELEMENTWISE:
            continue
        name = value.node.op.name
        pending += [v for v in value.node.inputs if v.type.shape == value.type.shape]
    return ""


def _unless(value: Value, number: float, instead: float) -> tuple[Value, bool]:
    """``x`` of where(x == number, instead, x), and whether it was that."""
    node = value.node
    if node is None or node.op.name != "where":
        return value, False
    condition, x, y = node.inputs
    test = condition.node
    if test is None or test.op.name != "eq" or test.inputs[0] is not y:
        return value, False
    same = _is_number(test.inputs[1], number) and _is_number(x, instead)
    return (y, True) if same else (value, False)


def _folded(value: Value, name: str, rank: int) -> Value | None:
    """What a fold over the last axis, which stays with size 1, folds."""
    kept = value.type.ndim == rank and structurally_equal(value.type.shape[-1], 1)
    node = _unwrapped(value, "reshape").node
    if not kept or node is None or node.op.name != name:
        return None
    return node.inputs[0] if tuple(node.attributes["axes"]) == (rank - 1,) else None


def _second_order(node: Node) -> Axes | None:
    """How the second operand of weights @ value is brought to [*batch, columns, numbers]."""
    (contract, other), (batch, other_batch) = node.attributes["contract"], node.attributes["batch"]
    rank = node.inputs[0].type.ndim
    plain = batch == tuple(range(rank - 2)) and contract == (rank - 1,)
    free = free_axes(node.inputs[1].type.ndim, other, other_batch)
    return (*other_batch, *other, *free) if plain and len(free) == 1 else None


@dataclass
class _Chain:
    """What is done to scores between the product and the softmax, followed backwards."""

    positions: Positions
    rank: int
    scale: float = 1.0
    orders: tuple[Axes, Axes] = ((), ())
    mask: Mask | None = None
    conditions: list[tuple[Line, float]] = field(default_factory=list)
    shape: tuple[Dim, ...] = ()

    def follow(self, scores: Value) -> Node:
        """The product; _Mismatch if something else is found."""
        self.shape = scores.type.shape
        value = scores
        while True:
            node = _single(value)
            if node is None:
                raise _Mismatch("the scores are an input of the program")
            if node.op.kind is OpKind.CONTRACTION:
                self._product(node)
                return node
            if value.type.shape != self.shape:
                raise _Mismatch(f"the scores are a part of a larger array ({node.op.name})")
            value = self._step(node)

    def _step(self, node: Node) -> Value:
        """The scores before an operation, which is noted."""
        match node.op.name:
            case "convert" | "detach":
                if node.op.name == "detach" or not node.inputs[0].type.dtype.is_floating_point:
                    raise _Mismatch(f"scores go through {node.op.name}")
                return node.inputs[0]
            case "mul" | "div":
                return self._scaled(node)
            case "where":
                return self._chosen(node)
            case "add" | "sub":
                return self._added(node)
        raise _Mismatch(f"scores go through {node.op.name}")

    def _scaled(self, node: Node) -> Value:
        for position in (0, 1) if node.op.name == "mul" else (1,):
            choice = self.positions.choice(node.inputs[position])
            if choice is not None and choice.condition is None:
                number = float(choice.holds)
                if not (number > 0 and math.isfinite(number)):
                    raise _Mismatch(f"scores are multiplied with {number}")
                self.scale *= number if node.op.name == "mul" else 1 / number
                return node.inputs[1 - position]
        raise _Mismatch(f"scores go through {node.op.name} with what is not one number")

    def _chosen(self, node: Node) -> Value:
        condition, x, y = node.inputs
        for scores, other, holds in ((x, y, True), (y, x, False)):
            choice = self.positions.choice(other)
            if choice is None or choice.condition is not None:
                continue
            number = float(choice.holds) * self.scale
            if not number <= _LOWEST:
                raise _Mismatch(f"scores are replaced by {number}, which may take part")
            self._hide(condition, holds, number)
            return scores
        raise _Mismatch("scores are replaced by what is not one number")

    def _hide(self, condition: Value, holds: bool, number: float) -> None:
        """Scores stay where the condition ``holds``; elsewhere ``number`` takes their place."""
        choice = self.positions.choice(condition)
        line = None if choice is None else self._line(condition, choice.condition)
        if choice is not None and line is not None:
            truth = bool(choice.holds), bool(choice.fails)
            if truth[0] != truth[1]:
                kept = line if truth[0] is holds else opposite(line)
                self.conditions.append((kept, number))
                return
        if not math.isinf(number):
            raise _Mismatch(f"a mask in memory puts {number} in the place of scores")
        self._set_mask(condition, negated=not holds)

    def _line(self, value: Value, line: Line | None) -> Line | None:
        """A condition with the axes of the scores; None if it is not about rows and columns."""
        if line is None:
            return None
        by = self.rank - value.type.ndim
        moved = Line(tuple((axis + by, f) for axis, f in line.terms), line.offset)
        return moved if band(moved, self.rank) is not None else None

    def _added(self, node: Node) -> Value:
        for position in (0, 1):
            other = node.inputs[1 - position]
            if node.op.name == "sub" and position:
                break
            if node.inputs[position].type.shape != self.shape or not self._leads_down(
                node.inputs[position]
            ):
                continue
            choice = self.positions.choice(other)
            line = None if choice is None else self._line(other, choice.condition)
            if choice is not None and line is not None and node.op.name == "add":
                holds, fails = float(choice.holds), float(choice.fails)
                if holds == 0 and fails * self.scale <= _LOWEST:
                    self.conditions.append((line, fails * self.scale))
                    return node.inputs[position]
                if fails == 0 and holds * self.scale <= _LOWEST:
                    self.conditions.append((opposite(line), holds * self.scale))
                    return node.inputs[position]
            if node.op.name == "sub" or self.scale != 1.0:
                raise _Mismatch("what is added to the scores is scaled with them")
            if not other.type.dtype.is_floating_point:
                raise _Mismatch("what is added to the scores is not floating point")
            self._set_mask(other)
            return node.inputs[position]
        raise _Mismatch(f"scores go through {node.op.name}")

    def _leads_down(self, value: Value) -> bool:
        """Whether a value follows from a product by way of elementwise operations."""
        pending, seen = [value], set()
        while pending:
            node = _single(pending.pop())
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.op.kind is OpKind.CONTRACTION:
                return True
            if node.op.kind is OpKind.ELEMENTWISE:
                pending += [v for v in node.inputs if v.type.shape == self.shape]
        return False

    def _set_mask(self, value: Value, negated: bool = False) -> None:
        if self.mask is not None:
            raise _Mismatch("there are two masks in memory")
        if negated and _name(value) == "bitwise_not" and value.node is not None:
            value, negated = value.node.inputs[0], False
        self.mask = Mask(value, self.shape, negated)

    def _product(self, node: Node) -> None:
        (left, right), (batch, other) = node.attributes["contract"], node.attributes["batch"]
        first = free_axes(node.inputs[0].type.ndim, left, batch)
        second = free_axes(node.inputs[1].type.ndim, right, other)
        if not (len(left) == len(first) == len(second) == 1):
            raise _Mismatch("the scores are not a product of matrices")
        self.orders = ((*batch, *first, *left), (*other, *second, *right))

    def bounds(self) -> tuple[Dim | None, Dim | None]:
        """(lower, upper) of all conditions together; _Mismatch if it cannot be told."""
        lower: list[Dim] = []
        upper: list[Dim] = []
        for line, _ in self.conditions:
            found = band(line, self.rank)
            assert found is not None
            lower += [d for d in found[:1] if d is not None]
            upper += [d for d in found[1:] if d is not None]
        for sizes in (lower, upper):
            if len(sizes) > 1 and not all(isinstance(d, int) for d in sizes):
                raise _Mismatch("bounds of different sizes")
        most, least = (max(lower) if lower else None), (min(upper) if upper else None)
        finite = [n for _, n in self.conditions if not math.isinf(n)]
        if finite and not (most is None and isinstance(least, int) and least >= 0):
            raise _Mismatch(f"rows that are masked with {finite[0]} alone would be even")
        return most, least


def _above(found: Found) -> set[Node]:
    """The nodes that lead to the result, up to the operands."""
    assert found.output.node is not None
    sources = set(found.operands())
    seen = {found.output.node}
    pending = [found.output.node]
    while pending:
        for value in pending.pop().inputs:
            if value not in sources and value.node is not None and value.node not in seen:
                seen.add(value.node)
                pending.append(value.node)
    return seen


def nodes_between(found: Found, graph: Graph) -> tuple[Node, ...]:
    """Those of them that follow from the first product, in the graph's order."""
    above = _above(found)
    kept: dict[Node, None] = {}
    for node in graph.nodes:
        if node not in above:
            continue
        product = node.op.kind is OpKind.CONTRACTION
        if product or any(v.node in kept for v in node.inputs if v.node is not None):
            kept[node] = None
    return tuple(kept)
