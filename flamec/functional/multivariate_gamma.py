"""The logarithm of the gamma function of matrices."""

from __future__ import annotations

import math

from flamec.errors import OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.promotion import require_tensor
from flamec.functional.unary import lgamma
from flamec.tensor import Tensor

__all__ = ["mvlgamma"]


@public
def multigammaln(input: Tensor, p: int) -> Tensor:
    """The logarithm of the gamma function of symmetric ``p`` x ``p`` matrices (DLMF 35.3.4).

    RuntimeError for p < 1.
    """
    require_tensor("multigammaln", "input", input)
    if p < 1:
        raise OperationError(f"p has to be greater than or equal to 1 (at {user_location()})")
    total = sum((lgamma(input - k / 2) for k in range(1, p)), start=lgamma(input))
    return total + p * (p - 1) / 4 * math.log(math.pi)


mvlgamma = multigammaln
