"""Functions of PyTorch's top level that older programs use, low-rank decompositions, histograms,
binomial numbers, SyncBatchNorm: against PyTorch, SciPy or the definition."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(2)
ARRAYS = {
    "x": RNG.standard_normal((3, 4)),
    "m": RNG.standard_normal((2, 5, 3)),
    "c": RNG.standard_normal((4, 3, 5)),
    "w": RNG.random(3) + 0.5,
    "b": RNG.standard_normal(3),
    "r": RNG.random(3),
    "i": np.array([[0, 2, 0], [1, 0, 3]]),
    "s": RNG.standard_normal((3, 3)),
}
CALLS = """
torch.range(1, 4)
torch.range(1, 2.5, 0.5)
torch.range(5, 1, -2, dtype=torch.int64)
torch.range(4, 1)
torch.range(0, 1, 0)
torch.range(0.0, 1.0, 0.1).shape
torch.nonzero_static(i, size=2)
torch.nonzero_static(i, size=5)
torch.nonzero_static(i, size=5, fill_value=7)
torch.nonzero_static(i, size=-1)
torch.constant_pad_nd(x, (1, 2), 3.0)
torch.constant_pad_nd(x, (1, -2, 0, 1))
torch.frobenius_norm(x, 1)
torch.frobenius_norm(m, (0, 2), True)
torch.nuclear_norm(x)
torch.nuclear_norm(m, (1, 2))
torch.nuclear_norm(m, (0, 2), True)
torch.norm_except_dim(m, 2, 1)
torch.norm_except_dim(m, 1, -1)
torch.norm_except_dim(w, 2, 0)
torch.batch_norm(c, w, b, r.clone(), w.clone(), False, 0.1, 1e-5, True)
torch.batch_norm(c, w, None, None, None, True, 0.1, 1e-5, True)
torch.instance_norm(c, w, b, None, None, True, 0.1, 1e-5, True)
torch.unsafe_chunk(x, 3, 1)
torch.unsafe_split(x, 2)
torch.unsafe_split_with_sizes(x, [1, 2])
torch.lu(s)[0]
torch.lu(s, get_infos=True)[2]
torch.histogram(x.float(), 4)
torch.histogram(x, 3, range=(-1.0, 0.5))
torch.histogram(x, 3, range=(1.0, 1.0))
torch.histogram(torch.tensor([1.0, 1.0]), 3)
torch.histogram(torch.tensor([]), 3)
torch.histogram(x, torch.tensor([-1.0, 0.0, 0.1, 2.0], dtype=torch.float64))
torch.histogram(x, 5, weight=x.abs(), density=True)
x.histogram(4, density=True)
torch.histogram(i, 4)
torch.histogram(x, 0)
torch.histogram(x, 2, range=(3, 1))
torch.histogram(torch.tensor([1.0, float('nan')]), 2)
torch.histogram(torch.tensor([0.0, 0.5, 1.0]), 2)
torch.histogram(torch.tensor([float('inf'), 1.0]), torch.tensor([0.0, float('inf')]))
torch.i0(x)
torch.igamma(w, r)
x.clone().i0_()
w.clone().igammac_(r)
torch.mvlgamma(w + 2, 3)
torch.mvlgamma(torch.tensor([float('inf'), 3.0]), 2)
torch.mvlgamma(w + 2, 0)
"""


@pytest.mark.parametrize("text", CALLS.split("\n")[1:-1])
def test_calls(text: str) -> None:
    def outcome(package: Any) -> Any:
        names = {k: package.tensor(v) for k, v in ARRAYS.items()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = eval(text, {"torch": package, **names})
        except (RuntimeError, ValueError):
            return "error"
        return found if isinstance(found, tuple) else (found,)

    mine, theirs = outcome(flamec), outcome(torch)
    if theirs == "error":
        assert mine == "error"
        return
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        if isinstance(one, flamec.Tensor):
            assert str(one.dtype)[7:] == str(other.dtype)[6:] and one.shape == other.shape
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=2e-6, atol=1e-12)
        else:
            assert tuple(mine) == tuple(theirs)


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
        for package in (flamec, torch):
            with pytest.raises(ValueError, match=r"must be non-negative integer"):
                package.pca_lowrank(package.ones(5, 4), **options)


def test_the_gradient_of_singular_values_of_low_rank() -> None:
    array = RNG.standard_normal((7, 3)) @ RNG.standard_normal((3, 6))
    a = flamec.tensor(array, requires_grad=True)
    found = flamec.autograd.grad(flamec.svd_lowrank(a, 3)[1].sum(), a)[0]
    u, _, vh = np.linalg.svd(array)
    np.testing.assert_allclose(found.numpy(), u[:, :3] @ vh[:3], atol=1e-8)


@pytest.mark.parametrize("n, p", [(3, 0.4), (40, 0.02), (40, 0.5), (1000, 0.97), (200000, 0.3)])
def test_binomial_numbers_have_their_distribution(n: int, p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    flamec.manual_seed(5)
    count = 4000
    counts = flamec.full((count,), float(n), dtype=flamec.float64)
    x = flamec.binomial(counts, flamec.full((count,), p, dtype=flamec.float64)).numpy()
    law = stats.binom(n, p)
    assert x.min() >= 0 and x.max() <= n and (x == np.floor(x)).all()
    # Kolmogorov-Smirnov, passed by 999 of 1000 of continuous laws
    places, occurring = np.unique(x, return_counts=True)
    empirical = np.cumsum(occurring) / count
    assert np.abs(empirical - law.cdf(places)).max() * np.sqrt(count) < 1.95


def test_binomial_numbers_are_the_same_compiled_and_checked() -> None:
    n, p = flamec.tensor([0.0, 5.0, 100.0, 7.0]), flamec.tensor([0.5, 1.0, 0.7, 0.0])
    found = []
    for function in (flamec.binomial, flamec.compile(flamec.binomial, fullgraph=True)):
        flamec.manual_seed(9)
        found.append(function(n, p).tolist())
    assert found[0] == found[1]
    assert found[0][:2] == [0.0, 5.0] and found[0][3] == 0.0
    for count, prob in (([-1.0], [0.5]), ([1.0], [1.5]), ([1], [0.5])):
        with pytest.raises(RuntimeError, match="binomial"):
            flamec.binomial(flamec.tensor(count), flamec.tensor(prob))
    assert flamec.binomial(flamec.ones(3, 1), flamec.ones(2)).shape == (3, 2)


def test_synchronized_batch_norm_is_batch_norm_of_the_one_process() -> None:
    nn = flamec.nn
    flamec.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(4)))
    x = flamec.randn(4, 2, 5, 5)
    expected = net[:2](x)
    weight, before = net[1].weight, net[1].num_batches_tracked.item()
    changed = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert changed is net and type(net[1]) is type(net[2][0]) is nn.SyncBatchNorm
    assert net[1].weight is weight
    flamec.testing.assert_close(net[:2](x), expected)
    assert net[1].num_batches_tracked.item() == before + 1
    assert repr(net[1]) == repr(torch.nn.SyncBatchNorm(3))
    assert list(net[1].state_dict()) == list(torch.nn.SyncBatchNorm(3).state_dict())
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2, affine=False).eval())
    assert plain.weight is None and not plain.training
    with pytest.raises(ValueError, match="at least 2D"):
        plain(flamec.ones(2))
    with pytest.raises(RuntimeError, match="process_group"):
        nn.SyncBatchNorm(2, process_group=object())
