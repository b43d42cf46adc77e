"""interpolate, grid_sample, affine_grid, shuffles, unfold, fold and pad modes beside PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import check, compare, function_of, parsed, to_flamec, to_torch

import flamec
from flamec.nn import functional as F

torch = pytest.importorskip("torch")

LINES = """
F.interpolate(x, 7) | 2,3,5
F.interpolate(x, scale_factor=2) | 2,3,4,5
F.interpolate(x, (3, 10)) | 2,3,4,5
F.interpolate(x, scale_factor=(1.7, 0.6)) | 2,3,4,5
F.interpolate(x, scale_factor=1.7, recompute_scale_factor=True) | 2,3,4,5
F.interpolate(x, scale_factor=1.3, mode='linear') | 2,3,3
F.interpolate(x, scale_factor=1.3, mode='bilinear') | 2,3,3,5
F.interpolate(x, (3, 10), mode='nearest-exact') | 2,3,4,5
F.interpolate(x, scale_factor=2, mode='nearest-exact') | 1,2,3,2,3
F.interpolate(x, scale_factor=2.5, mode='nearest-exact') | 1,2,3,2
F.interpolate(x, 9, mode='linear') | 2,3,5
F.interpolate(x, 3, mode='linear', align_corners=True) | 2,3,5
F.interpolate(x, (7, 3), mode='bilinear') | 2,3,4,5
F.interpolate(x, (7, 3), mode='bilinear', align_corners=True) | 2,3,4,5
F.interpolate(x, scale_factor=(1.7, 2.3), mode='bilinear') | 2,3,4,5
F.interpolate(x, (1, 1), mode='bilinear', align_corners=True) | 2,3,4,5
F.interpolate(x, (3, 5, 2), mode='trilinear') | 1,2,2,3,4
F.interpolate(x, (7, 3), mode='bicubic') | 2,3,4,5
F.interpolate(x, (7, 3), mode='bicubic', align_corners=True) | 2,3,4,5
F.interpolate(x, scale_factor=1.5, mode='bicubic') | 2,3,4,5
F.interpolate(x, (2, 3), mode='bilinear', antialias=True) | 2,3,7,8
F.interpolate(x, (9, 3), mode='bicubic', antialias=True) | 2,3,7,8
F.interpolate(x, (3, 2), mode='area') | 2,3,7,8
F.upsample_bilinear(x, (3, 7)) | 2,3,4,5
F.upsample_nearest(x, scale_factor=2) | 2,3,4,5
F.pixel_shuffle(x, 2) | 2,8,2,3
F.pixel_unshuffle(x, 2) | 2,4,6
F.channel_shuffle(x, 3) | 2,6,2,3
F.unfold(x, 2) | 2,3,5,6
F.unfold(x, (2, 3), (2, 1), (1, 0), (1, 2)) | 3,5,6
F.fold(x, (4, 5), 2) | 2,12,12
F.fold(x, (5, 6), (2, 3), (2, 1), (1, 0), (1, 2)) | 12,10
F.fold(x, 6, 3, stride=3) | 2,18,4
F.pad(x, (2, 1), 'reflect') | 2,3,4
F.pad(x, (2, 1, 0, 3), 'reflect') | 2,3,4,5
F.pad(x, (2, 1, 0, 3), 'replicate') | 3,4,5
F.pad(x, (5, 1, 0, 3), 'replicate') | 2,3,4,5
F.pad(x, (5, 1, 0, 4), 'circular') | 2,3,4,5
F.pad(x, (1, 1, 1, 0, 2, 1), 'circular') | 2,2,3,2,3
F.pad(x, (1, 1, 1, 0, 2, 1), 'reflect') | 2,2,3,2,3
F.affine_grid(x, (2, 3, 4, 5)) | 2,2,3
F.affine_grid(x, (2, 3, 4, 1), align_corners=True) | 2,2,3
F.affine_grid(x, (1, 3, 2, 3, 4)) | 1,3,4
F.grid_sample(x, w) | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, padding_mode='border', align_corners=True) | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, padding_mode='reflection') | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, padding_mode='reflection', align_corners=True) | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, 'nearest') | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, 'nearest', 'border', True) | 2,3,4,5 2,3,6,2
F.grid_sample(x, w) | 1,2,3,4,5 1,2,3,2,3
F.grid_sample(x, w, 'bilinear', 'border') | 1,2,3,4,5 1,2,3,2,3
""".strip().splitlines()

# PyTorch has no second derivative of grid_sample
BICUBIC = """
F.grid_sample(x, w, 'bicubic') | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, 'bicubic', 'border', True) | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, 'bicubic', 'reflection') | 2,3,4,5 2,3,6,2
""".strip().splitlines()


def draw(shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("line", LINES + BICUBIC)
def test_values_and_gradients(line: str) -> None:
    text, shapes = parsed(line)
    compare(function_of(text), draw(shapes), second="grid_sample" not in text)


@pytest.mark.parametrize("line", LINES + BICUBIC)
def test_compiled(line: str) -> None:
    text, shapes = parsed(line)
    call, arrays = function_of(text), draw(shapes)

    @flamec.compile
    def both(*tensors: Any) -> Any:
        result = call(F, *tensors)
        return result, *flamec.autograd.grad((result * result).sum(), tensors, allow_unused=True)

    result, *gradients = both(*(to_flamec(a, True) for a in arrays))
    theirs = [to_torch(a, True) for a in arrays]
    expected = call(torch.nn.functional, *theirs)
    wanted = torch.autograd.grad((expected * expected).sum(), theirs)
    check(result, expected, 1e-11)
    for mine, value in zip(gradients, wanted, strict=True):
        if mine is None:  # the nearest element stays the nearest
            assert "nearest" in line
            assert not value.any()
        else:
            check(mine, value, 1e-10)


def test_second_gradients_of_grid_sample_are_those_of_finite_differences() -> None:
    x, grid = draw([(1, 2, 3, 4), (1, 2, 2, 2)])

    def first(places: np.ndarray) -> Any:
        g = to_flamec(places, True)
        y = F.grid_sample(to_flamec(x), g)
        return flamec.autograd.grad((y * y).sum(), g, create_graph=True)[0], g

    gradient, g = first(grid)
    (second,) = flamec.autograd.grad((gradient * gradient).sum(), g)
    step = 1e-6
    for place in np.ndindex(*grid.shape):
        moved = [grid.copy(), grid.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        high, low = (float((first(m)[0] ** 2).sum()) for m in moved)
        assert abs((high - low) / (2 * step) - float(second[place])) < 1e-4


ERRORS = """
F.interpolate(x) | 2,3,4,5
F.interpolate(x, 3, 2) | 2,3,4,5
F.interpolate(x, 3, mode='linear') | 2,3,4,5
F.interpolate(x, 3, mode='other') | 2,3,4,5
F.interpolate(x, 3, align_corners=True) | 2,3,4,5
F.interpolate(x, (3, 4, 5)) | 2,3,4,5
F.interpolate(x, 3, antialias=True) | 2,3,4,5
F.interpolate(x, 0) | 2,3,4,5
F.interpolate(x, 2) | 2,3
F.pixel_shuffle(x, 2) | 2,3,4,5
F.pixel_unshuffle(x, 2) | 2,3,5
F.channel_shuffle(x, 2) | 2,3,5
F.unfold(x, 6) | 2,3,5,5
F.unfold(x, 2, stride=0) | 2,3,5,5
F.fold(x, 5, 2) | 2,12,4
F.fold(x, 3, 2) | 2,13,4
F.pad(x, (4, 0), 'reflect') | 2,3,4
F.pad(x, (5, 0), 'circular') | 2,3,4
F.pad(x, (1, 0), 'reflect') | 4
F.pad(x, (1, 0), 'reflect', 1.0) | 2,3,4
F.pad(x, (1, 0), 'other') | 2,3,4
F.affine_grid(x, (2, 3, 4, 5)) | 3,2,3
F.affine_grid(x, (2, 3, 4)) | 2,2,3
F.grid_sample(x, w) | 2,3,4,5 3,3,6,2
F.grid_sample(x, w) | 2,3,4,5 2,3,6,3
F.grid_sample(x, w, 'other') | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, padding_mode='other') | 2,3,4,5 2,3,6,2
F.grid_sample(x, w, 'bicubic') | 1,2,3,4,5 1,2,3,2,3
""".strip().splitlines()


@pytest.mark.parametrize("line", ERRORS)
def test_errors(line: str) -> None:
    text, shapes = parsed(line)
    call, arrays = function_of(text), draw(shapes)
    families = (RuntimeError, TypeError, ValueError)
    with pytest.raises(families) as theirs:
        call(torch.nn.functional, *map(to_torch, arrays))
    kind = next(f for f in (TypeError, ValueError, RuntimeError) if isinstance(theirs.value, f))
    with pytest.raises(kind, match=r"\(at F\."):
        call(F, *map(to_flamec, arrays))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_images_of_bytes(mode: str, antialias: bool) -> None:
    """PyTorch's weights have 16 bits, so a number in fifty differs by 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 13, 17)).astype(np.uint8)
    for size in ((26, 30), (7, 9)):
        options = {"size": size, "mode": mode, "antialias": antialias}
        mine = flamec.nn.functional.interpolate(flamec.tensor(pixels), **options)
        theirs = torch.nn.functional.interpolate(torch.tensor(pixels), **options)
        assert mine.dtype is flamec.uint8
        difference = np.abs(mine.numpy().astype(int) - theirs.numpy().astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.03
