"""Draws that follow their parameters: gamma and Dirichlet numbers with gradients.

A draw x of a distribution function F(x; c) is kept at its quantile when c changes: dx/dc is
-(dF/dc) / (dF/dx) (M. Figurnov, S. Mohamed and A. Mnih, "Implicit reparameterization gradients",
NeurIPS 2018; for Dirichlet numbers M. Jankowiak and F. Obermeyer, "Pathwise derivatives beyond the
reparameterization trick", ICML 2018). Both derivatives of F are taken together, as one integral
over the tail on that side of x where what is integrated, the logarithm less its mean, has one sign,
so that nothing cancels; relative errors are below 1e-7 (``functional/incomplete_gamma.py``).

Logarithms and slopes are float64. Slopes are functions of draws and parameters, so that gradients
have gradients.
"""

from __future__ import annotations

from typing import Any

import flamec
from flamec.autograd.function import Function
from flamec.functional.incomplete_gamma import gamma_slope
from flamec.functional.quadrature import half_line
from flamec.fusing import fused
from flamec.ir.types import DType
from flamec.tensor import Tensor

__all__ = ["following_gamma", "following_shares"]


@fused()
def _share_slope(a: Tensor, b: Tensor, log_x: Tensor, log_rest: Tensor) -> Tensor:
    """The derivative of log(x / (1 - x)) of a number x of Beta(a, b) by a.

    ``log_rest`` is log(1 - x). Parameters below 1 by those that are larger by 1: for the
    incomplete beta function as for the gamma function (DLMF 8.17.20 and 8.17.21).
    """
    small_a, small_b = a < 1, b < 1
    p, q = flamec.where(small_a, a + 1, a), flamec.where(small_b, b + 1, b)
    x, rest = log_x.exp(), log_rest.exp()
    above = flamec.digamma(p) - flamec.digamma(p + q) - log_x
    low = above > 0
    with flamec.no_grad():
        width = 1 / flamec.maximum(((p + q) * x * rest).sqrt(), (p * rest - q * x).abs())
        place, weight = half_line(p, 64)
        away = flamec.where(low, -width, width) * place  # of the logarithm of t / (1 - t)
        weight = weight * width
    grown = flamec.log1p(x * flamec.expm1(away))
    terms = (above - away + grown).abs() * (p * away - (p + q) * grown).exp()
    slope = (terms * weight).sum(0)
    shifted = rest * (p + b) * slope + log_x - flamec.digamma(p) + flamec.digamma(p + b)
    slope = flamec.where(small_b, shifted / b, slope)
    shifted = x * (a + b) * slope + flamec.digamma(a + 1) - flamec.digamma(a + b) - log_x
    return flamec.where(small_a, shifted / a, slope)


class _GammaLogarithm(Function):
    """The logarithm of a gamma number, which follows the concentration."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, logarithm: Tensor) -> Tensor:
        followed = logarithm.clone()
        ctx.save_for_backward(concentration, followed)
        return followed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * gamma_slope(*ctx.saved_tensors), None


class _ShareLogarithms(Function):
    """Logarithms whose softmax are Dirichlet numbers, which follow the concentrations.

    That of x_j follows c_j alone, so that the other numbers keep their proportions.
    """

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, logarithms: Tensor) -> Tensor:
        followed = logarithms.log_softmax(-1)
        ctx.save_for_backward(concentration, followed)
        return followed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        concentration, followed = ctx.saved_tensors
        logarithms = followed.log_softmax(-1)
        others = concentration.sum(-1, keepdim=True) - concentration
        return gradient * _share_slope(concentration, others, logarithms, _rests(logarithms)), None


def _rests(logarithms: Tensor) -> Tensor:
    """log(1 - x) of shares x from their logarithms: of the largest one the sum of the others."""
    places = flamec.arange(logarithms.shape[-1], device=logarithms.device)
    largest = places == logarithms.argmax(-1, keepdim=True)
    others = flamec.where(largest, -flamec.inf, logarithms).logsumexp(-1, keepdim=True)
    small = flamec.where(largest, -1.0, logarithms)
    return flamec.where(largest, others, flamec.log1p(-small.exp()))


class _Exponential(Function):
    """exp(x) in another dtype; what is too small becomes its smallest normal number, but follows x
    in proportion, so that its logarithm does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: DType) -> Tensor:
        y = x.exp().to(dtype).clamp_min(flamec.finfo(dtype).tiny)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return (gradient * y).double(), None


class _Shares(Function):
    """softmax(x) in another dtype, within the open interval where densities are finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: DType) -> Tensor:
        limits = flamec.finfo(dtype)
        y = x.softmax(-1).to(dtype).clamp(limits.tiny, 1 - limits.eps / 2)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        inner = (gradient * y).sum(-1, keepdim=True)
        return (y * (gradient - inner)).double(), None


def following_gamma(concentration: Tensor, logarithm: Tensor) -> Tensor:
    """Gamma numbers from their logarithms, in the concentration's dtype, with gradients by it.

    ``logarithm``: float64, without gradients, of the same shape.
    """
    followed = _GammaLogarithm.apply(concentration.double(), logarithm)
    result: Tensor = _Exponential.apply(followed, concentration.dtype)
    return result


def following_shares(concentration: Tensor, logarithms: Tensor) -> Tensor:
    """Dirichlet numbers from logarithms of gamma numbers; see ``following_gamma``."""
    followed = _ShareLogarithms.apply(concentration.double(), logarithms)
    result: Tensor = _Shares.apply(followed, concentration.dtype)
    return result
