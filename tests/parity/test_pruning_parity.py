"""``nn.utils.prune`` against PyTorch's: masks, names, errors, and training of what is left."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")


def _prune(package: Any) -> Any:
    return importlib.import_module(f"{package.__name__}.nn.utils.prune")


def network(package: Any) -> Any:
    nn, random = package.nn, np.random.default_rng(2)
    net = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    with package.no_grad():
        for p in net.parameters():
            p.copy_(package.tensor(random.standard_normal(p.shape)).float())
    return net


def plain(net: Any) -> dict[str, Any]:
    state = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    weights = {f"{i}.now": net[i].weight.detach().numpy() for i in (0, 2)}
    return {**state, **weights, "parameters": [name for name, _ in net.named_parameters()]}


STEPS = {
    "once": "prune.l1_unstructured(net[2], 'weight', 0.3)",
    "a number": "prune.l1_unstructured(net[2], name='bias', amount=2)",
    "twice": "for _ in range(2): prune.l1_unstructured(net[2], 'weight', 0.5)",
    "by importance": "scores = torch.tensor([3.0, 1.0, 2.0])\n"
    "prune.l1_unstructured(net[2], 'bias', 1, importance_scores=scores)",
    "slices": "prune.ln_structured(net[0], 'weight', amount=0.5, n=2, dim=0)",
    "slices twice": "prune.ln_structured(net[0], 'weight', 1, n=1, dim=1)\n"
    "prune.l1_unstructured(net[0], 'weight', 0.25)\n"
    "prune.ln_structured(net[0], 'weight', 2, n=float('inf'), dim=-3)",
    "everywhere": "prune.global_unstructured([(net[0], 'weight'), (net[2], 'weight')], "
    "pruning_method=prune.L1Unstructured, amount=0.4)",
    "everywhere again": "prune.ln_structured(net[0], 'weight', 1, 2, 0)\n"
    "prune.global_unstructured([(net[0], 'weight'), (net[2], 'weight')], "
    "prune.L1Unstructured, amount=20)",
    "by mask": "prune.custom_from_mask(net[2], 'bias', torch.tensor([1, 0, 1]))",
    "nothing": "prune.identity(net[0], 'bias')",
    "removed": "prune.l1_unstructured(net[2], 'weight', 0.5); prune.remove(net[2], 'weight')",
    "own": "class Mine(prune.BasePruningMethod):\n"
    "    PRUNING_TYPE = 'unstructured'\n"
    "    def compute_mask(self, t, default_mask):\n"
    "        mask = default_mask.clone()\n"
    "        mask.view(-1)[::2] = 0\n"
    "        return mask\n"
    "Mine.apply(net[2], 'weight'); Mine.apply(net[2], 'weight')",
}


@pytest.mark.parametrize("text", STEPS.values(), ids=STEPS)
def test_masks(text: str) -> None:
    found = []
    for package in (flamec, torch):
        net = network(package)
        exec(text, {"net": net, "prune": _prune(package), "torch": package})
        found.append({**plain(net), "pruned": _prune(package).is_pruned(net)})
    mine, theirs = found
    assert sorted(mine) == sorted(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(mine[name], value, err_msg=name)


def test_random_choices_prune_as_many() -> None:
    prune = flamec.nn.utils.prune
    net = network(flamec)
    prune.random_unstructured(net[2], "weight", 10)
    assert (net[2].weight_mask == 0).sum() == 10
    prune.random_unstructured(net[2], "weight", 5)
    assert (net[2].weight_mask == 0).sum() == 15
    prune.random_structured(net[0], "weight", 2, dim=0)
    assert sorted(net[0].weight_mask.sum((1, 2)).tolist()) == [0, 0, 6, 6]
    alone = prune.L1Unstructured(2).prune(flamec.tensor([3.0, -1.0, 2.0]))
    assert alone.tolist() == [3, 0, 0]


@pytest.mark.parametrize("compiled", [False, True])
def test_training_with_masks(compiled: bool) -> None:
    x = np.random.default_rng(0).standard_normal((5, 2, 6)).astype(np.float32)
    found = []
    for package in (flamec, torch):
        net, prune = network(package), _prune(package)
        prune.l1_unstructured(net[0], "weight", 0.5)
        prune.ln_structured(net[2], "weight", 0.5, 2, 1)
        optimizer = package.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)

        def step(x: Any, net: Any = net, optimizer: Any = optimizer) -> Any:
            loss = net(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        run = flamec.compile(step) if compiled and package is flamec else step
        losses = [run(package.tensor(x)).item() for _ in range(3)]
        prune.l1_unstructured(net[0], "weight", 0.5)  # another mask: another program
        losses += [run(package.tensor(x)).item() for _ in range(3)]
        if compiled and package is flamec:
            assert run.stats.python_runs == 0 and run.stats.traces <= 4
        for i in (0, 2):
            prune.remove(net[i], "weight")
        found.append((losses, plain(net)))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    for name, value in found[1][1].items():
        if name != "parameters":
            np.testing.assert_allclose(found[0][1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "prune.l1_unstructured(net[2], 'weight', 1.5)", "prune.l1_unstructured(net[2], 'bias', 4)",
        "prune.l1_unstructured(net[2], 'bias', -1)", "prune.l1_unstructured(net[2], 'bias', 'x')",
        "prune.remove(net[2], 'weight')", "prune.l1_unstructured(net[2], 'missing', 1)",
    ],
)  # fmt: skip
def test_errors(text: str) -> None:
    raised = []
    for package in (flamec, torch):
        with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
            exec(text, {"net": network(package), "prune": _prune(package)})
        raised.append(caught.type)
    assert raised[0] is raised[1]
