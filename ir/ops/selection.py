"""Elementwise choice, requirement and conversion: ``where``, ``require`` and ``convert``.

Both write ``{r}`` in their C text for the lane type of the result, which is not
that of the first operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flamec.ir.builder import Builder
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_alike, check_operand_count
from flamec.ir.ops.elementwise import broadcast_type
from flamec.ir.types import TensorType, bool_


def _where_type(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("where", types, 3)
    if types[0].dtype is not bool_:
        raise TypeError(f"where: the condition must be bool, not {types[0]}")
    check_alike("where", types[1:])
    return broadcast_type("where", types, types[1].dtype)


def _where_derivative(b: Builder, ctx: DerivativeContext, g: Any) -> Sequence[Any]:
    condition = ctx.inputs[0]
    zero = b.constant(0.0, ctx.output_types[0])
    _, x, y = ctx.input_types
    return (
        None,
        b.sum_to(b.where(condition, g, zero), x.shape) if ctx.needs[1] else None,
        b.sum_to(b.where(condition, zero, g), y.shape) if ctx.needs[2] else None,
    )


_LEAST_BLENDED = 1 << 12  # elements below which calls of NumPy are what takes the time


def _chosen(condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``np.where``; of many elements bit by bit, since NumPy takes a branch for each, which takes
    ten times as long where conditions come in no order."""
    if condition.size < _LEAST_BLENDED:
        return np.where(condition, x, y)
    bits = np.dtype(f"i{x.dtype.itemsize}")
    ones = np.negative(condition.view(np.int8), dtype=bits)  # all bits where x is chosen
    right = y.view(bits)
    blended = np.bitwise_and(ones, np.bitwise_xor(x.view(bits), right))
    return np.bitwise_xor(blended, right, out=blended).view(x.dtype)


register(
    Op(
        name="where",
        kind=OpKind.ELEMENTWISE,
        infer=_where_type,
        evaluate=lambda attributes, condition, x, y: _chosen(condition, x, y),
        derivative=_where_derivative,
        saves_inputs=(0,),
        c="vsel_{r}({0}, {1}, {2})",
        triton="tl.where({0}, {1}, {2})",
        doc="x where the condition holds, y elsewhere.",
    )
)


# ``require(condition, x)`` stands where x is used, so that what needs x is not computed in silence.
# Several elements may fail; one of them is reported, when the program is done.
class RequirementError(ValueError):
    """A value is not what an operation asks for; the message names the operation."""


class DivisorError(RequirementError, ZeroDivisionError):
    """An integer is divided by zero."""


_ERRORS = {"ValueError": RequirementError, "ZeroDivisionError": DivisorError}


def _require_type(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("require", types, 2)
    if types[0].dtype is not bool_:
        raise TypeError(f"require: the condition must be bool, not {types[0]}")
    message, error = attributes["message"], attributes["error"]
    if not isinstance(message, str) or "{" in message:
        raise ValueError(f"require: the message must be a text without braces, not {message!r}")
    if error not in _ERRORS:
        raise ValueError(f"require: the error must be one of {', '.join(_ERRORS)}, not {error!r}")
    return broadcast_type("require", types, types[1].dtype)


def _required(attributes: Attributes, condition: np.ndarray, x: np.ndarray) -> np.ndarray:
    if not condition.all():
        raise _ERRORS[attributes["error"]](attributes["message"])
    return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, condition.shape)))


def _require_derivative(b: Builder, ctx: DerivativeContext, g: Any) -> Sequence[Any]:
    return (None, b.sum_to(g, ctx.input_types[1].shape) if ctx.needs[1] else None)


register(
    Op(
        name="require",
        kind=OpKind.REQUIREMENT,
        infer=_require_type,
        evaluate=_required,
        derivative=_require_derivative,
        doc="x, and the error of the given name and message where the condition does not hold.",
    )
)


def _convert_type(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("convert", types, 1)
    return types[0].with_dtype(attributes["dtype"])


def _convert(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """Convert values as C does; 16-bit floats are left in float32, for the caller to round.

    Floats become narrow integers by way of int32, so that values out of range wrap around.
    """
    if attributes["dtype"].is_half:
        return x.astype(np.float32, copy=False)
    dtype = attributes["dtype"].numpy
    if x.dtype.kind == "f" and dtype.kind in "iu" and dtype.itemsize < 4:
        x = x.astype(np.int32)
    return x.astype(dtype)


register(
    Op(
        name="convert",
        kind=OpKind.ELEMENTWISE,
        infer=_convert_type,
        evaluate=_convert,
        derivative=lambda b, ctx, g: (b.cast(g, ctx.input_types[0].dtype),),
        c="vcast_{t}_{r}({0})",
        triton="flamec_cast_{t}_{r}({0})",
        doc="The values in another dtype; non-zero is True, fractions are cut off. The attribute "
        "autocast names the policy of mixed precision that asked for it, until the pass autocast.",
    )
)
