"""Optimizer steps that nobody compiled: one program for all parameters, the same numbers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu

import flamec
from flamec import cpu_backend, cpu_eager, optim
from flamec.config import default_options

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "Adam": {"amsgrad": True},
    "AdamW": {"weight_decay": 0.1},
    "RMSprop": {"momentum": 0.5, "centered": True},
    "Adagrad": {}, "NAdam": {}, "RAdam": {}, "Adamax": {}, "Adadelta": {}, "ASGD": {}, "Rprop": {},
    "Adafactor": {}, "Muon": {},
}  # fmt: skip


def trained(name: str, device: Any, steps: int = 5) -> tuple[Any, list[Any]]:
    """An optimizer after steps along given gradients, with another rate at each."""
    random = np.random.default_rng(1)
    shapes: list[tuple[int, ...]] = [(6, 4), (3, 6)] if name == "Muon" else [(6, 4), (7,), ()]
    parameters = []
    for shape in shapes:
        values = np.asarray(random.standard_normal(shape), np.float32)
        parameters.append(flamec.tensor(values, device=device).requires_grad_())
    made = getattr(optim, name)(parameters, lr=0.05, **RULES[name])
    for step in range(steps):
        made.param_groups[0]["lr"] = 0.05 / (step + 1)
        for parameter in parameters:
            gradient = np.asarray(random.standard_normal(tuple(parameter.shape)), np.float32)
            parameter.grad = flamec.tensor(gradient, device=device)
        made.step()
    return made, parameters


def same(got: list[Any], wanted: list[Any], tolerance: float = 1e-5) -> None:
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(
            one.detach().cpu().numpy(), other.detach().cpu().numpy(), tolerance, tolerance
        )


@pytest.mark.parametrize("name", RULES)
def test_the_update_on_a_gpu_is_one_program(name: str, gpu: Any) -> None:
    made, parameters = trained(name, gpu)
    (compiled,) = made._update_programs.values()
    assert compiled.stats.traces == 1 and compiled.stats.calls == 5
    _, wanted = trained(name, "cpu")
    same(parameters, wanted, 0.02 if name == "Muon" else 5e-5)  # Muon iterates in bfloat16


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_many_parameters_on_the_cpu_are_updated_by_c(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_backend.is_available(default_options()):
        pytest.skip("there is no C compiler")
    made, wanted = trained(name, "cpu")
    assert not made._update_programs
    monkeypatch.setattr(cpu_eager, "LEAST_WORK", 100)
    made, parameters = trained(name, "cpu")
    (compiled,) = made._update_programs.values()
    assert compiled.stats.traces == 1
    same(parameters, wanted)


def test_state_is_seen_and_versions_count(simulated: Any) -> None:
    made, (weight, *_) = trained("Adam", "cuda", steps=3)
    assert made.state[weight]["step"].item() == 3
    assert weight._version == 3 + trained("Adam", "cuda", steps=0)[1][0]._version
    weight.data.mul_(0)
    before = made.state[weight]["exp_avg"].clone()
    weight.grad = flamec.ones_like(weight)
    made.step()
    assert weight.abs().sum().item() > 0
    assert not flamec.equal(before, made.state[weight]["exp_avg"])


def test_copies_and_saved_states_go_on(simulated: Any) -> None:
    made, parameters = trained("Adam", "cuda")
    other = copy.deepcopy(made)
    assert not other._update_programs
    assert pickle.loads(pickle.dumps(made._update_programs)) == {}
    for optimizer in (made, other):
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = flamec.full_like(parameter, 0.25)
        optimizer.step()
    same(list(other.param_groups[0]["params"]), parameters)
    made.load_state_dict(made.state_dict())
    for parameter in parameters:
        parameter.grad = flamec.ones_like(parameter)
    made.step()
    assert made.state[parameters[0]]["step"].item() == 7


def test_parameters_without_gradients_stay(simulated: Any) -> None:
    x, y = (flamec.ones(3, device="cuda").requires_grad_() for _ in range(2))
    made = optim.SGD([x, y], lr=0.5)
    for turn in range(12):
        made.zero_grad()
        chosen = [(x,), (y,), (x, y)][turn % 3]
        sum(t.sum() for t in chosen).backward()
        made.step()
    assert x.tolist() == y.tolist() == [1 - 0.5 * 8] * 3
    assert len(made._update_programs) == 3


def test_assumptions_that_keep_changing_end_it(simulated: Any) -> None:
    x = flamec.ones(3, device="cuda").requires_grad_()
    made = optim.SGD([x], lr=0.5, nesterov=False, momentum=0.5)
    for turn in range(8):
        made.param_groups[0]["maximize"] = f"{turn}"  # read as a condition: true each time
        x.grad = flamec.ones(3, device="cuda")
        made.step()
    assert list(made._update_programs.values()) == [None]
    assert x[0].item() == pytest.approx(1 + 0.5 * sum(2 - 0.5**n for n in range(8)))


def test_rules_of_users_run_as_they_are_written(simulated: list[SimulatedGpu]) -> None:
    class Counting(optim.SGD):
        steps = 0

        def update_group(self, group: Any, pairs: Any) -> None:
            self.steps += 1
            super().update_group(group, pairs)

    x = flamec.ones(3, device="cuda").requires_grad_()
    made = Counting([x], lr=0.5)
    for _ in range(3):
        x.grad = flamec.ones(3, device="cuda")
        made.step()
    assert made.steps == 3 and not made._update_programs and x.tolist() == [-0.5] * 3


def test_an_update_that_cannot_be_compiled_is_said(
    simulated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> Any:
        raise flamec.errors.CompileError("no registers")

    monkeypatch.setattr(simulated[0], "prepare", failing)
    monkeypatch.setattr(
        simulated[0],
        "prepare_operation",
        lambda g, s, *_: SimulatedGpu.prepare(simulated[0], g, s, default_options()),
    )
    x = flamec.ones(3, device="cuda").requires_grad_()
    made = optim.SGD([x], lr=0.5)
    x.grad = flamec.ones(3, device="cuda")
    with pytest.warns(RuntimeWarning, match=r"SGD: the update runs operation by .* no registers"):
        made.step()
    made.step()  # no second warning: those are errors in tests
    assert x.tolist() == [0.0] * 3
