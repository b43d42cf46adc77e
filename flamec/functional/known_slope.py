"""Elementwise composites whose derivative is known in a better form than that of their terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.autograd.function import Function
from flamec.functional.arguments import public
from flamec.functional.primitives import narrowed, widened
from flamec.functional.unary import Unary, as_floating
from flamec.fusing import fused
from flamec.tensor import Tensor

__all__ = ["declare", "with_slopes"]

Value = Callable[..., Tensor]
Slope = Callable[..., Tensor]


class _WithSlopes(Function):
    @staticmethod
    def forward(ctx: Any, value: Value, slopes: Sequence[Slope], *operands: Tensor) -> Tensor:
        y = value(*operands)
        ctx.slopes = slopes
        ctx.save_for_backward(*operands, y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad
        slopes = zip(ctx.slopes, wanted[2:], strict=True)
        return None, None, *(gradient * slope(*saved) if need else None for slope, need in slopes)


def with_slopes(value: Value, slopes: Sequence[Slope], *operands: Tensor) -> Tensor:
    """``value(*operands)``, elementwise, of operands of one shape and dtype; or one number of one
    operand, of whose shape the slope is.

    ``slopes``: the derivative by each operand as a function of the operands and the result, which
    may be differentiated again, and does not call ``with_slopes`` in a circle: while a function is
    traced, slopes are written out at once.
    """
    result: Tensor = _WithSlopes.apply(value, slopes, *operands)
    return result


def declare(name: str, doc: str, value: Value, slope: Slope | None = None) -> Unary:
    """A function of the user's tensor by a composite of floating-point tensors.

    Integers become the default dtype, 16-bit floats are computed in float32. Without ``slope`` the
    derivative is that of the terms.
    """

    def function(input: Tensor) -> Tensor:
        x = as_floating(name, input)
        wide = widened(x)
        y = value(wide) if slope is None else with_slopes(value, (slope,), wide)
        return narrowed(y, x._type.dtype)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return public(fused()(function))
