"""Transformers: what the causal and the padding masks hide, custom parts, a training step."""

from __future__ import annotations

from typing import Any

import numpy as np

import flamec
from flamec import nn

RNG = np.random.default_rng(8)


def _transformer(**options: Any) -> nn.Transformer:
    model = nn.Transformer(8, 2, 1, 2, 16, 0.0, batch_first=True, dtype=flamec.float64, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def _random(*shape: int) -> Any:
    return flamec.from_numpy(RNG.standard_normal(shape))


def test_masks_hide() -> None:
    for norm_first in (False, True):
        model = _transformer(norm_first=norm_first)
        src, tgt = _random(2, 5, 8), _random(2, 4, 8)
        mask = model.generate_square_subsequent_mask(4, dtype=flamec.float64)
        padding = flamec.from_numpy(np.arange(5) >= np.array([[5], [3]]))
        options = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}

        def run(src: Any, tgt: Any, model: Any = model, **options: Any) -> np.ndarray:
            return model(src, tgt, tgt_mask=mask, **options).detach().numpy()  # noqa: B023

        first = run(src, tgt, **options)
        later, hidden = tgt.clone(), src.clone()
        later[:, 2:] = 1.0
        hidden[1, 3:] = 1.0
        changed = run(src, later, **options)
        np.testing.assert_allclose(changed[:, :2], first[:, :2], rtol=1e-12)
        assert np.abs(changed[:, 2:] - first[:, 2:]).min(axis=-1).max() > 1e-6
        np.testing.assert_allclose(run(hidden, tgt, **options), first, rtol=1e-12)
        assert np.abs(run(hidden, tgt) - first)[1].max() > 1e-6


def test_custom_parts() -> None:
    class Doubling(nn.Module):
        def forward(self, x: Any, *memory: Any, **masks: Any) -> Any:
            return 2 * x if not memory else x + memory[0].sum()

    model = _transformer(custom_encoder=Doubling(), custom_decoder=Doubling())
    assert not list(model.parameters())
    src, tgt = _random(1, 3, 8), _random(1, 2, 8)
    wanted = tgt.numpy() + 2 * src.numpy().sum()
    np.testing.assert_allclose(model(src, tgt).numpy(), wanted, rtol=1e-12)


def test_matrices_start_uniform_and_layers_apart() -> None:
    model = nn.Transformer(8, 2, 2, 2, 16)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            bound = np.sqrt(6 / sum(parameter.shape))
            largest = np.abs(parameter.detach().numpy()).max()
            assert 0.7 * bound < largest <= bound, name
    first, second = model.decoder.layers
    assert not np.array_equal(
        first.linear1.weight.numpy(force=True), second.linear1.weight.numpy(force=True)
    )


def test_compiled_training_step_follows_the_eager_one() -> None:
    model = _transformer()
    src, tgt = _random(2, 3, 8), _random(2, 2, 8)
    states = []
    start = {k: v.clone() for k, v in model.state_dict().items()}
    for call in (model, flamec.compile(model)):
        model.load_state_dict(start)
        optimizer = flamec.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(2):
            optimizer.zero_grad()
            (call(src, tgt) ** 2).mean().backward()
            optimizer.step()
        states.append([v.detach().numpy().copy() for v in model.state_dict().values()])
    for eager, compiled in zip(*states, strict=True):
        np.testing.assert_allclose(compiled, eager, rtol=1e-9, atol=1e-12)
    moved = (x != y.numpy() for x, y in zip(states[0], start.values(), strict=True))
    assert any(m.any() for m in moved)
