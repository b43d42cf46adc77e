"""Layers of convolutional networks against PyTorch: state, repr, training and evaluation."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from torch_comparison import check, to_flamec, to_torch

import flamec

torch = pytest.importorskip("torch")

LAYERS = """
nn.Conv1d(3, 4, 3, padding=1) | 2,3,7
nn.Conv2d(3, 4, 3, 2, 1, bias=False) | 2,3,7,6
nn.Conv2d(4, 6, (3, 2), padding='same', dilation=2, groups=2) | 2,4,7,6
nn.Conv2d(4, 6, 1, padding='valid') | 4,7,6
nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=(0, 1, 0)) | 1,2,3,4,3
nn.ConvTranspose1d(3, 4, 3, 2, 1, 1) | 2,3,5
nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2, bias=False, dilation=2) | 2,4,3,4
nn.ConvTranspose3d(2, 3, 2, 2) | 1,2,2,3,2
nn.MaxPool1d(2) | 2,3,7
nn.MaxPool2d(3, 2, 1) | 2,3,7,6
nn.MaxPool2d(2, ceil_mode=True, dilation=1) | 2,3,7,6
nn.MaxPool3d(2) | 1,2,4,4,5
nn.AvgPool1d(3, 2, 1) | 2,3,8
nn.AvgPool2d(3, 2, 1, count_include_pad=False) | 2,3,8,7
nn.AvgPool3d(2, divisor_override=3) | 1,2,4,4,5
nn.LPPool1d(2, 3) | 2,3,8
nn.LPPool2d(2, 3, stride=2) | 2,3,8,7
nn.LPPool3d(2, 2) | 1,2,4,4,5
nn.AdaptiveAvgPool1d(3) | 2,3,8
nn.AdaptiveAvgPool2d((1, 3)) | 2,3,8,7
nn.AdaptiveAvgPool3d((2, None, 1)) | 1,2,4,4,5
nn.AdaptiveMaxPool1d(3) | 2,3,8
nn.AdaptiveMaxPool2d((1, 3)) | 2,3,8,7
nn.AdaptiveMaxPool3d(2) | 1,2,4,4,5
nn.BatchNorm1d(3) | 5,3
nn.BatchNorm1d(3, momentum=None) | 5,3,4
nn.BatchNorm2d(3, 1e-3, 0.3) | 2,3,4,5
nn.BatchNorm2d(3, affine=False) | 2,3,4,5
nn.BatchNorm2d(3, track_running_stats=False) | 2,3,4,5
nn.BatchNorm3d(2) | 2,2,3,2,2
nn.InstanceNorm1d(3) | 2,3,6
nn.InstanceNorm1d(3, affine=True) | 3,6
nn.InstanceNorm2d(3, affine=True, track_running_stats=True, momentum=0.3) | 2,3,4,5
nn.InstanceNorm3d(2) | 1,2,3,2,2
nn.BatchNorm2d(3, bias=False) | 2,3,4,5
nn.LocalResponseNorm(2) | 2,5,4
nn.PixelShuffle(2) | 2,8,2,3
nn.PixelUnshuffle(2) | 2,2,4,6
nn.ChannelShuffle(2) | 2,4,3,2
nn.Unfold((2, 3), 2, 1, stride=2) | 2,3,5,6
nn.Fold((5, 6), (2, 3), padding=1, stride=2) | 2,12,9
nn.Upsample(scale_factor=2) | 2,3,4,5
nn.Upsample((5, 9), mode='bilinear', align_corners=True) | 2,3,4,5
nn.Upsample(scale_factor=(1.5, 2), mode='bicubic') | 2,3,4,5
nn.UpsamplingNearest2d(scale_factor=3) | 2,3,4,5
nn.UpsamplingBilinear2d(size=7) | 2,3,4,5
nn.ConstantPad1d((1, -1), 2.5) | 2,3,4
nn.ConstantPad2d(1, 2.5) | 2,3,4,5
nn.ConstantPad3d((1, 0, 2, 1, 0, 1), 1) | 1,2,2,3,2
nn.ZeroPad1d(2) | 2,3,4
nn.ZeroPad2d((1, 2, 0, 3)) | 2,3,4,5
nn.ZeroPad3d(1) | 1,2,2,3,2
nn.ReflectionPad1d(2) | 2,3,4
nn.ReflectionPad2d((1, 2, 0, 3)) | 2,3,4,5
nn.ReflectionPad3d(1) | 1,2,2,3,2
nn.ReplicationPad1d((3, 1)) | 3,4
nn.ReplicationPad2d((1, 2, 0, 3)) | 2,3,4,5
nn.ReplicationPad3d(1) | 1,2,2,3,2
nn.CircularPad1d((3, 1)) | 2,3,4
nn.CircularPad2d((1, 2, 0, 3)) | 2,3,4,5
nn.CircularPad3d(1) | 1,2,2,3,2
nn.LocalResponseNorm(3, 0.1, 0.5, 2.0) | 2,5,4,3
""".strip().splitlines()


def pair(text: str) -> tuple[Any, Any]:
    """The layer in both frameworks, float64, with the same parameters."""
    ours = eval(text, {"nn": flamec.nn}).to(flamec.float64)
    theirs = eval(text, {"nn": torch.nn}).to(torch.float64)
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict({name: to_flamec(np.asarray(v)) for name, v in state.items()})
    return ours, theirs


def compare_state(ours: Any, theirs: Any) -> None:
    for (name, mine), (_, value) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        assert mine.dtype.name == str(value.dtype).removeprefix("torch."), name
        check(mine, value, 1e-11)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("line", LAYERS)
def test_layers(line: str, compiled: bool) -> None:
    """Three batches of training, gradients of each, then evaluation."""
    text, shape = line.split(" | ")
    ours, theirs = pair(text)
    if "bias" in inspect.signature(torch.nn.BatchNorm1d).parameters:  # newer PyTorch shows it
        assert repr(ours) == repr(theirs)

    def train(x: Any) -> Any:
        result = ours(x)
        inputs = [x, *ours.parameters()]
        return result, *flamec.autograd.grad((result * result).sum(), inputs)

    step = flamec.compile(train) if compiled else train
    evaluate = flamec.compile(ours.__call__) if compiled else ours
    rng = np.random.default_rng(5)
    batches = [rng.standard_normal(tuple(map(int, shape.split(",")))) for _ in range(4)]
    for batch in batches[:3]:
        result, *gradients = step(to_flamec(batch, True))
        x = to_torch(batch, True)
        expected = theirs(x)
        wanted = torch.autograd.grad((expected * expected).sum(), [x, *theirs.parameters()])
        check(result, expected, 1e-11)
        for mine, value in zip(gradients, wanted, strict=True):
            check(mine, value, 1e-9)
        compare_state(ours, theirs)
    ours.eval()
    theirs.eval()
    check(evaluate(to_flamec(batches[3])), theirs(to_torch(batches[3])), 1e-11)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_output_size_and_padding_modes(mode: str) -> None:
    ours, theirs = pair(f"nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode='{mode}')")
    x = np.random.default_rng(0).standard_normal((2, 2, 6, 5))
    check(ours(to_flamec(x)), theirs(to_torch(x)), 1e-11)
    assert repr(ours) == repr(theirs)


def test_a_transposed_convolution_of_a_wanted_size() -> None:
    ours, theirs = pair("nn.ConvTranspose2d(2, 3, 3, stride=2)")
    x = np.random.default_rng(0).standard_normal((2, 2, 6, 5))
    for size in ((14, 12), (13, 11), (2, 3, 14, 11)):
        check(ours(to_flamec(x), size), theirs(to_torch(x), size), 1e-11)
    with pytest.raises(ValueError, match="valid sizes range from 13 to 14"):
        ours(to_flamec(x), (15, 11))


def test_pools_that_give_indices() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 4))
    found, places = flamec.nn.MaxPool2d(2, return_indices=True)(to_flamec(x))
    expected, wanted = torch.nn.MaxPool2d(2, return_indices=True)(to_torch(x))
    check(found, expected, 0.0)
    np.testing.assert_array_equal(places.numpy(), wanted.numpy())
    back = flamec.nn.MaxUnpool2d(2)(found, places, output_size=(6, 5))
    check(back, torch.nn.MaxUnpool2d(2)(expected, wanted, output_size=(6, 5)), 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "nn.Conv2d(3, 4, 3, groups=2)",
        "nn.Conv2d(4, 3, 3, groups=2)",
        "nn.Conv2d(4, 4, 3, groups=0)",
        "nn.Conv2d(4, 4, 3, padding='other')",
        "nn.Conv2d(4, 4, 3, padding='same', stride=2)",
        "nn.Conv2d(4, 4, 3, padding_mode='other')",
        "nn.ConvTranspose2d(4, 4, 3, padding_mode='circular')",
        "nn.BatchNorm2d(3)(x)",
        "nn.BatchNorm1d(3)(x[0])",
        "nn.BatchNorm1d(3)(x[0, 0, 0, :3].reshape(1, 3))",
        "nn.BatchNorm2d(4)(x[:, :3].reshape(2, 3, 5, 5))",
        "nn.InstanceNorm2d(3, affine=True)(x)",
        "nn.InstanceNorm2d(4)(x[..., :1, :1])",
        "nn.LocalResponseNorm(2)(x[0, 0])",
    ],
)
def test_errors(text: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 5)).astype(np.float32)
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        eval(text, {"nn": torch.nn, "x": to_torch(x)})
    with pytest.raises(type(theirs.value)):
        eval(text, {"nn": flamec.nn, "x": to_flamec(x)})


def test_a_small_network_follows_pytorch_for_fifty_steps() -> None:
    """Two convolutions with batch normalisation, pooling and SGD with momentum, compiled."""

    def network(nn: Any) -> Any:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )

    ours, theirs = network(flamec.nn).to(flamec.float64), network(torch.nn).to(torch.float64)
    state = {name: value.numpy().copy() for name, value in theirs.state_dict().items()}
    ours.load_state_dict({name: to_flamec(np.asarray(v)) for name, v in state.items()})
    optimizer = flamec.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)

    @flamec.compile
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = flamec.nn.functional.cross_entropy(ours(x), y)
        loss.backward()
        optimizer.step()
        return loss

    rng = np.random.default_rng(1)
    losses = []
    for _ in range(50):
        x, y = rng.standard_normal((8, 1, 8, 8)), rng.integers(0, 10, 8)
        x += y[:, None, None, None] / 3
        loss = step(to_flamec(x), to_flamec(y))
        reference.zero_grad()
        expected = torch.nn.functional.cross_entropy(theirs(to_torch(x)), to_torch(y))
        expected.backward()
        reference.step()
        check(loss, expected, 1e-8)
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert len(step.programs) == 1
    for (_, mine), (_, value) in zip(
        ours.state_dict().items(), theirs.state_dict().items(), strict=True
    ):
        check(mine, value, 1e-7)
