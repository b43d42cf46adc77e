"""Weight and spectral normalisation, and parametrisations of one's own, against PyTorch."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn, optim
from flamec.nn.utils import parametrizations, parametrize

RNG = np.random.default_rng(9)


def _pair() -> tuple[Any, Any]:
    theirs = torch.nn.Linear(4, 3).double()
    ours = nn.Linear(4, 3).double()
    _copy(ours, theirs)
    return ours, theirs


def _copy(ours: Any, theirs: Any) -> None:
    ours.load_state_dict(
        {k: flamec.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()}
    )


def _same(ours: Any, theirs: Any, rtol: float = 1e-10) -> None:
    mine, wanted = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(wanted)
    for key, value in wanted.items():
        np.testing.assert_allclose(mine[key].numpy(), value.numpy(), rtol, atol=rtol / 100)
    names = [n for n, _ in theirs.named_parameters()]
    assert [n for n, _ in ours.named_parameters()] == names


KINDS: dict[str, Any] = {
    "weight": lambda p, m: p.weight_norm(m),
    "weight dim 1": lambda p, m: p.weight_norm(m, dim=1),
    "weight whole": lambda p, m: p.weight_norm(m, dim=None),
    "spectral": lambda p, m: p.spectral_norm(m),
    "spectral dim 1": lambda p, m: p.spectral_norm(m, n_power_iterations=2, dim=1),
    "spectral bias": lambda p, m: p.spectral_norm(m, "bias"),
    "orthogonal": lambda p, m: p.orthogonal(m),
    "orthogonal exp": lambda p, m: p.orthogonal(m, "weight", "matrix_exp"),
    "orthogonal cayley": lambda p, m: p.orthogonal(m, orthogonal_map="cayley"),
    "householder alone": lambda p, m: p.orthogonal(m, use_trivialization=False),
    "cayley alone": lambda p, m: p.orthogonal(m, orthogonal_map="cayley", use_trivialization=False),
}


# PyTorch's matrix_exp is off by up to 5e-11 where the 1-norm lies between 0.015 and 0.05 (ours
# by 2e-16; both beside mpmath with 40 digits): the norm comes from random weights
RTOL = {"orthogonal exp": 5e-9}


def _train(ours: Any, theirs: Any, mode: str, steps: int, rtol: float = 1e-10) -> None:
    """Steps of both, whose losses and parameters stay the same; one program if compiled."""
    mine = optim.SGD(ours.parameters(), 0.05)
    wanted = torch.optim.SGD(theirs.parameters(), 0.05)

    def step(x: Any) -> Any:
        mine.zero_grad()
        loss = (ours(x) - 1).square().mean()
        loss.backward()
        mine.step()
        return loss

    run = flamec.compile(step) if mode == "compiled" else step
    for _ in range(steps):
        x = RNG.standard_normal((6, 4))
        loss = run(flamec.from_numpy(x.copy()))
        wanted.zero_grad()
        expected = (theirs(torch.tensor(x)) - 1).square().mean()
        expected.backward()
        wanted.step()
        np.testing.assert_allclose(loss.item(), expected.item(), rtol)
    _same(ours, theirs, rtol)
    if mode == "compiled":
        assert run.stats.traces == 1


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_with_a_norm(kind: str, mode: str) -> None:
    ours, theirs = _pair()
    rtol = RTOL.get(kind, 1e-10)
    KINDS[kind](torch.nn.utils.parametrizations, theirs)
    KINDS[kind](parametrizations, ours)
    _copy(ours, theirs)  # the start of the power iteration is random
    _same(ours, theirs)
    _train(ours, theirs, mode, steps=5, rtol=rtol)
    ours.eval()
    theirs.eval()
    copy = deepcopy(ours)
    x = RNG.standard_normal((6, 4))
    result = theirs(torch.tensor(x)).detach().numpy()
    for module in (ours, copy):
        found = module(flamec.from_numpy(x.copy())).detach().numpy()
        np.testing.assert_allclose(found, result, rtol=rtol)
    name = "bias" if "bias" in kind else "weight"
    parametrize.remove_parametrizations(ours, name)
    torch.nn.utils.parametrize.remove_parametrizations(theirs, name)
    assert type(ours) is nn.Linear and isinstance(ours.weight, nn.Parameter)
    mine_state, wanted_state = ours.state_dict(), theirs.state_dict()
    assert sorted(mine_state) == sorted(wanted_state)
    for key, value in wanted_state.items():
        np.testing.assert_allclose(mine_state[key].numpy(), value.numpy(), rtol=rtol)
    assert parametrize.is_parametrized(copy, name)
    np.testing.assert_allclose(
        copy(flamec.from_numpy(x.copy())).detach().numpy(), result, rtol=rtol
    )


class _Held(nn.Module):
    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class _HeldTheirs(torch.nn.Module):
    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)


@pytest.mark.parametrize("trivial", [True, False], ids=["times a base", "alone"])
@pytest.mark.parametrize("way", [None, "matrix_exp", "cayley", "householder"])
@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5), (2, 4, 4), (2, 3, 4), (1, 1), (3, 1)])
def test_orthogonal_matrices(shape: tuple[int, ...], way: str | None, trivial: bool) -> None:
    """The first value, what any original gives, its gradient, and what is set."""
    weight = RNG.standard_normal(shape)
    ours, theirs = _Held(flamec.tensor(weight)), _HeldTheirs(torch.tensor(weight))
    parametrizations.orthogonal(ours, "weight", way, use_trivialization=trivial)
    torch.nn.utils.parametrizations.orthogonal(theirs, "weight", way, use_trivialization=trivial)
    if shape[-1] == shape[-2] or not trivial:  # else the base is completed at random
        _same(ours, theirs)
    made = ours.weight.detach().numpy()
    small = made if shape[-1] < shape[-2] else np.swapaxes(made, -1, -2)
    one = np.swapaxes(small, -1, -2) @ small
    np.testing.assert_allclose(one, np.broadcast_to(np.eye(one.shape[-1]), one.shape), atol=1e-12)
    _copy(ours, theirs)
    for module, package in ((ours, flamec), (theirs, torch)):
        original: Any = module.parametrizations.weight.original
        with package.no_grad():
            below = package.from_numpy(np.cos(np.arange(weight.size)).reshape(shape) / 3)
            original.add_(below.tril(-1) if shape[-2] >= shape[-1] else below.triu(1))
        value = module.weight
        (value * package.from_numpy(np.arange(weight.size).reshape(shape) / 7)).sum().backward()
    np.testing.assert_allclose(
        ours.weight.detach().numpy(), theirs.weight.detach().numpy(), rtol=1e-10, atol=1e-12
    )
    mine, wanted = (m.parametrizations.weight.original.grad for m in (ours, theirs))
    np.testing.assert_allclose(mine.numpy(), wanted.numpy(), rtol=1e-9, atol=1e-11)
    target = np.linalg.qr(RNG.standard_normal((shape[-1], shape[-1])))[0]
    if shape[-1] == shape[-2] and (trivial or way == "householder"):
        target = np.broadcast_to(target, shape)
        ours.weight = flamec.tensor(target)
        theirs.weight = torch.tensor(target)
        _same(ours, theirs)
        np.testing.assert_allclose(ours.weight.detach().numpy(), target, atol=1e-12)
    elif not trivial and way in ("matrix_exp", "cayley"):
        with pytest.raises(NotImplementedError, match="use_trivialization=False"):
            ours.weight = flamec.tensor(weight)


def test_what_cannot_be_orthogonal_is_refused() -> None:
    for package, of in ((nn, parametrizations), (torch.nn, torch.nn.utils.parametrizations)):
        for arguments in (("none",), ("bias",), ("weight", "qr")):
            with pytest.raises(ValueError, match=r"has no parameter|of 1 dimen|has to be one"):
                of.orthogonal(package.Linear(3, 3), *arguments)
        layer = of.orthogonal(package.Linear(3, 3))
        with pytest.raises(ValueError, match="Expected a matrix or batch of matrices of shape"):
            layer.weight = layer.weight[:2]


OLDER: dict[str, Any] = {
    "weight": lambda u, m: u.weight_norm(m),
    "weight dim 1": lambda u, m: u.weight_norm(m, dim=1),
    "weight whole": lambda u, m: u.weight_norm(m, dim=None),
    "spectral": lambda u, m: u.spectral_norm(m),
    "spectral dim 1": lambda u, m: u.spectral_norm(m, n_power_iterations=3, dim=1),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("kind", OLDER)
def test_the_older_forms(kind: str, mode: str) -> None:
    ours, theirs = _pair()
    OLDER[kind](torch.nn.utils, theirs)
    OLDER[kind](nn.utils, ours)
    _copy(ours, theirs)
    _same(ours, theirs)
    _train(ours, theirs, mode, steps=4)
    with pytest.raises(AttributeError, match=r"set weight_"):
        ours.weight = flamec.ones(3, 4)
    ours.eval()
    theirs.eval()
    x = RNG.standard_normal((6, 4))
    result = theirs(torch.tensor(x)).detach().numpy()
    copy = deepcopy(ours)
    remove = "remove_weight_norm" if "weight" in kind else "remove_spectral_norm"
    getattr(nn.utils, remove)(ours)
    assert type(ours) is nn.Linear and sorted(ours.state_dict()) == ["bias", "weight"]
    for module in (ours, copy):
        found = module(flamec.from_numpy(x.copy())).detach().numpy()
        np.testing.assert_allclose(found, result, rtol=1e-10)
    with pytest.raises(ValueError, match="not found in"):
        getattr(nn.utils, remove)(ours)
    with pytest.raises(ValueError, match="has no parameter"):
        OLDER[kind](nn.utils, nn.Tanh())


class _Symmetric(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.triu() + x.triu(1).t()

    def right_inverse(self, value: Any) -> Any:
        return value.triu()


class _Doubled(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2

    def right_inverse(self, value: Any) -> Any:
        return value / 2


class _Longer(nn.Module):
    def forward(self, x: Any) -> Any:
        return flamec.cat([x, x])


def test_parametrisations_of_one_s_own() -> None:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", _Symmetric())
    assert parametrize.is_parametrized(layer) and parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    weight = layer.weight
    assert (weight == weight.t()).all() and isinstance(layer, nn.Linear)
    wanted = flamec.tensor([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    layer.weight = wanted
    assert (layer.weight == wanted).all()
    parametrize.register_parametrization(layer, "weight", _Doubled())
    assert (layer.weight == 2 * wanted).all() and len(layer.parametrizations.weight) == 2
    layer.weight = wanted
    assert (layer.weight == wanted).all()
    parametrize.register_parametrization(layer, "bias", _Doubled())
    assert sorted(dict(layer.named_parameters())) == [
        "parametrizations.bias.original",
        "parametrizations.weight.original",
    ]
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert parametrize.is_parametrized(layer, "bias")
    parametrize.remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear


def test_bad_parametrisations() -> None:
    layer = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="may not change the shape"):
        parametrize.register_parametrization(layer, "weight", _Longer())
    assert isinstance(layer.weight, nn.Parameter) and type(layer) is nn.Linear
    with pytest.raises(ValueError, match="does not have a parameter"):
        parametrize.register_parametrization(layer, "nothing", _Doubled())
    with pytest.raises(ValueError, match="does not have a parametrization"):
        parametrize.remove_parametrizations(layer, "weight")
    with pytest.raises(ValueError, match="no parameter or buffer"):
        parametrizations.spectral_norm(layer, "nothing")
    with pytest.raises(IndexError, match="Dimension out of range"):
        parametrizations.spectral_norm(layer, dim=2)
    with pytest.raises(ValueError, match="n_power_iterations"):
        parametrizations.spectral_norm(layer, n_power_iterations=0)
    parametrize.register_parametrization(layer, "weight", _Longer(), unsafe=True)
    assert layer.weight.shape == (6, 3)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_parametrised_tensor_is_computed_once_where_it_is_cached(mode: str) -> None:
    """So the power iteration goes one step a call, however often the weight is used."""
    ours, theirs = _pair()
    torch.nn.utils.parametrizations.spectral_norm(theirs)
    parametrizations.spectral_norm(ours)
    _copy(ours, theirs)

    def twice(package: Any, layer: Any, x: Any) -> Any:
        with package.nn.utils.parametrize.cached():
            first = layer(x)
            with package.nn.utils.parametrize.cached():
                assert layer.weight is layer.weight
                second = layer(first[:, :1] + x)
        assert layer.weight is not layer.weight
        (first.sum() + second.square().sum()).backward()
        return second.detach()

    step = flamec.compile(twice) if mode == "compiled" else twice
    for _ in range(2):
        array = RNG.standard_normal((5, 4))
        outside = parametrize.cached() if mode == "compiled" else nullcontext()
        with outside:  # has no effect within a compiled function
            found = step(flamec, ours, flamec.from_numpy(array))
        wanted = twice(torch, theirs, torch.from_numpy(array))
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-10)
        _same(ours, theirs)
    gradients = zip(ours.parameters(), theirs.parameters(), strict=True)
    for mine, other in gradients:
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-9)
