"""Values and derivatives where formulas break, against PyTorch.

Zeros of both signs, kinks, infinities, NaN, the largest and the smallest numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from parity_expressions import expressions

import flamec

torch = pytest.importorskip("torch")

POINTS = [
    0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 6, -6, 0.25, -1.5, 20, -20, 21, 100, -100,
    1e-2, -1e-2, np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-40, -1e-40,
]  # fmt: skip
TIMES = 17  # how often each occurs, since vectors and what is left of them differ in PyTorch

# where PyTorch's formula gives NaN (infinity less infinity, 0 / 0), and ours the limit
LIMITS = {
    "F.gelu(x)", "F.kl_div(torch.zeros_like(x),x,reduction='none')",
    "F.soft_margin_loss(x,torch.ones_like(x),reduction='none')", "torch.copysign(x,-0.)",
    "torch.copysign(x,torch.full_like(x,-1.))", "torch.logaddexp(x,x)", "torch.logaddexp2(x,x)",
    "torch.polygamma(1,x)", "torch.special.i0(x)", "torch.special.i1(x)",
    "torch.stack([x,torch.full_like(x,2),x],1).cumprod(1)",
    "torch.trapezoid(torch.stack([x,torch.ones_like(x)],1),dim=1)",
    "torch.xlogy(0.,x)", "torch.xlogy(torch.zeros_like(x),x)", "torch.xlogy(x,x)",
    "x[:,None].logsumexp(1)",
}  # fmt: skip
# derivatives at NaN that depend in PyTorch on the position in a vector, or are numbers
NUMBERS_AT_NAN = {
    "F.hardshrink(x)", "F.hardshrink(x,0.0)", "F.hardsigmoid(x)", "F.hardtanh(x)",
    "F.hardtanh(x,0.,0.5)", "F.relu6(x)", "F.softshrink(x)", "F.softshrink(x,0.0)", "F.elu(x)",
    "F.elu(x,alpha=2.0)", "F.celu(x)", "F.celu(x,alpha=2.0)", "F.selu(x)", "F.hardswish(x)",
    "torch.special.i1(x)", "torch.special.i1e(x)", 
    "x[:,None].norm(p=inf,dim=1)", "x[:,None].norm(p=-inf,dim=1)",
    "F.multi_margin_loss(torch.stack([x,torch.ones_like(x)],1),"
    "torch.zeros(len(x),dtype=torch.int64),reduction='none')",
}  # fmt: skip
# where PyTorch has a large number instead of infinity, or another function than the power's
INTEGERS = [-1, -2, -3, -6, -20, -100, -1e38]
POLES = {
    "torch.digamma(x)": INTEGERS,
    "torch.polygamma(0,x)": INTEGERS,
    "torch.polygamma(1,x)": [*INTEGERS, -np.inf],
    "x**-0.5": [-np.inf],
}


def evaluated(module: Any, text: str) -> list[np.ndarray]:
    """The value of an expression, and its derivative by x."""
    x = module.tensor(np.repeat(POINTS, TIMES).tolist(), requires_grad=True)
    names = {"x": x, "torch": module, "F": module.nn.functional, "inf": np.inf, "nan": np.nan}
    y = eval(text, names)
    if not y.is_floating_point():
        return [y.numpy().astype(np.float32)]
    if not y.requires_grad:
        return [y.numpy()]
    (slope,) = module.autograd.grad(y, x, module.ones_like(y))
    return [y.detach().numpy(), slope.numpy()]


@pytest.mark.parametrize("text", expressions("edge"))
def test_values_and_derivatives_at_edges(text: str) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for mine, theirs in zip(evaluated(flamec, text), evaluated(torch, text), strict=True):
            assert mine.shape == theirs.shape
            points = np.repeat(POINTS, mine.size // len(POINTS))
            close = np.abs(mine - theirs) <= 2e-4 * np.maximum(np.abs(theirs), 1e-2)
            same = (mine == theirs).ravel() | (np.isnan(mine) & np.isnan(theirs)).ravel()
            same |= close.ravel()
            if text in LIMITS:
                same |= np.isnan(theirs).ravel()
            if text in NUMBERS_AT_NAN:
                same |= np.isnan(points)
            same |= np.isin(points, POLES.get(text, []))
            wrong = np.flatnonzero(~same)[:3]
            assert not wrong.size, [
                (points[i], float(mine.ravel()[i]), float(theirs.ravel()[i])) for i in wrong
            ]


def test_second_derivatives_at_edges() -> None:
    """PyTorch has no numbers there, or other ones: from float64, or the functions' series."""
    special = flamec.special
    for function, points, expected in (
        (special.log_ndtr, [20.0, 100.0, 1e35], [0.0, 0.0, 0.0]),
        (flamec.sinc, [0.0, 1e-4, 1e-40], [-(np.pi**2) / 3] * 3),
        (special.i1, [0.0, 1e-40], [0.0, 0.0]),
    ):
        x = flamec.tensor(points, requires_grad=True)
        (slope,) = flamec.autograd.grad(function(x).sum(), x, create_graph=True)
        (second,) = flamec.autograd.grad(slope.sum(), x)
        np.testing.assert_allclose(second.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_zeta_and_ndtri_next_to_zero() -> None:
    q = np.array([-1e-4, -1e-2], np.float32)
    mine = flamec.special.zeta(2.0, flamec.from_numpy(q))
    theirs = torch.special.zeta(torch.tensor(2.0), torch.from_numpy(q).double())
    np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-6)
    assert flamec.special.ndtri(flamec.tensor([-1e-40, 0.0])).tolist()[1] == -np.inf
    assert np.isnan(flamec.special.ndtri(flamec.tensor(-1e-40)).item())
