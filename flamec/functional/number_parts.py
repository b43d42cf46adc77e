"""Floating-point numbers taken apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flamec.errors import OperationTypeError, user_location
from flamec.functional.arguments import public
from flamec.functional.primitives import narrowed, ops, widened
from flamec.functional.promotion import require_tensor
from flamec.fusing import fused
from flamec.ir.types import int32
from flamec.return_types import frexp as Parts
from flamec.tensor import Tensor

__all__ = ["frexp"]


@public
@fused()
def frexp(input: Tensor) -> Any:
    """``(mantissa, exponent)``: input = mantissa * 2**exponent, 0.5 <= abs(mantissa) < 1.

    The exponent is int32. Zeros, infinities and NaN are their own mantissa, with exponent 0.
    RuntimeError for other dtypes than floating-point ones.
    """
    require_tensor("frexp", "input", input)
    dtype = input._type.dtype
    if not dtype.is_floating_point:
        raise OperationTypeError(
            f"torch.frexp() only supports floating-point dtypes, not {dtype.name} "
            f"(at {user_location()})"
        )
    x = widened(input)
    size = ops.abs(x)
    regular = ops.bitwise_and(ops.gt(size, 0.0), ops.lt(size, math.inf))
    mantissa = ops.where(regular, x, 1.0)
    exponent = ops.convert(regular, dtype=int32)  # that of 1 = 0.5 * 2**1
    highest = 9 if x._type.dtype.name == "float64" else 6
    # multiplications by powers of two are exact; the first one again, for subnormal numbers
    for step in (highest, *range(highest, -1, -1)):
        power = 2**step
        large = ops.ge(ops.abs(mantissa), 2.0**power)
        small = ops.lt(ops.abs(mantissa), 2.0 ** (1 - power))
        mantissa = ops.where(large, ops.mul(mantissa, 2.0**-power), mantissa)
        mantissa = ops.where(small, ops.mul(mantissa, 2.0**power), mantissa)
        exponent = ops.where(large, ops.add(exponent, power), exponent)
        exponent = ops.where(small, ops.sub(exponent, power), exponent)
    mantissa = ops.where(regular, ops.mul(mantissa, 0.5), x)
    exponent = ops.where(regular, exponent, 0)
    return Parts(narrowed(mantissa, dtype), exponent)


TENSOR_METHODS: dict[str, Callable[..., Any]] = {"frexp": frexp}
