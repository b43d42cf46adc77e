"""Transformer and its decoder against PyTorch: results, gradients, masks, eager and compiled."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from torch_comparison import torch

import flamec
from flamec import nn

RNG = np.random.default_rng(3)
WIDTH, HEADS, HIDDEN = 8, 2, 12
BATCH, SOURCE, TARGET = 3, 5, 4


def _pair(make: Any) -> tuple[Any, Any]:
    """flamec's module and PyTorch's with the same random weights, float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of its nested tensors
        theirs = make(torch.nn).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.from_numpy(0.5 * RNG.standard_normal(tuple(parameter.shape))))
    ours = make(nn).double()
    state = {k: flamec.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()}
    assert list(state) == list(ours.state_dict())
    assert str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    return ours, theirs


def _compare(pair: tuple[Any, Any], *arrays: np.ndarray, how: str = "eager", **options: Any) -> Any:
    """Compare the results and the gradients of inputs and parameters."""
    found = []
    for package, module in zip((flamec, torch), pair, strict=True):
        module.zero_grad()
        inputs = [package.from_numpy(a.copy()).requires_grad_() for a in arrays]
        given = {
            k: package.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
        }
        call = flamec.compile(module) if how == "compiled" and package is flamec else module
        result = call(*inputs, **given)
        (result * result * result).sum().backward()
        gradients = [p.grad for p in (*inputs, *module.parameters())]
        found.append([result, *gradients])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = float(theirs.detach().abs().max()) + 1.0
            np.testing.assert_allclose(
                ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-9, atol=1e-11 * scale
            )
    return found[0][0].detach().numpy()


def _sequence(length: int, batch_first: bool) -> np.ndarray:
    shape = (BATCH, length) if batch_first else (length, BATCH)
    return RNG.standard_normal((*shape, WIDTH))


def _hidden(length: int) -> np.ndarray:
    """A key padding mask [N, length] that hides a different end of each sequence."""
    return np.arange(length) >= length - np.arange(BATCH)[:, None]


def _causal(length: int) -> np.ndarray:
    return np.triu(np.full((length, length), -np.inf), 1)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_decoder_layer(norm_first: bool, batch_first: bool, bias: bool) -> None:
    pair = _pair(
        lambda nn: nn.TransformerDecoderLayer(
            WIDTH, HEADS, HIDDEN, 0.0, "gelu", 1e-3, batch_first, norm_first, bias
        )
    )
    inputs = _sequence(TARGET, batch_first), _sequence(SOURCE, batch_first)
    plain = _compare(pair, *inputs)
    masked = _compare(
        pair,
        *inputs,
        tgt_mask=_causal(TARGET),
        memory_mask=RNG.standard_normal((TARGET, SOURCE)),
        tgt_key_padding_mask=np.where(_hidden(TARGET), -np.inf, 0.0),
        memory_key_padding_mask=np.where(_hidden(SOURCE), -np.inf, 0.0),
    )
    assert np.abs(plain - masked).max() > 1e-3


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize("norm", [False, True])
def test_decoder(norm: bool, how: str) -> None:
    pair = _pair(
        lambda nn: nn.TransformerDecoder(
            nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0),
            2,
            nn.LayerNorm(WIDTH) if norm else None,
        )
    )
    inputs = _sequence(TARGET, False), _sequence(SOURCE, False)
    above = np.triu(np.ones((TARGET, TARGET), bool), 1)
    for causal in (None, True, False) if how == "eager" else (True,):
        _compare(
            pair,
            *inputs,
            how=how,
            tgt_mask=above,
            memory_key_padding_mask=_hidden(SOURCE),
            tgt_is_causal=causal,
        )
    if how == "eager":
        per_head = RNG.standard_normal((BATCH * HEADS, TARGET, SOURCE))
        _compare(pair, *inputs, memory_mask=per_head)
        _compare(pair, inputs[0][:, 0], inputs[1][:, 0], tgt_key_padding_mask=_hidden(TARGET)[1])


@pytest.mark.parametrize("how", ["eager", "compiled"])
@pytest.mark.parametrize(("norm_first", "batch_first"), [(False, True), (True, False)])
def test_transformer(norm_first: bool, batch_first: bool, how: str) -> None:
    pair = _pair(
        lambda nn: nn.Transformer(
            WIDTH, HEADS, 2, 2, HIDDEN, 0.0, norm_first=norm_first, batch_first=batch_first
        )
    )
    inputs = _sequence(SOURCE, batch_first), _sequence(TARGET, batch_first)
    _compare(
        pair,
        *inputs,
        how=how,
        tgt_mask=_causal(TARGET) < 0,
        src_key_padding_mask=_hidden(SOURCE),
        tgt_key_padding_mask=_hidden(TARGET),
        memory_key_padding_mask=_hidden(SOURCE),
    )
    if how == "eager":
        masks = {"src_mask": _causal(SOURCE), "tgt_mask": _causal(TARGET)}
        for causal in (None, True):
            _compare(pair, *inputs, **masks, src_is_causal=causal, tgt_is_causal=causal)
        memory_mask = np.tril(np.ones((TARGET, SOURCE), bool), -2)
        _compare(pair, *inputs, memory_mask=memory_mask)
        without_batch = [x[0] if batch_first else x[:, 0] for x in inputs]
        _compare(pair, *without_batch, **masks)


@pytest.mark.parametrize("dtype", [None, "float64", "float16"])
def test_square_subsequent_mask(dtype: str | None) -> None:
    for size in (0, 1, 4):
        mine, wanted = (
            package.nn.Transformer.generate_square_subsequent_mask(
                size, dtype=None if dtype is None else getattr(package, dtype)
            ).numpy()
            for package in (flamec, torch)
        )
        assert mine.dtype == wanted.dtype
        np.testing.assert_array_equal(mine, wanted)


def test_errors_are_pytorchs() -> None:
    pair = _pair(lambda nn: nn.Transformer(WIDTH, HEADS, 1, 1, HIDDEN))
    cases = [
        ((SOURCE, BATCH, WIDTH), (TARGET, BATCH + 1, WIDTH), "batch number"),
        ((SOURCE, BATCH, WIDTH), (TARGET, BATCH, WIDTH + 1), "feature number"),
        ((SOURCE, WIDTH + 1), (TARGET, WIDTH), "feature number"),
    ]
    for source, target, message in cases:
        for package, module in zip((flamec, torch), pair, strict=True):
            src, tgt = (package.from_numpy(np.ones(s)) for s in (source, target))
            with pytest.raises(RuntimeError, match=message):
                module(src, tgt)
    for package, module in zip((flamec, torch), pair, strict=True):
        src, tgt = (package.from_numpy(np.ones((n, BATCH, WIDTH))) for n in (SOURCE, TARGET))
        with pytest.raises(RuntimeError, match="is_causal hint"):
            module(src, tgt, tgt_is_causal=True)
        with pytest.raises(RuntimeError, match="activation should be relu/gelu"):
            package.nn.TransformerDecoderLayer(WIDTH, HEADS, activation="tanh")
