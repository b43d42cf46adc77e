"""What the guards say of sizes is put into the graph: symbols, and quotients of symbols."""

from __future__ import annotations

import pytest

from flamec.ir.builder import GraphBuilder
from flamec.ir.passes.settle_sizes import SettledSizes, settle_sizes
from flamec.ir.shape import Dim, SymbolicDim, maximum, minimum
from flamec.ir.shape_oracle import Undecidable
from flamec.ir.types import TensorType, float32

S0, S1 = SymbolicDim.symbol("s0"), SymbolicDim.symbol("s1")
HALF = (S0 - 1) // 2
SQUARE = HALF * HALF - 2 * HALF + 1


def settled(shape: tuple[Dim, ...], left: Dim, right: Dim) -> tuple[Dim, ...]:
    """The shape of an input, and of what is computed from it, after an equality is known."""
    b = GraphBuilder()
    x = b.input(TensorType(shape, float32), "x")
    graph = settle_sizes(b.build([b.exp(x)], {}, "program"), [(left, right)])
    assert graph.outputs[0].type == graph.inputs[0].type
    return graph.inputs[0].type.shape


@pytest.mark.parametrize(
    ("left", "right", "shape", "expected"),
    [
        (S0, 5, (S0, S1), (5, S1)),
        (S0, S1, (S0, S1), (S1, S1)),
        (3 * S0, 12, (S0 + 1,), (5,)),
        (3 * S0, 13, (S0,), (S0,)),  # never true, so nothing is put in
        (296, 37 * HALF + 37, (37 * HALF + 37, S0), (296, S0)),
        (37 * HALF + 37, 296, (HALF, HALF * S1), (7, 7 * S1)),
        (2 * HALF, 7, (HALF,), (HALF,)),
        (HALF * S1, 8, (HALF,), (HALF,)),  # says nothing of one of them
        (HALF, 7, ((S0 - 1) // 3,), ((S0 - 1) // 3,)),
        (3 * (S0 // 3), S0, (S0, S0 // 3, S1), (3 * (S0 // 3), S0 // 3, S1)),
        (S0, 3 * (S0 // 3), (2 * S0,), (6 * (S0 // 3),)),
        (S1, 3 * (S0 // 3), (S0, S1), (S0, 3 * (S0 // 3))),
        (32 * S1, 16 * S0, (S0, S1), (2 * S1, S1)),
        (6 * S0, 4 * S1, (S0, S1), (2 * (S0 // 2), 3 * (S0 // 2))),
        (S0 + 4, 10, (S0, S1), (6, S1)),
        (2 * S0 + S1, 12, (S0, S1), (S0, 12 - 2 * S0)),
        (S0 + 2, S1, (S0, S1), (S0, S0 + 2)),
        (3 * S0 + 6, 10, (S0,), (S0,)),  # never true
        (S0 // 2, S1 // 2 + 1, (S0 // 2, S0), (S1 // 2 + 1, S0)),
        (S0 * S1, 40, (S0, S0 * S1, 3 * S0 * S1), (S0, 40, 120)),
        (S0 * S1, 40, (S0 * S1 // 3, S0 * S0 * S1), (13, 40 * S0)),
        (2 * S0 * S1, 7 * S0, (S0 * S1,), (S0 * S1,)),
        (4 * HALF * HALF - 8 * HALF + 4, 36, (HALF * HALF * S1,), (2 * HALF * S1 + 8 * S1,)),
        (36 * (SQUARE * S1 // 9), 4 * SQUARE * S1, (SQUARE * S1,), (9 * (SQUARE * S1 // 9),)),
        (16 * S0, 32 * ((16 * S0) // 32), (16 * S0, S0), (32 * (S0 // 2), 2 * (S0 // 2))),
        (4 * S0, 6 * ((4 * S0) // 6), (S0,), (3 * (S0 // 3),)),
        (2 * ((S0 + 1) // 2), S0, (S0, (S0 + 1) // 2), (2 * (S0 // 2), S0 // 2)),
        (S0 // 2, 2 * (S0 // 4), (S0 // 2, S0 // 4), (2 * (S0 // 4), S0 // 4)),
        (8, 48 // (S0 // 2), (S0,), (S0,)),  # no number stands for such a symbol
        (minimum(S0, 8), S0, (minimum(S0, 8), S0), (S0, S0)),
        (S0, minimum(S0, S1), (maximum(S0, S1),), (S1,)),
        (S0 - 3, minimum(S0, 8) - 3, (minimum(S0, 8),), (S0,)),
        (minimum(S0, 8), 8, (minimum(S0, 8) * S1,), (8 * S1,)),
        (minimum(S0, 8), 7, (S0,), (S0,)),
    ],
)
def test_sizes_are_replaced_by_what_they_are(
    left: Dim, right: Dim, shape: tuple[Dim, ...], expected: tuple[Dim, ...]
) -> None:
    assert str(settled(shape, left, right)) == str(expected)


def test_what_is_known_later_is_put_into_what_was_known_before() -> None:
    half = SymbolicDim.symbol("s2")
    for equal in ([(S0 * S1, 40), (S0, 2 * half)], [(S0, 2 * half), (S0 * S1, 40)]):
        known = SettledSizes(equal)
        assert known.specialize(half * S1) == 20 and known.decide(S0 * half * S1, "==", 20 * S0)


def test_an_oracle_of_quotients() -> None:
    known = SettledSizes([(296, 37 * HALF + 37)])
    assert known.decide(37 * HALF + 37, "==", 296) and known.decide(HALF, "<=", 7)
    assert known.specialize(HALF) == 7
    with pytest.raises(Undecidable):
        known.decide(S0, "==", 15)
