"""Recurrent layers on a GPU: values and gradients of the CPU, eager and compiled, any length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec
from flamec import nn

pytestmark = pytest.mark.gpu

KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


def results(layer: Any, x: flamec.Tensor, compiled: bool) -> list[np.ndarray]:
    """The output, the last state, and gradients of the input and of all parameters."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    call = flamec.compile(lambda t: layer(t)) if compiled else layer
    output, state = call(x)
    states = state if isinstance(state, tuple) else (state,)
    (output.square().sum() + sum(s.sum() for s in states)).backward()
    found = [output, *states, x.grad, *(p.grad for p in layer.parameters())]
    return [t.detach().cpu().numpy().astype(np.float64) for t in found]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_layers(name: str, compiled: bool) -> None:
    flamec.manual_seed(0)
    here = KINDS[name](7, 9, 2, batch_first=True, bidirectional=True)
    there = KINDS[name](7, 9, 2, batch_first=True, bidirectional=True)
    there.load_state_dict(here.state_dict())
    there.cuda()
    for length in (1, 6):
        x = np.random.default_rng(length).standard_normal((3, length, 7)).astype(np.float32)
        wanted = results(here, flamec.tensor(x), compiled=False)
        found = results(there, flamec.tensor(x, device="cuda"), compiled)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_packed_sequences() -> None:
    flamec.manual_seed(0)
    here, there = nn.LSTM(5, 6), nn.LSTM(5, 6)
    there.load_state_dict(here.state_dict())
    there.cuda()
    x = np.random.default_rng(1).standard_normal((7, 3, 5)).astype(np.float32)
    found = []
    for layer, device in ((here, "cpu"), (there, "cuda")):
        packed = nn.utils.rnn.pack_padded_sequence(
            flamec.tensor(x, device=device), [7, 4, 1], enforce_sorted=True
        )
        output, _ = nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
        found.append(output.detach().cpu().numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=2e-4, atol=2e-5)


def test_a_training_step_follows_the_cpu() -> None:
    losses: dict[str, list[float]] = {}
    for device in ("cpu", "cuda"):
        flamec.manual_seed(1)
        model, head = nn.LSTM(6, 16, 2).to(device), nn.Linear(16, 3).to(device)
        parameters = [*model.parameters(), *head.parameters()]
        optimizer = flamec.optim.Adam(parameters, lr=0.01)
        random = np.random.default_rng(2)
        x = flamec.tensor(random.standard_normal((12, 8, 6)).astype(np.float32), device=device)
        y = flamec.tensor(random.integers(0, 3, 8), device=device)

        @flamec.compile
        def step(
            x: Any, y: Any, model: Any = model, head: Any = head, optimizer: Any = optimizer
        ) -> Any:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(model(x)[0][-1]), y)
            loss.backward()
            optimizer.step()
            return loss

        losses[device] = [step(x, y).item() for _ in range(8)]
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-3)
    assert losses["cuda"][-1] < losses["cuda"][0]
