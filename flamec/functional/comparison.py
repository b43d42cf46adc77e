"""Comparisons, logic and bits.

In: tensors, and numbers where PyTorch takes them, compared in their common dtype.
Out: bool tensors, except for the bitwise functions, which keep the dtype, and
``equal`` and ``allclose``, which read values and so return Python bools.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.arithmetic import Operand, promoted
from flamec.functional.elementwise import require_tensors
from flamec.functional.primitives import ops
from flamec.functional.promotion import (
    check_operands,
    constant,
    float_dtype,
    require_a_tensor,
    require_tensor,
    result_dtype,
)
from flamec.fusing import fused
from flamec.ir.op import lookup
from flamec.ir.shape import structural_key
from flamec.ir.types import bool_
from flamec.tensor import Tensor
from flamec.values import all_true


def _comparison(name: str, doc: str) -> Callable[..., Tensor]:
    op = lookup(name)

    @public
    def function(input: Tensor, other: Operand) -> Tensor:
        require_tensor(name, "input", input)
        return promoted(op, name, input, other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


eq = _comparison("eq", "Whether elements are equal; NaN equals nothing.")
ne = _comparison("ne", "Whether elements differ.")
lt = _comparison("lt", "Whether input is below other.")
le = _comparison("le", "Whether input is below or equal to other.")
gt = _comparison("gt", "Whether input is above other.")
ge = _comparison("ge", "Whether input is above or equal to other.")


# kinds of numbers ------------------------------------------------------------------------


def _everywhere(value: bool, input: Tensor) -> Tensor:
    return ops.full(value=value, shape=input._type.shape, dtype=bool_, device=input._type.device)


@public
def isnan(input: Tensor) -> Tensor:
    """Whether elements are NaN."""
    require_tensor("isnan", "input", input)
    if not input._type.dtype.is_floating_point:
        return _everywhere(False, input)
    return ops.ne(input, input)


@public
def isinf(input: Tensor) -> Tensor:
    """Whether elements are infinite."""
    require_tensor("isinf", "input", input)
    if not input._type.dtype.is_floating_point:
        return _everywhere(False, input)
    return ops.eq(ops.abs(input), math.inf)


@public
def isfinite(input: Tensor) -> Tensor:
    """Whether elements are neither infinite nor NaN."""
    require_tensor("isfinite", "input", input)
    if not input._type.dtype.is_floating_point:
        return _everywhere(True, input)
    return ops.lt(ops.abs(input), math.inf)


@public
def isposinf(input: Tensor) -> Tensor:
    """Whether elements are +infinity."""
    return _equals_infinity("isposinf", input, math.inf)


@public
def isneginf(input: Tensor) -> Tensor:
    """Whether elements are -infinity."""
    return _equals_infinity("isneginf", input, -math.inf)


def _equals_infinity(name: str, input: Tensor, infinity: float) -> Tensor:
    require_tensor(name, "input", input)
    if not input._type.dtype.is_floating_point:
        return _everywhere(False, input)
    return ops.eq(input, infinity)


@public
def isreal(input: Tensor) -> Tensor:
    """True everywhere: there are no complex tensors."""
    return _everywhere(True, require_tensor("isreal", "input", input))


# closeness -------------------------------------------------------------------------------


@public
@fused()
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """Whether |input - other| <= atol + rtol * |other|; equal infinities are close."""
    require_tensors("isclose", input=input, other=other)
    if input._type.dtype is not other._type.dtype:
        raise OperationTypeError(
            f"isclose(): {input._type.dtype.name} did not match {other._type.dtype.name} "
            f"(at {user_location()})"
        )
    for argument, tolerance in (("rtol", rtol), ("atol", atol)):
        if tolerance < 0:
            raise OperationError(
                f"isclose(): {argument} must be greater than or equal to zero, but got "
                f"{tolerance} (at {user_location()})"
            )
    close = ops.eq(input, other)
    if input._type.dtype.is_floating_point and equal_nan:
        both = ops.bitwise_and(ops.ne(input, input), ops.ne(other, other))
        close = ops.bitwise_or(close, both)
    if rtol == 0 and atol == 0:
        return close
    if input._type.dtype.kind == "bool":
        return close
    compute = float_dtype(input._type.dtype).compute
    if not input._type.dtype.is_floating_point:  # whose difference may not fit
        input, other = ops.cast(input, compute), ops.cast(other, compute)
    error = ops.cast(ops.abs(ops.sub(input, other)), compute)
    allowed = ops.add(ops.abs(ops.mul(ops.cast(other, compute), rtol)), atol)
    near = ops.bitwise_and(ops.lt(error, math.inf), ops.le(error, allowed))
    return ops.bitwise_or(close, near)


def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """Whether all elements are close, as a Python bool; see ``isclose``."""
    close = isclose(input, other, rtol=rtol, atol=atol, equal_nan=equal_nan)
    return all_true(close, "allclose()")


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and the same elements, as a Python bool."""
    require_tensors("equal", input=input, other=other)
    if structural_key(input._type.shape) != structural_key(other._type.shape):
        return False
    return all_true(eq(input, other), "equal()")


# logic -----------------------------------------------------------------------------------


def as_bool(input: Tensor) -> Tensor:
    """Whether elements are not zero; NaN is not zero."""
    return input if input._type.dtype is bool_ else ops.ne(input, 0)


def _logical(name: str) -> Callable[..., Tensor]:
    primitive = name.replace("logical", "bitwise")

    @public
    def function(input: Tensor, other: Tensor) -> Tensor:
        require_tensors(name, input=input, other=other)
        return getattr(ops, primitive)(as_bool(input), as_bool(other))

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Logical {name[8:]} of whether the elements are nonzero."
    return function


logical_and, logical_or, logical_xor = map(_logical, ("logical_and", "logical_or", "logical_xor"))


@public
def logical_not(input: Tensor) -> Tensor:
    """Whether elements are zero."""
    require_tensor("logical_not", "input", input)
    return ops.eq(input, constant(0, input._type.dtype, input._type.device))


# bits ------------------------------------------------------------------------------------


def _require_integers(name: str, *operands: Any) -> None:
    check_operands(name, operands)
    dtype = result_dtype(*operands)
    if dtype.is_floating_point:
        raise OperationTypeError(
            f"{name}(): defined for integer and bool tensors only, not {dtype.name} "
            f"(at {user_location()})"
        )


def _bitwise(name: str, primitive: str, doc: str) -> Callable[..., Tensor]:
    op = lookup(primitive)

    @public
    def function(input: Operand, other: Operand) -> Tensor:
        require_a_tensor(name, input, other)
        _require_integers(name, input, other)
        return promoted(op, name, input, other)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


bitwise_and = _bitwise("bitwise_and", "bitwise_and", "Bitwise and; logical and for bool.")
bitwise_or = _bitwise("bitwise_or", "bitwise_or", "Bitwise or; logical or for bool.")
bitwise_xor = _bitwise("bitwise_xor", "bitwise_xor", "Bitwise exclusive or.")
bitwise_left_shift = _bitwise(
    "bitwise_left_shift", "shift_left", "Bits moved to the left, zeros moving in."
)
bitwise_right_shift = _bitwise(
    "bitwise_right_shift", "shift_right", "Bits moved to the right, copies of the sign moving in."
)


@public
def bitwise_not(input: Tensor) -> Tensor:
    """All bits inverted; logical not for bool."""
    require_tensor("bitwise_not", "input", input)
    _require_integers("bitwise_not", input)
    return ops.bitwise_not(input)


greater, greater_equal, less, less_equal, not_equal = gt, ge, lt, le, ne

__all__ = [
    "allclose", "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "eq", "equal", "ge", "greater", "greater_equal", "gt",
    "isclose", "isfinite", "isinf", "isnan", "isneginf", "isposinf", "isreal", "le", "less",
    "less_equal", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne",
    "not_equal",
]  # fmt: skip

TENSOR_METHODS: dict[str, Callable[..., Any]] = {name: globals()[name] for name in __all__}
IN_PLACE: tuple[str, ...] = tuple(
    name for name in __all__ if not name.startswith("is") and name not in ("allclose", "equal")
)
