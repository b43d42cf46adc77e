"""Batch norms folded into the layers before them, as in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flamec

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(5)
PLAIN, SMALL = "BatchNorm2d(6)", (2, 4, 7, 8)
LAYERS = {
    "Conv1d": ("Conv1d(4, 6, 3)", "BatchNorm1d(6)", (2, 4, 9), "conv"),
    "Conv2d without bias": ("Conv2d(4, 6, 3, groups=2, bias=False)", PLAIN, SMALL, "conv"),
    "plain norm": ("Conv2d(4, 6, 3)", "BatchNorm2d(6, 0.1, affine=False)", SMALL, "conv"),
    "ConvTranspose2d": ("ConvTranspose2d(4, 6, 3)", PLAIN, SMALL, "transposed"),
    "Linear": ("Linear(4, 6)", "BatchNorm1d(6)", (5, 4), "linear"),
    "Linear without bias": ("Linear(4, 6, bias=False)", "BatchNorm1d(6)", (5, 4), "linear"),
}  # fmt: skip


def pair(text: str) -> tuple[Any, Any]:
    """A module of each package with the same random numbers, in evaluation mode."""
    theirs = eval(f"torch.nn.{text}").double().eval()
    for tensor in [*theirs.parameters(), *theirs.buffers()]:
        if tensor.dtype is torch.float64:
            tensor.data.copy_(torch.tensor(RNG.random(tuple(tensor.shape)) + 0.3))
    ours = eval(f"flamec.nn.{text}").double().eval()
    state = {k: flamec.from_numpy(v.numpy().copy()) for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    return ours, theirs


def fused(package: Any, layer: Any, norm: Any, kind: str) -> Any:
    utils = package.nn.utils
    if kind == "linear":
        return utils.fuse_linear_bn_eval(layer, norm)
    return utils.fusion.fuse_conv_bn_eval(layer, norm, kind == "transposed")


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_its_norm(name: str) -> None:
    layer_text, norm_text, shape, kind = LAYERS[name]
    ours, theirs = pair(layer_text)
    norm, their_norm = pair(norm_text)
    made, wanted = fused(flamec, ours, norm, kind), fused(torch, theirs, their_norm, kind)
    assert made is not ours and type(made) is type(ours)
    x = RNG.standard_normal(shape)
    result = made(flamec.tensor(x)).detach().numpy()
    np.testing.assert_allclose(
        result, norm(ours(flamec.tensor(x))).detach().numpy(), rtol=1e-10, atol=1e-12
    )
    for key, value in wanted.state_dict().items():
        found = made.state_dict()[key].numpy()
        np.testing.assert_allclose(found, value.numpy(), rtol=1e-12)
    for parameter, other in zip(made.parameters(), wanted.parameters(), strict=True):
        assert isinstance(parameter, flamec.nn.Parameter)
        assert parameter.requires_grad == other.requires_grad


def test_what_cannot_be_folded_is_refused() -> None:
    for package in (flamec, torch):
        nn = package.nn
        layer, norm = nn.Linear(4, 6).eval(), nn.BatchNorm1d(6).eval()
        refused = (
            (nn.Linear(4, 6), norm),
            (layer, nn.BatchNorm1d(6)),
            (layer, nn.BatchNorm1d(5).eval()),
            (layer, nn.BatchNorm1d(6, track_running_stats=False).eval()),
        )
        for arguments in refused:
            with pytest.raises(AssertionError):
                nn.utils.fuse_linear_bn_eval(*arguments)
