"""Symbolic dimensions: integers, or canonical polynomials over named symbols.

A ``Dim`` is an ``int`` or a ``SymbolicDim``. Symbols stand for sizes (>= 0).
``SymbolicDim`` behaves like an int in user code; where a question about it
cannot be answered from its form (``B == 5``), the oracle in force answers
from the sizes seen while tracing and records the answer as a guard. Outside
tracing there is no oracle and ``Undecidable`` is raised, so a pass can never
assume something silently.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Union

from flamec.ir.integer_methods import IntegerMethods
from flamec.ir.shape_oracle import Undecidable, oracle_in_force

Dim = Union[int, "SymbolicDim"]
Atom = tuple[Any, ...]  # ("s", name) | ("//", numerator, denominator) | ("min", one, another)
Monomial = tuple[Atom, ...]


def _atom_key(atom: Atom) -> tuple[str, ...]:
    return atom if atom[0] == "s" else (atom[0], *map(format_dim, atom[1:]))


class SymbolicDim(IntegerMethods):
    """A polynomial with integer coefficients over symbols, floor divisions and lesser ones of two
    sizes."""

    __slots__ = ("_hash", "terms")

    @property  # type: ignore[misc]  # as unittest.mock has
    def __class__(self) -> type:
        """For the user's code an int, as ``isinstance`` asks; its type is SymbolicDim."""
        oracle = oracle_in_force.get()
        return int if oracle is not None and oracle.serves(sys._getframe(1)) else SymbolicDim

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(
            sorted(terms.items(), key=lambda t: (-len(t[0]), [_atom_key(a) for a in t[0]]))
        )
        self._hash = hash(self.terms)

    @staticmethod
    def symbol(name: str) -> SymbolicDim:
        return SymbolicDim({(("s", name),): 1})

    # arithmetic -----------------------------------------------------------
    def __add__(self, other: Any) -> Any:
        return added(self, other, 1) if _is_dim(other) else self._scalar("__add__", other)

    def __radd__(self, other: Any) -> Any:
        return self.__add__(other)

    def __sub__(self, other: Any) -> Any:
        return added(self, other, -1) if _is_dim(other) else self._scalar("__sub__", other)

    def __rsub__(self, other: Any) -> Any:
        return added(other, self, -1) if _is_dim(other) else self._scalar("__rsub__", other)

    def __abs__(self) -> Any:
        return added(self, multiplied(2, minimum(self, 0)), -1)

    def __neg__(self) -> Any:
        return added(0, self, -1)

    def __mul__(self, other: Any) -> Any:
        return multiplied(self, other) if _is_dim(other) else self._scalar("__mul__", other)

    def __rmul__(self, other: Any) -> Any:
        return self.__mul__(other)

    def __floordiv__(self, other: Any) -> Any:
        return floordiv(self, other) if _is_dim(other) else self._scalar("__floordiv__", other)

    def __rfloordiv__(self, other: Any) -> Any:
        return floordiv(other, self) if _is_dim(other) else self._scalar("__rfloordiv__", other)

    def __mod__(self, other: Any) -> Any:
        if not _is_dim(other):
            return self._scalar("__mod__", other)
        return added(self, multiplied(floordiv(self, other), other), -1)

    def __rmod__(self, other: Any) -> Any:
        if not _is_dim(other):
            return self._scalar("__rmod__", other)
        return added(other, multiplied(floordiv(other, self), self), -1)

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, int) and not isinstance(other, bool) and other >= 0:
            result: Dim = 1
            for _ in range(other):
                result = multiplied(result, self)
            return result
        if not isinstance(other, (int, float, SymbolicDim)):
            return NotImplemented
        return self._computed(operator.pow, self, other)

    def __rpow__(self, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        return self._computed(operator.pow, other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._scalar("__truediv__", other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._scalar("__rtruediv__", other)

    def _computed(self, function: Callable[..., Any], *operands: Any) -> Any:
        oracle = oracle_in_force.get()
        found = None if oracle is None else oracle.computed(function, *operands)
        if found is None:
            return function(*[int(o) if isinstance(o, SymbolicDim) else o for o in operands])
        return found

    def _scalar(self, method: str, other: Any) -> Any:
        """Arithmetic that leaves the integers: continue on a scalar tensor."""
        if not isinstance(other, (int, float, SymbolicDim)):
            return NotImplemented
        oracle = oracle_in_force.get()
        if oracle is None:
            return NotImplemented
        if isinstance(other, SymbolicDim):
            other = oracle.as_scalar(other)
        return getattr(oracle.as_scalar(self), method)(other)

    # relations ------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        if isinstance(other, SymbolicDim):
            if structurally_equal(self, other):
                return True
        elif not isinstance(other, int) or isinstance(other, bool):
            return False
        return _decide(self, "==", other) if oracle_in_force.get() is not None else False

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return _decide(self, "<", other)

    def __le__(self, other: Any) -> bool:
        return _decide(self, "<=", other)

    def __gt__(self, other: Any) -> bool:
        return _decide(other, "<", self)

    def __ge__(self, other: Any) -> bool:
        return _decide(other, "<=", self)

    def __hash__(self) -> int:
        oracle = oracle_in_force.get()
        if oracle is not None and oracle.serves(sys._getframe(1)):
            return hash(oracle.specialize(self))
        return self._hash

    def __bool__(self) -> bool:
        return not _decide(self, "==", 0)

    def __index__(self) -> int:
        return self._converted(range, sys._getframe(1))  # perhaps; code that calls it is asked

    def __int__(self) -> int:
        return self._converted(int, sys._getframe(1))

    def __float__(self) -> float:
        return float(self._converted(float, sys._getframe(1)))

    def _converted(self, kind: type, frame: FrameType) -> int:
        oracle = oracle_in_force.get()
        if oracle is None:
            raise Undecidable(f"the size {self} is symbolic; it has no single integer value")
        oracle.converts(self, kind, frame)
        return oracle.specialize(self)

    def __str__(self) -> str:
        return text_for(self, sys._getframe(1))

    def __repr__(self) -> str:
        return text_for(self, sys._getframe(1))

    def __format__(self, specification: str) -> str:
        return text_for(self, sys._getframe(1), specification)


def text_for(dim: Dim, frame: FrameType, specification: str = "") -> str:
    """What is printed of a size: the number, if the user's code asks while it is traced."""
    oracle = oracle_in_force.get()
    if oracle is not None and isinstance(dim, SymbolicDim) and oracle.serves(frame):
        return format(oracle.specialize(dim), specification)
    return format(format_dim(dim), specification)


def _is_dim(x: object) -> bool:
    return (isinstance(x, int) and not isinstance(x, bool)) or isinstance(x, SymbolicDim)


def _terms(dim: Dim) -> dict[Monomial, int]:
    if isinstance(dim, SymbolicDim):
        return dict(dim.terms)
    return {(): int(dim)} if dim else {}


def _canonical(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return SymbolicDim(kept)


def added(a: Dim, b: Dim, sign: int) -> Dim:
    terms = _terms(a)
    for monomial, coefficient in _terms(b).items():
        terms[monomial] = terms.get(monomial, 0) + sign * coefficient
    return _canonical(terms)


def multiplied(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    terms: dict[Monomial, int] = {}
    right = _terms(b)
    for m1, c1 in _terms(a).items():
        for m2, c2 in right.items():
            monomial = tuple(sorted(m1 + m2, key=_atom_key))
            terms[monomial] = terms.get(monomial, 0) + c1 * c2
    return _canonical(terms)


def _divide_exactly(dividend: Dim, divisor: Dim) -> Dim | None:
    """The polynomial that times ``divisor`` is ``dividend``; None where there is none.

    Long division: terms are in an order that products keep, the highest first.
    """
    (highest, factor), *_ = _ordered(divisor)
    quotient: dict[Monomial, int] = {}
    while not structurally_equal(dividend, 0):
        monomial, coefficient = _ordered(dividend)[0]
        rest = _without(monomial, highest)
        if rest is None or coefficient % factor:
            return None
        quotient[rest] = coefficient // factor
        part = _canonical({rest: coefficient // factor})
        dividend = added(dividend, multiplied(part, divisor), -1)
    return _canonical(quotient)


def _ordered(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, SymbolicDim) else (((), dim),)


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    rest = list(monomial)
    for atom in divisor:
        place = next((i for i, other in enumerate(rest) if _same_atom(other, atom)), None)
        if place is None:
            return None
        del rest[place]
    return tuple(rest)


def _same_atom(a: Atom, b: Atom) -> bool:
    """Sizes in atoms are compared by ==, which asks the oracle, only where they are the same."""
    return hash(a) == hash(b) and a == b


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b``, simplified where the division is exact; ZeroDivisionError for b = 0."""
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError("division of a dimension by zero")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if isinstance(b, int) and b == 1:
        return a
    if isinstance(a, int) and a == 0:
        return 0
    if structurally_equal(a, b):
        return 1
    exact = _divide_exactly(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and isinstance(a, SymbolicDim) and b > 0:
        return _divide_by_number(a, b)
    return _quotient(a, b)


def _quotient(numerator: Dim, denominator: Dim) -> Dim:
    return SymbolicDim({(("//", numerator, denominator),): 1})


def _only_atom(terms: Mapping[Monomial, int]) -> Atom | None:
    """The symbol or quotient that these terms are."""
    for monomial, coefficient in terms.items():
        if len(terms) == len(monomial) == coefficient == 1:
            return monomial[0]
    return None


def _divide_by_number(a: SymbolicDim, b: int) -> Dim:
    """``a // b`` in the one form for all ways to write it: what ``b`` divides stands before the
    quotient, ``(s0 - 1)//2`` is ``(s0 + 1)//2 - 1``; what its terms have in common is cancelled,
    ``(2*s0 + 1)//4`` is ``s0//2``; a quotient of a quotient is one, ``(s0//2)//2`` is ``s0//4``.
    """
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, coefficient in a.terms:
        if not monomial or coefficient % b == 0:
            whole[monomial], coefficient = divmod(coefficient, b)
        rest[monomial] = coefficient
    constant = rest.pop((), 0)
    common = math.gcd(b, *rest.values())
    b, constant = b // common, constant // common
    rest = {m: c // common for m, c in rest.items() if c}
    inner = _only_atom(rest)
    if b == 1:
        quotient = _canonical(rest)
    elif inner is not None and inner[0] == "//" and isinstance(inner[2], int):
        quotient = floordiv(added(inner[1], inner[2] * constant, 1), inner[2] * b)
    else:
        quotient = _quotient(_canonical({**rest, (): constant}), b)
    return added(_canonical(whole), quotient, 1)


def _decide(left: Dim, relation: str, right: Dim) -> bool:
    difference = added(left, right, -1)
    if isinstance(difference, int):
        return {"==": difference == 0, "<": difference < 0, "<=": difference <= 0}[relation]
    oracle = oracle_in_force.get()
    terms = [(m, c) for m, c in difference.terms if m]
    # what is computed of sizes may be negative; in a finished graph it is the size of an array
    known = oracle is None or all(is_nonnegative_atom(a) for m, _ in terms for a in m)
    coefficients = [c for _, c in terms]
    constant = _terms(difference).get((), 0)
    if known and all(c > 0 for c in coefficients):  # sizes are never negative
        if constant > 0:
            return False
        if constant == 0 and relation == "<":
            return False
    elif known and all(c < 0 for c in coefficients):
        if constant < 0:
            return relation != "=="
        if constant == 0 and relation == "<=":
            return True
    if any(a[0] != "s" for m, _ in terms for a in m):
        if relation != "<=" and never_negative(difference if relation == "<" else difference - 1):
            return False
        if never_negative(-1 * difference - int(relation != "<=")):
            return relation != "=="
        if relation == "<=" and never_negative(difference - 1):
            return False
    if oracle is None:
        raise Undecidable(f"cannot decide {left} {relation} {right} without sizes")
    return oracle.decide(left, relation, right)


def is_nonnegative_atom(atom: Atom) -> bool:
    """Whether a symbol, a quotient or the lesser of two sizes is 0 or more whatever the symbols
    are: of ``(s0 - 5)//2`` that is not known."""
    return atom[0] == "s" or all(map(never_negative, atom[1:]))


_MOST_CASES = 4  # quotients and lesser ones of two that are taken apart, one after the other


def never_negative(dim: Dim, cases: int = _MOST_CASES) -> bool:
    """Whether a size is 0 or more whatever its symbols are, as far as its form tells.

    A quotient ``q = a//k`` is between ``(a - k + 1)/k`` and ``a/k``, the lesser of two sizes is
    one of them and at most either.
    """
    if not isinstance(dim, SymbolicDim):
        return dim >= 0
    if all(c > 0 and all(map(is_nonnegative_atom, m)) for m, c in dim.terms):
        return True
    for monomial, coefficient in dim.terms if cases else ():
        for place, atom in enumerate(monomial):
            rest = (*monomial[:place], *monomial[place + 1 :])
            if atom[0] == "s" or not all(map(is_nonnegative_atom, rest)):
                continue
            without = added(dim, SymbolicDim({monomial: coefficient}), -1)
            factor = multiplied(coefficient, SymbolicDim({rest: 1}) if rest else 1)
            if atom[0] == "min":
                found = any if coefficient < 0 else all
                if found(
                    never_negative(added(without, multiplied(factor, part), 1), cases - 1)
                    for part in atom[1:]
                ):
                    return True
            elif isinstance(atom[2], int) and atom[2] > 0:
                bound = atom[1] if coefficient < 0 else added(atom[1], atom[2] - 1, -1)
                scaled = added(multiplied(atom[2], without), multiplied(factor, bound), 1)
                if never_negative(scaled, cases - 1):
                    return True
    return False


def minimum(a: Dim, b: Dim) -> Dim:
    """The lesser of two sizes; where their form does not tell which, that is a size of its own."""
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    if never_negative(added(b, a, -1)):
        return a
    if never_negative(added(a, b, -1)):
        return b
    shared = _shared(_terms(a), _terms(b))
    parts = [added(a, shared, -1), added(b, shared, -1)]
    if all(c < 0 for part in parts for c in _terms(part).values()):  # lesser ones are sizes
        parts = [multiplied(-1, part) for part in parts]
        shared = added(added(a, b, 1), shared, -1)
    parts.sort(key=lambda part: (isinstance(part, int), format_dim(part)))
    return added(SymbolicDim({(("min", *parts),): 1}), shared, 1)


def maximum(a: Dim, b: Dim) -> Dim:
    """The greater of two sizes: both, without the lesser."""
    return added(added(a, b, 1), minimum(a, b), -1)


def _shared(a: dict[Monomial, int], b: dict[Monomial, int]) -> Dim:
    """What two sizes have in common, which the lesser of them has, too."""
    common: dict[Monomial, int] = {}
    for monomial in a.keys() & b.keys():
        both = a[monomial], b[monomial]
        if min(both) > 0 or max(both) < 0:
            common[monomial] = min(both, key=abs)
    constants = a.get((), 0), b.get((), 0)
    # beside a number there is no other one, else the lesser one is 0
    alone = [all(m == () or terms[m] == common.get(m) for m in terms) for terms in (b, a)]
    common[()] = constants[alone.index(True)] if any(alone) else min(constants)
    return _canonical(common)


def equal(a: Dim, b: Dim) -> bool:
    """Whether two sizes are the same; asks the oracle (and so guards) if unclear."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return structurally_equal(a, b) or _decide(a, "==", b)


def less(a: Dim, b: Dim) -> bool:
    return a < b if isinstance(a, int) and isinstance(b, int) else _decide(a, "<", b)


def structurally_equal(a: Dim, b: Dim) -> bool:
    """Equal by form alone; never asks the oracle."""
    if isinstance(a, SymbolicDim):
        # as in _same_atom: sizes in terms are compared by ==
        return isinstance(b, SymbolicDim) and a._hash == b._hash and a.terms == b.terms
    return not isinstance(b, SymbolicDim) and a == b


def format_dim(dim: Dim, call: Callable[[str, str, str], str] | None = None) -> str:
    """Python text of a dimension, or C text and the like, if ``call`` writes the function ``//``
    or ``min`` of two numbers."""
    if not isinstance(dim, SymbolicDim):
        return str(dim)
    text = ""
    for monomial, coefficient in dim.terms:
        factors = [_format_atom(atom, call) for atom in monomial]
        magnitude = abs(coefficient)
        if magnitude != 1 or not factors:
            factors.insert(0, str(magnitude))
        sign = "-" if coefficient < 0 else "+" if text else ""
        text += f" {sign} " if text else sign
        text += "*".join(factors)
    return text


def _format_atom(atom: Atom, call: Callable[[str, str, str], str] | None) -> str:
    if atom[0] == "s":
        return str(atom[1])
    one, another = (format_dim(part, call) for part in atom[1:])
    if call is not None:
        return call(atom[0], one, another)
    if atom[0] == "min":
        return f"min({one}, {another})"
    if isinstance(atom[2], SymbolicDim):
        another = f"({another})"
    return f"(({one})//{another})"
