"""The lesser of two sizes, and what the form of a size tells of its sign."""

from __future__ import annotations

import itertools
import random

import pytest

from flamec.ir.parser import parse_type
from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    evaluate_dim,
    format_dim,
    less,
    maximum,
    minimum,
    never_negative,
    parse_dim,
    structurally_equal,
    substitute,
    symbols_of,
)

A, B = SymbolicDim.symbol("s0"), SymbolicDim.symbol("s1")
VALUES = [{"s0": a, "s1": b} for a, b in itertools.product((0, 1, 2, 3, 5, 8, 13), repeat=2)]


def _random_size(rng: random.Random, depth: int) -> Dim:
    if depth == 0:
        return rng.choice([A, B, rng.randrange(-4, 6)])
    one, another = (_random_size(rng, depth - 1) for _ in range(2))
    match rng.randrange(6):
        case 0:
            return one + another
        case 1:
            return one - another
        case 2:
            return one * rng.randrange(1, 4)
        case 3:
            return one // rng.randrange(2, 5)
        case 4:
            return minimum(one, another)
        case _:
            return maximum(one, another)


def test_forms_keep_values() -> None:
    rng = random.Random(0)
    proved = 0
    for _ in range(300):
        one, another = (_random_size(rng, rng.randrange(4)) for _ in range(2))
        least, most = minimum(one, another), maximum(one, another)
        assert structurally_equal(least, minimum(another, one)), f"{one}, {another}"
        sign = never_negative(one)
        proved += sign
        replaced = substitute(least, {"s1": A + 2})
        for values in VALUES:
            a, b = evaluate_dim(one, values), evaluate_dim(another, values)
            assert (evaluate_dim(least, values), evaluate_dim(most, values)) == (
                min(a, b),
                max(a, b),
            )
            assert a >= 0 or not sign, f"{one} is negative for {values}"
            if values["s1"] == values["s0"] + 2:
                assert evaluate_dim(replaced, values) == min(a, b)
        text = format_dim(least)
        assert structurally_equal(parse_dim(text), least)
        if symbols_of(least):
            assert eval(text, dict(VALUES[9])) == evaluate_dim(least, VALUES[9])
    assert 60 < proved < 240


@pytest.mark.parametrize(
    ("one", "another"),
    [
        (A - minimum(A, 1), maximum(A - 1, 0)),  # x[1:] and x[:-1]
        (minimum(A + 1, B + 1), minimum(A, B) + 1),
        (minimum(2 * A, A), A),
        (minimum(A // 2, A), A // 2),
        (minimum(A, 3) // 1, minimum(3, A)),
        (maximum(-1 * A, 0), 0),
        (A + maximum(32 - A, 0), maximum(A, 32)),  # padded to at least 32
        (minimum(-1 * A, -1 * B), -1 * maximum(A, B)),
    ],
)
def test_equal_sizes_have_one_form(one: Dim, another: Dim) -> None:
    assert structurally_equal(one, another), f"{one} and {another}"


def test_relations_that_forms_settle() -> None:
    assert less(minimum(A, 4), 5) and not less(A, minimum(A, 4))
    assert not less(A - 2 * (A // 2), 0) and less(A - 2 * (A // 2), 2)
    assert not less((-1 * A) % 4, 0) and never_negative(minimum(A, 5) - minimum(A, 2))
    assert not never_negative(A - 2 * minimum(A, 1))
    assert never_negative(A + maximum(32 - A, 0) - 32)


def test_types_with_such_sizes_can_be_read() -> None:
    shape = parse_type("float32[min(s0, (s1)//2), -min(s0, 1) + s0, 3]").shape
    assert [format_dim(d) for d in shape] == ["min(((s1)//2), s0)", "-min(s0, 1) + s0", "3"]
