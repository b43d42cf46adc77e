"""``torch.special``: most are other names of functions that lie in ``flamec`` itself.

Definitions: NIST Digital Library of Mathematical Functions (dlmf.nist.gov), 5 and 7.
"""

from __future__ import annotations

import math

from flamec.functional.arguments import public
from flamec.functional.arithmetic import Operand
from flamec.functional.bessel import *  # noqa: F403
from flamec.functional.bessel import __all__ as _bessel
from flamec.functional.elementwise import xlogy
from flamec.functional.error_functions import entr, erfcx, log_ndtr, ndtri
from flamec.functional.incomplete_gamma import gammainc, gammaincc
from flamec.functional.multivariate_gamma import multigammaln
from flamec.functional.orthogonal_polynomials import *  # noqa: F403
from flamec.functional.orthogonal_polynomials import __all__ as _polynomials
from flamec.functional.polygamma import polygamma
from flamec.functional.primitives import narrowed, ops
from flamec.functional.promotion import (
    check_operands,
    convert_operands,
    float_dtype,
    require_tensor,
    result_dtype,
)
from flamec.functional.statistics import logsumexp
from flamec.functional.top_level import log_softmax, softmax
from flamec.functional.unary import (
    digamma,
    erf,
    erfc,
    erfinv,
    exp2,
    expm1,
    lgamma,
    log1p,
    logit,
    round,
    sigmoid,
    sinc,
)  # fmt: skip
from flamec.functional.zeta import zeta
from flamec.fusing import fused
from flamec.tensor import Tensor

__all__ = [
    "digamma", "entr", "erf", "erfc", "erfcx", "erfinv", "exp2", "expit", "expm1", "gammainc",
    "gammaincc", "gammaln", "log1p", "log_ndtr", "log_softmax", "logit", "logsumexp",
    "multigammaln", "ndtr", "ndtri", "polygamma", "psi", "round", "sinc", "softmax", "xlog1py",
    "xlogy", "zeta", *_bessel, *_polynomials,
]  # fmt: skip

expit, gammaln, psi = sigmoid, lgamma, digamma


@public
@fused()
def xlog1py(input: Operand, other: Operand) -> Tensor:
    """``input * log1p(other)``; 0 where input is 0, unless other is NaN."""
    check_operands("xlog1py", (input, other))
    dtype = float_dtype(result_dtype(input, other))
    x, y = convert_operands((input, other), dtype.compute)
    unusable = ops.bitwise_or(ops.le(y, -1.0), ops.eq(y, math.inf))
    vanishes = ops.bitwise_and(ops.eq(x, 0.0), unusable)
    return narrowed(ops.mul(x, ops.log1p(ops.where(vanishes, 0.0, y))), dtype)


@public
@fused()
def ndtr(input: Tensor) -> Tensor:
    """The normal distribution function, the integral of its density up to x (DLMF 7.18)."""
    require_tensor("ndtr", "input", input)
    return erfc(input * -math.sqrt(0.5)) * 0.5
