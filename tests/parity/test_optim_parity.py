"""Every optimizer and every option follows PyTorch's for 100 steps, eager and compiled.

The gradient is a linear function of the parameter plus noise, so an error in one step
is carried into all later ones. State, settings, text, defaults and errors are compared too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn, optim

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1},
    "SGD momentum": {"lr": 0.05, "momentum": 0.9},
    "SGD nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "SGD dampening": {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
    "SGD maximize": {"lr": 1e-3, "maximize": True, "weight_decay": 0.1},
    "Adam": {"lr": 0.01},
    "Adam decay": {"lr": 0.01, "weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-6},
    "Adam amsgrad": {"lr": 0.01, "amsgrad": True},
    "Adam decoupled": {"lr": 0.01, "weight_decay": 0.05, "decoupled_weight_decay": True},
    "Adam maximize": {"lr": 1e-3, "maximize": True},
    "Adam foreach": {"lr": 0.01, "foreach": True},
    "Adam fused": {"lr": 0.01, "fused": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "AdamW amsgrad": {"lr": 0.005, "amsgrad": True},
    "AdamW betas": {"lr": 0.01, "betas": (0.7, 0.9), "eps": 1e-4, "weight_decay": 0.02},
    "AdamW maximize": {"lr": 1e-3, "maximize": True},
    "Adamax": {},
    "Adamax decay": {"lr": 0.01, "weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-3},
    "Adamax maximize": {"lr": 1e-3, "maximize": True, "betas": (0.3, 0.9)},
    "NAdam": {},
    "NAdam decay": {"lr": 0.01, "weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-5},
    "NAdam decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "NAdam momentum": {"momentum_decay": 0.1, "maximize": True},
    "RAdam": {"lr": 0.01},
    "RAdam decay": {"lr": 0.01, "weight_decay": 0.05, "betas": (0.8, 0.95), "eps": 1e-5},
    "RAdam decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam maximize": {"lr": 1e-3, "maximize": True, "betas": (0.9, 0.5)},
    "Adagrad": {"lr": 0.1},
    "Adagrad decay": {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.05, "eps": 1e-5},
    "Adagrad start": {"initial_accumulator_value": 0.5, "maximize": True},
    "Adadelta": {},
    "Adadelta options": {"lr": 0.5, "rho": 0.7, "eps": 1e-4, "weight_decay": 0.05},
    "Adadelta maximize": {"maximize": True},
    "RMSprop": {},
    "RMSprop centered": {"centered": True, "alpha": 0.9, "eps": 1e-2, "weight_decay": 0.05},
    "RMSprop momentum": {"momentum": 0.9, "lr": 1e-3},
    "RMSprop both": {"momentum": 0.5, "centered": True, "maximize": True, "lr": 1e-3, "eps": 1e-2},
    "Rprop": {},
    "Rprop options": {"lr": 0.1, "etas": (0.3, 1.4), "step_sizes": (1e-3, 0.2)},
    "Rprop maximize": {"maximize": True, "lr": 1e-3, "step_sizes": (1e-6, 1e-2)},
    "ASGD": {},
    "ASGD averaged": {"lr": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 20, "weight_decay": 0.05},
    "ASGD maximize": {"maximize": True, "lr": 1e-3},
}
WITH_REDUCTIONS: dict[str, dict[str, Any]] = {
    "Adafactor": {"lr": 0.1},
    "Adafactor decay": {"lr": 0.05, "weight_decay": 0.1, "beta2_decay": -0.5, "d": 1.5},
    "Adafactor eps": {"lr": 0.05, "eps": (1e-3, 1e-2), "maximize": True},
}
IN_BFLOAT16: dict[str, dict[str, Any]] = {
    "Muon": {"lr": 0.01},
    "Muon options": {"lr": 0.01, "nesterov": False, "weight_decay": 0.0, "momentum": 0.8},
    "Muon adjusted": {"lr": 0.01, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    "Muon polynomial": {"lr": 0.01, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
}
# which of PyTorch's implementations computes: the numbers are the same
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    f"{name} {way}": {way: True, **({"lr": 0.01} if name == "SGD" else {})}
    for name in dict.fromkeys(n.split()[0] for n in (*OPTIMIZERS, *WITH_REDUCTIONS))
    for way in ("foreach", "fused")
    if way in inspect.signature(getattr(torch.optim, name)).parameters
}
ALL = {**OPTIMIZERS, **WITH_REDUCTIONS, **IN_BFLOAT16, **IMPLEMENTATIONS}


def _optimizer(package: Any, name: str, parameters: Any) -> Any:
    return getattr(package, name.split()[0])(parameters, **ALL[name])


def _follow(name: str, dtype: str, mode: str, shapes: Any, limit: float) -> None:
    """Run both optimizers side by side and compare parameters and state."""
    generator = np.random.default_rng(2)
    arrays = [np.asarray(generator.standard_normal(s)).astype(dtype) for s in shapes]
    slopes = [np.asarray(generator.uniform(0.1, 0.5, s)).astype(dtype) for s in shapes]
    ours = [nn.Parameter(flamec.from_numpy(a.copy())) for a in arrays]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
    mine, wanted = _optimizer(optim, name, ours), _optimizer(torch.optim, name, theirs)
    their_slopes, our_slopes = [torch.tensor(s) for s in slopes], [flamec.tensor(s) for s in slopes]

    def step(*noise: Any) -> None:
        for p, slope, n in zip(ours, our_slopes, noise, strict=True):
            p.grad = slope * p.detach() + n
        mine.step()

    run = flamec.compile(step) if mode == "compiled" else step
    for number in range(100):
        noise = [np.asarray(generator.standard_normal(s)).astype(dtype) for s in shapes]
        run(*(flamec.from_numpy(n.copy()) for n in noise))
        for p, slope, n in zip(theirs, their_slopes, noise, strict=True):
            p.grad = slope * p.detach() + torch.tensor(n)
        wanted.step()
        for group in (mine.param_groups[0], wanted.param_groups[0]):
            group["lr"] *= 0.995  # what changes between steps is read anew
        if number in (0, 1, 9, 99):
            for p, q in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(
                    p.detach().numpy(), q.detach().numpy(), rtol=limit, atol=limit
                )
    _same_state(mine.state_dict(), wanted.state_dict(), limit)
    if mode == "compiled":
        assert run.stats.traces == 1, run.stats.guard_failures
    if mode == "compiled" and name in OPTIMIZERS:
        prepared = run.programs[0].prepared
        assert prepared.kernels_compiled + prepared.kernels_from_cache == 1


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_100_steps(name: str, dtype: str, mode: str) -> None:
    limit = 1e-11 if dtype == "float64" else 2e-5
    _follow(name, dtype, mode, ((3, 4), (5,), ()), limit)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", WITH_REDUCTIONS)
def test_100_steps_of_what_needs_norms(name: str, dtype: str, mode: str) -> None:
    limit = 1e-11 if dtype == "float64" else 5e-5
    _follow(name, dtype, mode, ((3, 4), (5,), (), (2, 3, 4)), limit)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_100_steps_in_bfloat16(name: str, mode: str) -> None:
    """100 steps of size lr, each rounded to 8 bits: a rounding apart now and then."""
    _follow(name, "float32", mode, ((3, 4), (6, 2), (5, 5)), 0.01)


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_100_steps_of_other_implementations(name: str) -> None:
    # PyTorch's foreach ASGD keeps its step size in float32
    _follow(name, "float64", "eager", ((3, 4), (5,)), 1e-7 if "ASGD" in name else 1e-11)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_elements(name: str) -> None:
    _follow(name, "float64", "eager", ((0, 2), (2, 0, 3), (4,)), 1e-11)


def _same_state(ours: dict[str, Any], theirs: dict[str, Any], limit: float) -> None:
    assert ours["param_groups"] == theirs["param_groups"]
    assert list(ours["state"]) == list(theirs["state"])
    for number, entry in theirs["state"].items():
        assert list(ours["state"][number]) == list(entry)
        for key, value in entry.items():
            mine = ours["state"][number][key]
            assert mine.dtype.name == str(value.dtype).removeprefix("torch.")
            np.testing.assert_allclose(mine.numpy(), value.numpy(), rtol=limit, atol=limit)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_without_a_gradient_is_left_alone(name: str) -> None:
    generator = np.random.default_rng(3)
    arrays = [generator.standard_normal(4) for _ in range(2)]
    ours = [nn.Parameter(flamec.from_numpy(a.copy())) for a in arrays]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in arrays]
    mine, wanted = _optimizer(optim, name, ours), _optimizer(torch.optim, name, theirs)
    for number in range(6):
        for index, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            gradient = generator.standard_normal(4)
            p.grad = None if index == number % 2 else flamec.from_numpy(gradient.copy())
            q.grad = None if index == number % 2 else torch.tensor(gradient)
        mine.step()
        wanted.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-13)
    ours_state, their_state = mine.state_dict(), wanted.state_dict()
    ours_state["state"] = dict(sorted(ours_state["state"].items()))
    their_state["state"] = dict(sorted(their_state["state"].items()))
    _same_state(ours_state, their_state, 1e-13)


# checkpoints -------------------------------------------------------------------------------


def _to_flamec(value: Any) -> Any:
    return _translated(value, torch.Tensor, lambda t: flamec.from_numpy(t.numpy().copy()))


def _to_torch(value: Any) -> Any:
    return _translated(value, flamec.Tensor, lambda t: torch.from_numpy(t.numpy().copy()))


def _translated(value: Any, kind: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, kind):
        return convert(value.detach())
    if isinstance(value, dict):
        return {k: _translated(v, kind, convert) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_translated(v, kind, convert) for v in value)
    return value


@pytest.mark.parametrize("direction", ["to flamec", "to torch"])
@pytest.mark.parametrize("name", [*OPTIMIZERS, *WITH_REDUCTIONS])
def test_a_checkpoint_moves_both_ways(name: str, direction: str) -> None:
    """A state_dict made by one package and loaded into the other continues as there."""
    packages: list[Any] = [(torch.optim, torch.tensor, torch.nn), (optim, flamec.tensor, nn)]
    translate = _to_flamec
    if direction == "to torch":
        packages.reverse()
        translate = _to_torch
    (source_optim, source_tensor, source_nn), (target_optim, target_tensor, target_nn) = packages
    generator = np.random.default_rng(4)
    source = source_nn.Parameter(source_tensor(generator.standard_normal((3, 2))))
    first = _optimizer(source_optim, name, [source])
    gradients = generator.standard_normal((8, 3, 2))
    for gradient in gradients[:4]:
        source.grad = source_tensor(gradient)
        first.step()
    target = target_nn.Parameter(target_tensor(source.detach().numpy().copy()))
    second = _optimizer(target_optim, name, [target])
    second.param_groups[0]["lr"] = 77.0
    second.load_state_dict(translate(first.state_dict()))
    again = _optimizer(source_optim, name, [source])
    again.load_state_dict(first.state_dict())  # loading rounds float32 state alike in both
    for gradient in gradients[4:]:
        source.grad, target.grad = source_tensor(gradient), target_tensor(gradient)
        again.step()
        second.step()
    np.testing.assert_allclose(target.detach().numpy(), source.detach().numpy(), rtol=1e-12)


def test_a_file_older_than_an_option_gets_its_default() -> None:
    p = nn.Parameter(flamec.ones(2))
    optimizer = optim.Adam([p], maximize=True, amsgrad=False)
    state = optimizer.state_dict()
    for name in ("maximize", "fused", "decoupled_weight_decay"):
        del state["param_groups"][0][name]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["maximize"] is False
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is False
    decoupled = optim.AdamW([p])
    decoupled.load_state_dict(state)
    assert decoupled.param_groups[0]["decoupled_weight_decay"] is True


def _minimizer(package: Any, library: Any, start: Any, options: dict[str, Any]) -> Any:
    """Rosenbrock's valley in four dimensions, over two parameters."""
    data = [library.tensor(start[:1]), library.tensor(start[1:].reshape(1, 3))]
    parameters = [library.nn.Parameter(t) for t in data]
    optimizer = package.LBFGS(parameters, **options)

    def closure() -> Any:
        optimizer.zero_grad()
        x = library.cat([p.reshape(-1) for p in parameters])
        loss = (10 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
        loss.backward()
        return loss

    return parameters, optimizer, closure


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"lr": 0.05, "max_iter": 4, "history_size": 2},
        {"line_search_fn": "strong_wolfe"},
        {"line_search_fn": "strong_wolfe", "max_iter": 3, "history_size": 3, "max_eval": 7},
        {"line_search_fn": "strong_wolfe", "lr": 0.3, "tolerance_change": 1e-4},
    ],
)
def test_lbfgs(options: dict[str, Any]) -> None:
    start = np.array([-1.2, 1.0, 0.5, -0.3])
    ours, mine, closure = _minimizer(optim, flamec, start, options)
    theirs, wanted, their_closure = _minimizer(torch.optim, torch, start, options)
    for step in range(8):
        loss, expected = mine.step(closure), wanted.step(their_closure)
        np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-6, atol=1e-12)
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-6, atol=1e-9)
        counts = ("func_evals", "n_iter")
        state, other = mine.state[ours[0]], wanted.state[theirs[0]]
        assert [state[c] for c in counts] == [other[c] for c in counts]
        if step == 3:  # a checkpoint moves both ways, and both continue
            saved, other_saved = mine.state_dict(), wanted.state_dict()
            mine.load_state_dict(_to_flamec(other_saved))
            wanted.load_state_dict(_to_torch(saved))


def test_lbfgs_is_refused_while_compiling() -> None:
    _, optimizer, closure = _minimizer(optim, flamec, np.ones(4), {})
    with pytest.raises(flamec.errors.CompileError, match="with a compiled closure"):
        flamec.compile(lambda: optimizer.step(closure))()
    with pytest.raises(TypeError, match="needs a closure"):
        optimizer.step()


# arguments -------------------------------------------------------------------------------

NAMES = sorted({name.split()[0] for name in ALL} | {"LBFGS"})


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_text(name: str) -> None:
    ours = inspect.signature(getattr(optim, name).__init__).parameters
    theirs = inspect.signature(getattr(torch.optim, name).__init__).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]
    shape = (2, 2)
    mine = getattr(optim, name)([nn.Parameter(flamec.from_numpy(np.ones(shape)))])
    wanted = getattr(torch.optim, name)([torch.ones(shape, requires_grad=True)])
    assert repr(mine) == repr(wanted)


BAD_ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"lr": -1.0}) for name in NAMES),
    *((name, {"weight_decay": -1.0}) for name in NAMES if name not in ("Rprop", "LBFGS")),
    *((n, {"betas": (1.0, 0.9)}) for n in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")),
    *((n, {"betas": (0.9, -0.1)}) for n in ("Adam", "AdamW", "Adamax", "NAdam", "RAdam")),
    *((n, {"eps": -1e-3}) for n in ("Adam", "Adamax", "NAdam", "RAdam", "Adagrad", "RMSprop")),
    ("SGD", {"momentum": -0.1}),
    ("SGD", {"nesterov": True}),
    ("NAdam", {"momentum_decay": -1.0}),
    ("Adagrad", {"lr_decay": -1.0}),
    ("Adagrad", {"initial_accumulator_value": -1.0}),
    ("Adadelta", {"rho": 1.5}),
    ("Adadelta", {"eps": -1.0}),
    ("RMSprop", {"alpha": -1.0}),
    ("RMSprop", {"momentum": -1.0}),
    ("Rprop", {"etas": (1.5, 1.2)}),
    ("Adafactor", {"beta2_decay": 0.5}),
    ("Adafactor", {"eps": (-1.0, 1.0)}),
    ("Adafactor", {"eps": (None, -1.0)}),
    ("Adafactor", {"d": 0.5}),
    ("Muon", {"momentum": -1.0}),
    ("Muon", {"adjust_lr_fn": "none"}),
    ("Adam", {"fused": True, "foreach": True}),
    ("SGD", {"fused": True, "differentiable": True}),
    ("Adagrad", {"fused": True, "foreach": True}),
]


@pytest.mark.parametrize(("name", "arguments"), BAD_ARGUMENTS)
def test_bad_arguments(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r".") as theirs:
        getattr(torch.optim, name)([torch.ones((2, 2), requires_grad=True)], **arguments)
    with pytest.raises(theirs.type, match=r".") as ours:
        getattr(optim, name)([nn.Parameter(flamec.from_numpy(np.ones((2, 2))))], **arguments)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("name", ["SGD maximize", "Adam", "AdamW amsgrad", "NAdam", "RMSprop"])
def test_a_step_can_be_differentiated(name: str) -> None:
    """With differentiable=True the new parameters depend on the old ones and the gradients.

    PyTorch then computes bias corrections in float32, which limits the agreement.
    """
    generator = np.random.default_rng(5)
    start, slope = generator.standard_normal(3), generator.standard_normal(3) + 2
    found = []
    for package, library in ((optim, flamec), (torch.optim, torch)):
        first = library.tensor(start)
        first.requires_grad_()
        gradient = library.tensor(slope)
        gradient.requires_grad_()
        p = first.clone()
        optimizer = getattr(package, name.split()[0])([p], **{**ALL[name], "differentiable": True})
        p.grad = gradient
        optimizer.step()
        (p * p).sum().backward()
        found.append([first.grad.numpy(), gradient.grad.numpy()])
    for mine, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=2e-6, atol=2e-7)
    assert all(np.abs(g).max() > 0 for g in found[0])


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("LBFGS", "Muon")])
def test_a_learning_rate_in_a_tensor(name: str, mode: str) -> None:
    """Two groups share it, before and after a checkpoint; a schedule changes it in place."""
    generator = np.random.default_rng(6)
    start, noise = generator.standard_normal((2, 2, 3)), generator.standard_normal((8, 2, 2, 3))
    found = []
    for package, library in ((optim, flamec), (torch.optim, torch)):
        parameters = [library.nn.Parameter(library.tensor(a)) for a in start]
        rate = library.tensor(0.05)
        options = {} if name == "Rprop" else {"weight_decay": 0.1}
        groups = [{"params": parameters[:1]}, {"params": parameters[1:]}]
        optimizer = getattr(package, name)(groups, lr=rate, **options)
        schedule = package.lr_scheduler.ExponentialLR(optimizer, 0.9)

        def step(
            *gradients: Any, parameters: list[Any] = parameters, optimizer: Any = optimizer
        ) -> None:
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            optimizer.step()

        run = flamec.compile(step, backend="evaluate") if mode == "compiled" else step
        run = run if library is flamec else step
        values = []
        for number, arrays in enumerate(noise):
            if number == 5:
                optimizer.load_state_dict(optimizer.state_dict())
            run(*(library.tensor(a) for a in arrays))
            schedule.step()
            values += [p.detach().numpy().copy() for p in parameters]
            values += [np.asarray(float(g["lr"])) for g in optimizer.param_groups]
        first, second = optimizer.param_groups
        assert first["lr"] is second["lr"]
        assert isinstance(first["initial_lr"], library.Tensor)
        assert first["initial_lr"] is not second["initial_lr"]
        found.append(values)
    for mine, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=2e-6)
