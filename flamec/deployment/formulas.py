"""What a loaded program computes in Python of the numbers among its arguments, as data.

In: the expressions that a trace found (``host_numbers.py``), over arguments and sizes. Out: JSON,
and from that a ``Formula``. Invariant: a formula calls nothing but the functions in ``_FUNCTIONS``,
which get numbers and give numbers: it has no other constants, and reads no other arguments.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import numpy as np

from flamec import bounds_of_slices
from flamec.errors import CompileError, user_location
from flamec.host_numbers import OPERATOR_TEXTS, Argument, Expression, Extent
from flamec.ir.shape import evaluate_dim, format_dim, parse_dim
from flamec.math_of_expressions import MATH_NAMES, NUMPY_NAMES, PREDICATES
from flamec.saving import structure as json_structure

# names in a file -> the function, and its text for messages if that is no call
_FUNCTIONS: dict[str, tuple[Callable[..., Any], str]] = {
    **{f.__name__: (f, text) for f, text in OPERATOR_TEXTS.items()},
    **{f"math.{n}": (getattr(math, n), "") for n in (*MATH_NAMES, *PREDICATES)},
    **{f"numpy.{n}": (getattr(np, n), "") for n in NUMPY_NAMES},
    "abs": (operator.abs, ""),
    "min": (min, ""),
    "max": (max, ""),
    "bool": (bool, "{}"),
    "int": (int, "int({})"),
    "bit_length": (int.bit_length, ""),
    "bit_count": (int.bit_count, ""),
    "float": (float, "float({})"),
    "round": (round, ""),
    "is_inside": (bounds_of_slices.is_inside, "(-{1} <= {0} < {1})"),
    "are_inside": (bounds_of_slices.are_inside, "({0}:{1} inside of {2} elements, from one end)"),
    "fits": (bounds_of_slices.fits, "({1} elements from {0} on inside of {2})"),
    "place": (bounds_of_slices.place, "(place of element {0} of {1})"),
    "count": (bounds_of_slices.count, "(number of elements {0}:{1}:{2} of {3})"),
    "count_of_range": (bounds_of_slices.count_of_range, ""),
    "first": (bounds_of_slices.first, "(first of the elements from {0} on of {1})"),
}
_NAMES = {function: name for name, (function, _) in _FUNCTIONS.items()}


@dataclass(frozen=True)
class Formula:
    """``kind``: "argument" (``value``: its leaf), "size" (a ``Dim``), "constant", or "call" of the
    function of that name."""

    kind: str
    value: Any
    operands: tuple[Formula, ...] = ()

    def evaluate(self, leaves: Sequence[Any], sizes: Mapping[str, int]) -> Any:
        """The number in a call; it raises what its functions raise."""
        match self.kind:
            case "argument":
                return leaves[self.value]
            case "size":
                return evaluate_dim(self.value, sizes)
            case "constant":
                return self.value
        return _FUNCTIONS[self.value][0](*[o.evaluate(leaves, sizes) for o in self.operands])

    def text(self, label: Callable[[int], str], named: Callable[[Any], str]) -> str:
        """The formula for messages; ``label``: of a leaf; ``named``: a size in the user's names."""
        match self.kind:
            case "argument":
                return label(self.value)
            case "size":
                return named(self.value)
            case "constant":
                return "" if self.value is None else repr(self.value)
        form = _FUNCTIONS[self.value][1]
        operands = [o.text(label, named) for o in self.operands]
        return form.format(*operands) if form else f"{self.value}({', '.join(operands)})"


def encode(expression: Any, name: str) -> dict[str, Any]:
    """An expression, or a number, as JSON; CompileError, with the function's ``name``, for what a
    program without Python cannot compute."""
    if not isinstance(expression, Expression):
        return {"constant": json_structure.encode(expression, {})}
    place = expression.place
    if isinstance(place, Argument):
        return {"argument": place.position}
    if isinstance(place, Extent):
        return {"size": format_dim(place.dim)}
    function = _NAMES.get(expression.function) if expression.function is not None else None
    if function is None:
        what = place.name if place is not None else getattr(expression.function, "__name__", "?")
        raise CompileError(
            f"{name} cannot be exported: a program without Python cannot compute {what} "
            f"(at {user_location()})"
        )
    return {"call": function, "of": [encode(o, name) for o in expression.operands]}


def decode(data: Mapping[str, Any], numbers: Container[int]) -> Formula:
    """What ``encode`` wrote; KeyError, TypeError or ValueError for anything else.

    ``numbers``: the leaves that are numbers.
    """
    if "argument" in data:
        if data["argument"] not in numbers:
            raise ValueError(f"argument {data['argument']!r} is no number that varies")
        return Formula("argument", data["argument"])
    if "size" in data:
        return Formula("size", parse_dim(data["size"]))
    if "constant" in data:
        value = json_structure.decode(data["constant"], {})
        if not isinstance(value, (int, float, NoneType)):  # None: a bound that is not there
            raise ValueError(f"{value!r} is no number")
        return Formula("constant", value)
    name = data["call"]
    if name not in _FUNCTIONS:
        raise ValueError(f"there is no function {name!r} of numbers")
    return Formula("call", name, tuple([decode(operand, numbers) for operand in data["of"]]))
