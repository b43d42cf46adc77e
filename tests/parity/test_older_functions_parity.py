"""Functions of PyTorch's top level that older programs use, histograms, SyncBatchNorm's form."""

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
x.unsafe_chunk(2)
x.unsafe_chunk(3, dim=1)
x.unsafe_split(2)
x.unsafe_split(split_size=2, dim=1)
x.unsafe_split_with_sizes([1, 2])
x.nonzero_static(size=2)
(x > 0).nonzero_static(size=20, fill_value=7)
x.nonzero_static(size=-1)
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
torch.pca_lowrank(x, q=5)
torch.pca_lowrank(x, niter=-1)
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


def test_synchronized_batch_norm_is_shown_and_saved_as_pytorchs() -> None:
    mine, theirs = (package.nn.SyncBatchNorm(3) for package in (flamec, torch))
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
