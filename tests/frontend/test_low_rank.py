"""Decompositions of low rank against NumPy's and the matrices themselves."""

from __future__ import annotations

import numpy as np
import pytest

import flamec

RNG = np.random.default_rng(2)


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_low_rank_decompositions(form: str) -> None:
    flamec.manual_seed(0)
    for shape in ((9, 6), (5, 11), (2, 7, 8)):
        left = RNG.standard_normal((*shape[:-1], 3))
        right = RNG.standard_normal((*shape[:-2], 3, shape[-1]))
        array = left @ right + 2.0
        a = flamec.tensor(array)
        wrap = flamec.compile(fullgraph=True) if form == "compiled" else (lambda f: f)
        u, s, v = wrap(lambda a: flamec.svd_lowrank(a, q=4))(a)
        expected = np.linalg.svd(array)[1][..., :4]
        np.testing.assert_allclose(s.numpy(), expected, atol=1e-9)
        np.testing.assert_allclose((u @ s.diag_embed() @ v.mT).numpy(), array, atol=1e-9)
        for sides in (u, v):
            identity = (sides.mT @ sides).numpy()
            np.testing.assert_allclose(
                identity, np.broadcast_to(np.eye(4), identity.shape), atol=1e-9
            )
        u, s, v = wrap(lambda a: flamec.pca_lowrank(a, q=4))(a)
        centered = array - array.mean(-2, keepdims=True)
        np.testing.assert_allclose((u @ s.diag_embed() @ v.mT).numpy(), centered, atol=1e-9)
        u, s, v = wrap(lambda a: flamec.svd_lowrank(a, 4, M=a * 0 + 1.5))(a)
        np.testing.assert_allclose((u @ s.diag_embed() @ v.mT).numpy(), array - 1.5, atol=1e-9)
    assert [t.shape for t in flamec.svd_lowrank(flamec.randn(8, 9))] == [(8, 6), (6,), (9, 6)]
    for options in ({"q": 7}, {"q": -1}, {"niter": -1}):
        with pytest.raises(ValueError, match=r"must be non-negative integer"):
            flamec.pca_lowrank(flamec.ones(5, 4), **options)


def test_the_gradient_of_singular_values_of_low_rank() -> None:
    array = RNG.standard_normal((7, 3)) @ RNG.standard_normal((3, 6))
    a = flamec.tensor(array, requires_grad=True)
    found = flamec.autograd.grad(flamec.svd_lowrank(a, 3)[1].sum(), a)[0]
    u, _, vh = np.linalg.svd(array)
    np.testing.assert_allclose(found.numpy(), u[:, :3] @ vh[:3], atol=1e-8)
