"""What an operation asks of values: ``require``, which a program looks at as it looks at indices.

``x = require(condition, x)`` stands where x is used, so that what needs x is not computed in
silence. Several elements may fail; one of them is reported, when the program is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_operand_count
from flamec.ir.ops.elementwise import broadcast_type
from flamec.ir.types import TensorType, bool_

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


class RequirementError(ValueError):
    """A value is not what an operation asks for; the message names the operation."""


class DivisorError(RequirementError, ZeroDivisionError):
    """An integer is divided by zero."""


_ERRORS = {"ValueError": RequirementError, "ZeroDivisionError": DivisorError}


def _infer(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("require", types, 2)
    if types[0].dtype is not bool_:
        raise TypeError(f"require: the condition must be bool, not {types[0]}")
    message, error = attributes["message"], attributes["error"]
    if not isinstance(message, str) or "{" in message:
        raise ValueError(f"require: the message must be a text without braces, not {message!r}")
    if error not in _ERRORS:
        raise ValueError(f"require: the error must be one of {', '.join(_ERRORS)}, not {error!r}")
    return broadcast_type("require", types, types[1].dtype)


def _evaluate(attributes: Attributes, condition: np.ndarray, x: np.ndarray) -> np.ndarray:
    if not condition.all():
        raise _ERRORS[attributes["error"]](attributes["message"])
    return np.array(np.broadcast_to(x, np.broadcast_shapes(x.shape, condition.shape)))


def _derivative(b: Builder, ctx: DerivativeContext, g: Any) -> Sequence[Any]:
    return (None, b.sum_to(g, ctx.input_types[1].shape) if ctx.needs[1] else None)


register(
    Op(
        name="require",
        kind=OpKind.REQUIREMENT,
        infer=_infer,
        evaluate=_evaluate,
        derivative=_derivative,
        doc="x, and the error of the given name and message where the condition does not hold.",
    )
)
