"""Operators of ``RuntimeNumber``: a Python number that a compiled program reads at each call.

Between numbers they follow Python (float64 and int64, ``/`` gives a float, augmented
assignment makes a new number); with a tensor the number promotes as a Python number
does. What has no such meaning while tracing is refused, and the compiler then takes
the number as a constant.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import numpy as np

from flamec.conversions import ask
from flamec.errors import is_framework_file, unknown_value, user_location
from flamec.functional import arithmetic, comparison, unary
from flamec.functional.promotion import convert_operands, is_number, number_dtype, plain_number
from flamec.host_numbers import (
    computed,
    computed_of_sizes,
    decide,
    expression_of,
    is_computed,
    mark_of_sizes,
    of_sizes,
    settle,
    settle_as,
)
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import DType, bool_, float64, int64
from flamec.numpy_numbers import NumPyNumber
from flamec.state import thread
from flamec.tensor import RuntimeNumber, Tensor
from flamec.values import required

Function = Callable[..., Tensor]

ARITHMETIC: Mapping[str, Function] = {
    "add": arithmetic.add,
    "sub": arithmetic.sub,
    "mul": arithmetic.mul,
    "truediv": arithmetic.true_divide,
    "floordiv": arithmetic.floor_divide,
    "mod": arithmetic.remainder,
    "pow": arithmetic.pow,
    "and": comparison.bitwise_and,
    "or": comparison.bitwise_or,
    "xor": comparison.bitwise_xor,
    "lshift": comparison.bitwise_left_shift,
    "rshift": comparison.bitwise_right_shift,
}
COMPARISONS: Mapping[str, tuple[Function, Function]] = {  # each with what exchanging gives
    "lt": (comparison.lt, comparison.gt),
    "le": (comparison.le, comparison.ge),
    "gt": (comparison.gt, comparison.lt),
    "ge": (comparison.ge, comparison.le),
    "eq": (comparison.eq, comparison.eq),
    "ne": (comparison.ne, comparison.ne),
}
UNARY: Mapping[str, Function] = {"neg": unary.neg, "pos": unary.positive, "abs": unary.abs}


_DIVISIONS = ("truediv", "floordiv", "mod")


def _is_of_user(frame: FrameType) -> bool:
    """Whether a line of the user's divides; an optimizer's divisors are not 0."""
    return not is_framework_file(frame.f_code.co_filename)


def _kind(operand: Any) -> DType:
    if isinstance(operand, Tensor):
        return operand._type.dtype
    dtype = number_dtype(operand)
    return float64 if dtype.is_floating_point else int64


def _is_numeric(operand: Any) -> bool:
    return isinstance(operand, RuntimeNumber) or is_number(operand)


def _of_sizes(function: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    """A function of a symbolic size and a whole number that Python computes in each call, both as
    sizes; None for others."""
    numbers = [v for v in (x, y) if not isinstance(v, SymbolicDim)]
    expression = expression_of(numbers[0]) if len(numbers) == 1 else None
    if expression is None or not expression.state.sizes.serves(expression):
        return None
    size = expression.state.sizes.size(expression)
    return function(*[size if v is numbers[0] else v for v in (x, y)])


def _of_numbers(name: str, function: Function, x: Any, y: Any) -> Any:
    """Python's arithmetic on two numbers, at least one of them known only when running."""
    of_python = getattr(operator, f"{name}_" if name in ("and", "or") else name)
    found: Any = _of_sizes(of_python, x, y) if name in ("add", "sub", "mul") else None
    found = computed(of_python, x, y) if found is None else found
    if found is None and name == "pow":
        found = computed_of_sizes(of_python, x, y)
    if found is not None:
        return found
    floating = name == "truediv" or float64 in (_kind(x), _kind(y))
    if name == "pow" and not floating:
        if isinstance(y, Tensor) and thread.trace is not None:
            raise unknown_value("an int to the power of an int")
        floating = not isinstance(y, Tensor) and plain_number(y) < 0
    operands = convert_operands((x, y), float64 if floating else int64)
    if name in _DIVISIONS and isinstance(y, Tensor) and _is_of_user(sys._getframe(2)):
        operands[1] = _divisor(operands[1])
    number = RuntimeNumber.of(function(*operands))
    mark_of_sizes(number, of_sizes(of_python, x, y))
    return number


def _divisor(y: Tensor) -> Tensor:
    """``y``, which is not zero: a condition of the program where sizes decide it."""
    decided = _decided_by_sizes(bool, y) if isinstance(y, RuntimeNumber) else None
    if decided is None:
        return required(y, lambda d: d != 0, "division by zero", error="ZeroDivisionError")
    if not decided:
        raise ZeroDivisionError(f"division by zero (at {user_location()})")
    return y


def _binary(name: str, function: Function, reflected: bool) -> Callable[[Any, Any], Any]:
    def combine(self: RuntimeNumber, other: Any) -> Any:
        operands = (other, self) if reflected else (self, other)
        if _is_numeric(other):
            return _of_numbers(name, function, *operands)
        return function(*operands) if isinstance(other, Tensor) else NotImplemented

    return combine


def _unary(name: str, function: Function) -> Callable[[Any], Any]:
    def unary(self: RuntimeNumber) -> Any:
        of_python = getattr(operator, name)
        found = computed(of_python, self)
        if found is None:
            found = RuntimeNumber.of(function(self))
            mark_of_sizes(found, of_sizes(of_python, self))
        return found

    return unary


def _read(self: RuntimeNumber) -> Any:
    """The number itself, where the program is split or takes it as a constant."""
    found = settle(self)
    if found is not None:
        return found
    kind = float if self._type.dtype.is_floating_point else int
    return kind(self) if self._type.dtype is not bool_ else bool(self)


def _array_wrap(
    self: RuntimeNumber, array: np.ndarray, context: Any = None, return_scalar: bool = False
) -> Any:
    """NumPy's functions give NumPy's numbers for a number."""
    return array[()] if return_scalar else array


def _array(self: RuntimeNumber, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.array(_read(self), dtype)


def _attribute(self: RuntimeNumber, name: str) -> Any:
    """What numbers have and tensors have not, as ``is_integer``: of the number itself."""
    if name.startswith("__") or not (hasattr(float, name) or hasattr(int, name)):
        raise AttributeError(f"'{type(self).__name__}' object has no attribute {name!r}")
    return getattr(_read(self), name)


def _by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """What Python makes of the number itself."""

    def method(self: RuntimeNumber, *arguments: Any) -> Any:
        found = None
        if function in _ROUNDING:
            found = computed(function, self, *arguments)
            found = computed_of_sizes(function, self, *arguments) if found is None else found
        return function(_read(self), *arguments) if found is None else found

    return method


def _decided_by_sizes(function: Callable[..., Any], *values: Any) -> bool | None:
    """The truth of what is computed of sizes: a condition of the program; None for others."""
    expression = of_sizes(function, *values)
    return None if expression is None else expression.state.decide(expression)


def _conversion(name: str) -> Callable[[Any], Any]:
    """``bool(number)`` and the like, as a tensor's but for numbers that Python computes."""
    of_tensor = getattr(Tensor, name)
    convert: Any = operator.index if name == "__index__" else getattr(builtins, name.strip("_"))

    def method(self: RuntimeNumber) -> Any:
        if convert is bool:
            truth = decide(bool, self)
            truth = _decided_by_sizes(bool, self) if truth is None else truth
            return of_tensor(self) if truth is None else truth
        if convert in (int, float) and is_computed(self):
            ask(convert, sys._getframe(1))
        found = settle(self) if convert not in (int, float) else settle_as(convert, self)
        return of_tensor(self) if found is None else convert(found)

    return method


_ROUNDING = (round, math.floor, math.ceil, math.trunc)
CONVERSIONS = ("__bool__", "__int__", "__float__", "__complex__", "__index__")


BY_VALUE: Mapping[str, Callable[..., Any]] = {
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
    "divmod": divmod,
    "format": format,
    "str": str,
    "repr": repr,
    "hash": hash,
}


def _comparing(name: str, function: Function, reflected: Function) -> Callable[[Any, Any], Any]:
    def compare(self: RuntimeNumber, other: Any) -> Any:
        if _is_numeric(other):
            of_python = getattr(operator, name)
            found = _of_sizes(of_python, self, other)
            if found is None:
                found = decide(of_python, self, other)
            if found is None:
                found = _decided_by_sizes(of_python, self, other)
            if found is not None:
                of_numpy = isinstance(self, NumPyNumber) or isinstance(
                    other, (NumPyNumber, np.generic)
                )
                return np.bool_(found) if of_numpy else found
            common = float64 if float64 in (_kind(self), _kind(other)) else int64
            return RuntimeNumber.of(function(*convert_operands((self, other), common)))
        return reflected(other, self) if isinstance(other, Tensor) else NotImplemented

    return compare


def attach_operators() -> None:
    """Give ``RuntimeNumber`` its own operators, without in-place forms."""
    for name, (compare, reflected) in COMPARISONS.items():
        setattr(RuntimeNumber, f"__{name}__", _comparing(name, compare, reflected))
    for name, function in ARITHMETIC.items():
        forward = _binary(name, function, False)
        setattr(RuntimeNumber, f"__{name}__", forward)
        setattr(RuntimeNumber, f"__i{name}__", forward)
        setattr(RuntimeNumber, f"__r{name}__", _binary(name, function, True))
    RuntimeNumber.read = _read
    RuntimeNumber.__array__ = _array  # type: ignore[attr-defined]  # as the others
    RuntimeNumber.__array_wrap__ = _array_wrap  # type: ignore[attr-defined]  # as the others
    RuntimeNumber.__getattr__ = _attribute  # type: ignore[assignment]  # as the others
    for name, function in BY_VALUE.items():
        setattr(RuntimeNumber, f"__{name}__", _by_value(function))
    for name in CONVERSIONS:
        setattr(RuntimeNumber, name, _conversion(name))
    for name, function in UNARY.items():
        setattr(RuntimeNumber, f"__{name}__", _unary(name, function))
