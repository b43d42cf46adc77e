"""Hooks of registration, hooks of loading where sizes differ, and wrong sizes of attention."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import flamec

torch = pytest.importorskip("torch")


def registrations(package: Any) -> list[Any]:
    """What the hooks of registration saw, and which members the module has after them."""
    nn, path = package.nn, f"{package.__name__}.nn.modules.module"
    functions = importlib.import_module(path)
    seen: list[Any] = []

    def hook(kind: str) -> Any:
        def called(module: Any, name: str, value: Any) -> Any:
            seen.append((kind, type(module).__name__, name, type(value).__name__))
            if name == "doubled":
                return nn.Parameter(value.detach() * 2)
            return nn.Identity() if name == "replaced" else None

        return called

    kinds = ("parameter", "buffer", "module")
    handles = [
        getattr(functions, f"register_module_{kind}_registration_hook")(hook(kind))
        for kind in kinds
    ]
    try:
        module = nn.Module()
        module.first = nn.Parameter(package.ones(2))
        module.register_parameter("doubled", nn.Parameter(package.ones(2)))
        module.first = None
        module.register_buffer("state", package.zeros(1))
        module.state = package.ones(1)
        module.inner = nn.Linear(1, 1)
        module.add_module("replaced", nn.Tanh())
        module.inner = None
    finally:
        for handle in handles:
            handle.remove()
    nn.Linear(1, 1)  # not seen any more
    members = [type(m).__name__ for m in module.children()]
    return [seen, module.doubled.tolist(), module.state.tolist(), members, module.inner]


def test_hooks_of_registration() -> None:
    assert registrations(flamec) == registrations(torch)


def loading(package: Any, strict: bool) -> list[Any]:
    """The order of hooks of loading, what they find, and the error, where one size differs."""
    model = package.nn.Sequential(package.nn.Linear(2, 2), package.nn.Linear(2, 1))
    seen: list[Any] = []
    for name, module in (("model", model), ("0", model[0]), ("1", model[1])):

        def hook(module: Any, keys: Any, name: str = name) -> None:
            seen.append((name, list(keys.missing_keys), list(keys.unexpected_keys)))
            seen.append(model[1].bias.tolist())

        module.register_load_state_dict_post_hook(hook)
    state = {"0.weight": package.ones(3, 2), "1.weight": package.ones(1, 2), "other": None}
    state["1.bias"] = package.tensor([7.0])
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(state, strict)
    lines = [line.strip().split("with shape")[0] for line in str(error.value).split("\n")]
    return [[entry for entry in seen if entry[0] == "model"], len(seen), seen[-1], lines]


@pytest.mark.parametrize("strict", [True, False])
def test_hooks_of_loading_are_called_before_the_error_of_sizes(strict: bool) -> None:
    mine, theirs = loading(flamec, strict), loading(torch, strict)
    assert mine[1:] == theirs[1:]
    (name, missing, unexpected), (_, *expected) = mine[0][0], theirs[0][0]
    assert name == "model"
    assert [set(missing), set(unexpected)] == [set(keys) for keys in expected]


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 4), (2, 3, 4), (2, 5, 4)),
        ((2, 3, 5), (2, 3, 4), (2, 3, 4)),
        ((2, 3, 4), (3, 4), (2, 3, 4)),
        ((4,), (4,), (4,)),
        ((3, 4), (2, 3, 4), (2, 3, 4)),
    ],
)
def test_wrong_sizes_of_attention_are_assertion_errors(shapes: Any) -> None:
    for package in (torch, flamec):
        attention = package.nn.MultiheadAttention(4, 2)
        with pytest.raises(AssertionError):
            attention(*(package.ones(*shape) for shape in shapes))
