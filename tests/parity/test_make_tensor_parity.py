"""``testing.make_tensor``: types, layouts, bounds and errors as in PyTorch."""

from __future__ import annotations

from typing import Any

import pytest

import flamec

torch = pytest.importorskip("torch")

CALLS = (
    "(3, 4), dtype=torch.float32",
    "3, 40, dtype=torch.float64, low=2, high=3",
    "[50], dtype=torch.float16",
    "(50,), dtype=torch.bfloat16, low=-1",
    "60, dtype=torch.int64",
    "60, dtype=torch.int8, low=-1000, high=1000",
    "60, dtype=torch.int16, low=1.5, high=3.5",
    "60, dtype=torch.uint8",
    "60, dtype=torch.bool",
    "60, dtype=torch.bool, low=1, high=2",
    "(6, 5), dtype=torch.float32, noncontiguous=True",
    "(1, 1), dtype=torch.float32, noncontiguous=True",
    "(2, 3, 4, 5), dtype=torch.float32, memory_format=torch.channels_last",
    "300, dtype=torch.int32, low=-1, high=2, exclude_zero=True",
    "300, dtype=torch.float32, low=0, high=0.5, exclude_zero=True",
    "(3, 0), dtype=torch.float32, requires_grad=True",
    "(), dtype=torch.float32",
)
REFUSED = (
    "3, dtype=torch.int64, requires_grad=True",
    "3, dtype=torch.float32, low=2, high=1",
    "3, dtype=torch.int64, low=1, high=1",
    "3, dtype=torch.float32, low=float('nan')",
    "3, dtype=torch.int8, low=200, high=300",
    "3, dtype=torch.float32, noncontiguous=True, memory_format=torch.contiguous_format",
)


def made(package: Any, call: str) -> Any:
    package.manual_seed(1)
    return eval(f"torch.testing.make_tensor({call}, device='cpu')", {"torch": package})


@pytest.mark.parametrize("call", CALLS)
def test_a_tensor(call: str) -> None:
    ours, theirs = made(flamec, call), made(torch, call)
    assert str(ours.dtype).split(".")[-1] == str(theirs.dtype).split(".")[-1]
    assert tuple(ours.shape) == tuple(theirs.shape) and ours.stride() == theirs.stride()
    assert ours.requires_grad == theirs.requires_grad
    if ours.numel() < 50:
        return
    for least, other in (("min", "max"), ("max", "min")):
        found, wanted = (getattr(t.float(), least)().item() for t in (ours, theirs))
        spread = abs(wanted - getattr(theirs.float(), other)().item())
        assert abs(found - wanted) <= 0.2 * spread, least  # both fill the interval
    assert ("exclude_zero" in call) <= bool((ours != 0).all())


@pytest.mark.parametrize("call", REFUSED)
def test_refused(call: str) -> None:
    for package in (flamec, torch):
        with pytest.raises(ValueError):
            made(package, call)
