"""Arithmetic of symbolic sizes: against Python's numbers, and one form for one size."""

from __future__ import annotations

import random

from flamec.ir.shape import (
    Dim,
    SymbolicDim,
    evaluate_dim,
    floordiv,
    format_dim,
    parse_dim,
    structurally_equal,
)
from flamec.ir.shape_oracle import using_oracle

NAMES = ("s0", "s1", "s2")
S0, S1 = SymbolicDim.symbol("s0"), SymbolicDim.symbol("s1")


def computed(rng: random.Random, depth: int, values: list[int]) -> tuple[Dim, int]:
    """A random size, and what Python computes for it where the symbols have these values."""
    kind = rng.randrange(7 if depth else 2)
    if kind == 0:
        number = rng.randrange(3)
        return SymbolicDim.symbol(NAMES[number]), values[number]
    if kind == 1:
        return (n := rng.randrange(-9, 10)), n
    (a, x), (b, y) = computed(rng, depth - 1, values), computed(rng, depth - 1, values)
    match kind:
        case 2:
            return a + b, x + y
        case 3:
            return a - b, x - y
        case 4:
            return a * b, x * y
        case 5:
            n = rng.choice([1, 2, 3, 4, 5, 6, 8])
            return floordiv(a, n), x // n
    if y == 0:
        return a, x
    return (floordiv(a * b, b), x) if rng.random() < 0.5 else (floordiv(a, b), x // y)


def test_sizes_are_what_python_computes_and_their_texts_say_so() -> None:
    for seed in range(3000):
        rng = random.Random(seed)
        values = [rng.randrange(9) for _ in NAMES]
        dim, expected = computed(rng, 3, values)
        assert evaluate_dim(dim, dict(zip(NAMES, values, strict=True))) == expected, seed
        assert structurally_equal(parse_dim(format_dim(dim)), dim), (seed, dim)


def test_one_size_has_one_form() -> None:
    half, third = S0 // 2, S0 // 3
    for one, other in (
        ((S0 - 2) // 2 + 1, half),  # a convolution of four with stride two, and half
        ((S0 - 1) // 2 + 1, (S0 + 1) // 2),
        (half // 2, S0 // 4),
        (((S0 + 1) // 2 + 1) // 2, (S0 + 3) // 4),
        ((2 * S0 + 1) // 4, half),
        ((4 * S0 + S1 + 7) // 4, S0 + (S1 + 3) // 4 + 1),
        (half * third, third * half),
        ((18 * half * half + 36 * half + 18) // (6 * half * half + 12 * half + 6), 3),
        ((S0 * S1 + S0 + S1 + 1) // (S1 + 1), S0 + 1),
        ((S0 * S0 - 1) // (S0 + 1), S0 - 1),
    ):
        assert structurally_equal(one, other), (one, other)
    assert format_dim((S0 + 3) // S1) == "((s0 + 3)//(s1))"


class _Asked:
    """An oracle for which nothing is equal, and which counts."""

    count = 0

    def decide(self, left: Dim, relation: str, right: Dim) -> bool:
        self.count += 1
        return False

    def serves(self, frame: object) -> bool:
        return False


def test_what_forms_say_is_not_asked_of_sizes_in_quotients() -> None:
    """Each question is a guard more: a program for other sizes."""
    half, other = (S0 + 1) // 2, (S1 + 1) // 2
    oracle = _Asked()
    with using_oracle(oracle):  # type: ignore[arg-type]
        assert not structurally_equal(half, other)
        assert format_dim(floordiv(half * S0, other)) == "((((s0 + 1)//2)*s0)//(((s1 + 1)//2)))"
        assert oracle.count == 0
        assert half != other
        assert oracle.count == 1
