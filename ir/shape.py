"""Sizes and shapes: what is asked of them, replaced in them, written and read.

A ``Dim`` is an int or a ``SymbolicDim``, whose form and arithmetic are in ``symbolic_dim.py``; its
names are found here, too. The functions that are defined here never ask the oracle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from itertools import combinations

from flamec.ir.symbolic_dim import (
    Atom,
    Dim,
    Monomial,
    SymbolicDim,
    added,
    equal,
    floordiv,
    format_dim,
    is_nonnegative_atom,
    less,
    maximum,
    minimum,
    multiplied,
    never_negative,
    structurally_equal,
    text_for,
)

__all__ = [
    "Atom",
    "Dim",
    "Monomial",
    "SymbolicDim",
    "equal",
    "evaluate_dim",
    "evaluate_shape",
    "floordiv",
    "format_dim",
    "format_shape",
    "has_symbols",
    "is_multiple",
    "is_nonnegative_atom",
    "less",
    "maximum",
    "minimum",
    "multiple_of_symbol",
    "never_negative",
    "parse_dim",
    "product",
    "structural_key",
    "structurally_equal",
    "substitute",
    "symbols_of",
    "text_for",
]


def structural_key(shape: Iterable[Dim]) -> tuple[object, ...]:
    """A hashable key of a shape whose comparison never asks the oracle."""
    return tuple(d.terms if isinstance(d, SymbolicDim) else d for d in shape)


def product(shape: Iterable[Dim]) -> Dim:
    result: Dim = 1
    for dim in shape:
        result = multiplied(result, dim)
    return result


def is_multiple(size: Dim, divisor: int) -> bool:
    """Whether a size is a multiple of a number whatever its symbols are."""
    if isinstance(size, int):
        return size % divisor == 0
    return all(coefficient % divisor == 0 for _, coefficient in size.terms)


def multiple_of_symbol(dim: Dim) -> tuple[int, str] | None:
    """``(c, name)`` if a size is a number times one symbol; None for any other."""
    if not isinstance(dim, SymbolicDim) or len(dim.terms) != 1:
        return None
    monomial, coefficient = dim.terms[0]
    if len(monomial) != 1 or monomial[0][0] != "s":
        return None
    return coefficient, monomial[0][1]


def has_symbols(shape: Iterable[Dim]) -> bool:
    return any(isinstance(d, SymbolicDim) for d in shape)


def symbols_of(dim: Dim) -> set[str]:
    """Names of the symbols that occur in ``dim``."""
    found: set[str] = set()
    if isinstance(dim, SymbolicDim):
        for monomial, _ in dim.terms:
            for atom in monomial:
                if atom[0] == "s":
                    found.add(atom[1])
                else:
                    found |= symbols_of(atom[1]) | symbols_of(atom[2])
    return found


def evaluate_dim(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The integer value of ``dim`` for given symbol values; KeyError if one is missing."""
    if not isinstance(dim, SymbolicDim):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        value = coefficient
        for atom in monomial:
            if atom[0] == "s":
                value *= bindings[atom[1]]
            else:
                one, another = (evaluate_dim(part, bindings) for part in atom[1:])
                value *= min(one, another) if atom[0] == "min" else one // another
        total += value
    return total


def evaluate_shape(shape: Iterable[Dim], bindings: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(evaluate_dim(d, bindings) for d in shape)


def substitute(dim: Dim, replacements: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols, and by their text quotients, lesser ones and products, replaced."""
    if not isinstance(dim, SymbolicDim):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        value: Dim = coefficient
        for atom in monomial:
            if atom[0] == "s":
                factor: Dim = replacements.get(atom[1], SymbolicDim.symbol(atom[1]))
            else:
                made = minimum if atom[0] == "min" else floordiv
                factor = made(*[substitute(part, replacements) for part in atom[1:]])
                if isinstance(factor, SymbolicDim):
                    factor = replacements.get(str(factor), factor)
            value = multiplied(value, factor)
        total = added(total, value, 1)
    products = [name for name in replacements if "*" in name]
    return _without_products(total, replacements) if products else total


def _without_products(dim: Dim, replacements: Mapping[str, Dim]) -> Dim:
    """``dim`` with products of sizes replaced as ``replacements`` says."""
    for monomial, coefficient in dim.terms if isinstance(dim, SymbolicDim) else ():
        for count in range(len(monomial), 1, -1):
            for places in combinations(range(len(monomial)), count):
                product = SymbolicDim({tuple(monomial[i] for i in places): 1})
                value = replacements.get(str(product))
                if value is None:
                    continue
                others = [atom for i, atom in enumerate(monomial) if i not in places]
                whole = SymbolicDim({monomial: coefficient})
                times = SymbolicDim({tuple(others): coefficient}) if others else coefficient
                rest = added(dim, whole, -1)
                return _without_products(added(rest, multiplied(times, value), 1), replacements)
    return dim


def format_shape(shape: Iterable[Dim]) -> str:
    return "[" + ", ".join(format_dim(d) for d in shape) + "]"


def parse_dim(text: str) -> Dim:
    """The inverse of ``format_dim``; ValueError for anything else."""

    def build(node: ast.AST) -> Dim:
        match node:
            case ast.Expression(body=body):
                return build(body)
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(id=name):
                return SymbolicDim.symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return multiplied(-1, build(operand))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return added(build(left), build(right), 1)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return added(build(left), build(right), -1)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return multiplied(build(left), build(right))
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return floordiv(build(left), build(right))
            case ast.Call(func=ast.Name(id="min"), args=[one, another], keywords=[]):
                return minimum(build(one), build(another))
        raise ValueError(f"not a dimension: {text!r}")

    try:
        return build(ast.parse(text, mode="eval"))
    except (SyntaxError, ZeroDivisionError):
        raise ValueError(f"not a dimension: {text!r}") from None


# What is taken from a negative index that must not count from the end; reports of programs, in
# ``codegen/triton/templates/library.py.j2``, too, add it again.
OUT_OF_ALL = 1 << 62


def index_as_given(index: int) -> int:
    """An index in an error, without what was taken from it so that it is out of every range."""
    return index + OUT_OF_ALL if index < -OUT_OF_ALL // 2 else index
