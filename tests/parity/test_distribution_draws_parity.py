"""Draws of ``flamec.distributions`` follow their parameters: slopes against PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from distribution_cases import FOLLOWING, scope

import flamec

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("case", FOLLOWING)
def test_draws_have_the_gradients_that_pytorch_computes(case: str) -> None:
    """PyTorch's derivatives at the draws that were made here."""
    mine, theirs = scope(flamec), scope(torch)
    gammas, normal = [], []

    def standard_gamma(c: Any) -> Any:  # what PyTorch's distributions draw by
        return Followed.apply(c, torch.tensor(gammas[0].detach().numpy()))

    class Followed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, c: Any, x: Any) -> Any:
            ctx.save_for_backward(c, x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            c, x = ctx.saved_tensors
            if "Dirichlet" in case or "Beta" in case:
                total = c.sum(-1, keepdim=True).expand_as(c).contiguous()
                slope = torch._dirichlet_grad(x, c.contiguous(), total)
                return slope * (g - (x * g).sum(-1, keepdim=True)), None
            return g * torch._standard_gamma_grad(c.contiguous(), x), None

    d, other = eval(case, mine), eval(case, theirs)
    flamec.manual_seed(4)
    drawn = d.rsample((3,))
    if "Beta" in case:
        gammas = [flamec.stack([drawn, 1 - drawn], -1)]
        wanted = standard_gamma(other._dirichlet.concentration.expand(3, 4, 2))[..., 0]
    elif "Dirichlet" in case:
        gammas = [drawn]
        wanted = standard_gamma(other.concentration.expand(3, 2, 3))
    elif "Student" in case:
        flamec.manual_seed(4)
        normal = torch.tensor(flamec.randn(3, 4, dtype=flamec.float64).numpy())
        t = torch.tensor(((drawn - mine["r"]) / mine["b"]).detach().numpy())
        chi2 = torch.distributions.Chi2(theirs["a"])
        gammas = [flamec.tensor((normal**2 / t**2 * theirs["a"] / 2).detach().numpy())]
        squares = standard_gamma(chi2.concentration.expand(3, 4)) / chi2.rate
        wanted = theirs["r"] + theirs["b"] * normal * torch.rsqrt(squares / theirs["a"])
    else:
        gammas = [drawn * eval(case, mine).rate]
        wanted = standard_gamma(other.concentration.expand(3, 4)) / other.rate
    np.testing.assert_allclose(drawn.detach().numpy(), wanted.detach().numpy(), rtol=1e-9)
    leaves = ["a", "b", "r", "w"]
    for package, result, names in ((flamec, drawn, mine), (torch, wanted, theirs)):
        weight = package.arange(result.numel(), dtype=package.float64).view(result.shape) / 7
        loss = (result * weight).sin().sum()
        names["found"] = package.autograd.grad(loss, [names[n] for n in leaves], allow_unused=True)
    for name, one, two in zip(leaves, mine["found"], theirs["found"], strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            far = FOLLOWING[case]
            np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=far, atol=far, err_msg=name)
