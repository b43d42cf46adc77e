"""``cond`` and ``while_loop`` beside PyTorch's: names, values, gradients."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")
_loops = pytest.importorskip("torch._higher_order_ops.while_loop")
X = np.random.default_rng(0).normal(size=(4,))


def names(function: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]


def test_arguments_have_the_same_names() -> None:
    assert names(flamec.cond) == names(torch.cond)
    assert names(flamec.while_loop) == names(_loops.while_loop)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_and_gradients(sign: float) -> None:
    results = []
    for module, wrap in ((torch, lambda f: f), (flamec, lambda f: f), (flamec, flamec.compile)):
        x = module.tensor(sign * np.abs(X), requires_grad=True)

        def call(x: Any, module: Any = module) -> Any:
            return module.cond(x.sum() > 0, lambda x: (x * x).sin(), lambda x: x - 1, (x,))

        y = wrap(call)(x)
        y.sum().backward()
        results.append((y.detach().numpy(), x.grad.numpy()))
    for found in results[1:]:
        for f, w in zip(found, results[0], strict=True):
            np.testing.assert_allclose(f, w, rtol=1e-12)


def test_loops() -> None:
    def turns(module: Any, loop: Any) -> list[Any]:
        n, x = loop(
            lambda n, x: x.sum() < 100,
            lambda n, x: (n + 1, x * 2 + 1),
            (module.tensor(0), module.tensor(np.abs(X))),
        )
        return [n.item(), x.numpy()]

    wanted = turns(torch, _loops.while_loop)
    compiled = flamec.compile(
        lambda n, x: flamec.while_loop(
            lambda n, x: x.sum() < 100, lambda n, x: (n + 1, x * 2 + 1), (n, x)
        )
    )
    n, x = compiled(flamec.tensor(0), flamec.tensor(np.abs(X)))
    for found in (turns(flamec, flamec.while_loop), [n.item(), x.numpy()]):
        assert found[0] == wanted[0]
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-12)
