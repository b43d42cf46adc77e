"""Convolutions and pooling against PyTorch: values, both gradients, compiled form, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_comparison import check, compare, function_of, parsed, to_flamec, to_torch

import flamec
from flamec.nn import functional as F

torch = pytest.importorskip("torch")

# an expression over F, x, w and b, and the shapes of the latter
CONVOLUTIONS = """
F.conv1d(x, w) | 2,3,7 4,3,3
F.conv1d(x, w, b, stride=2, padding=1) | 2,3,8 4,3,3 4
F.conv1d(x, w, b, padding='same', dilation=3) | 2,2,9 3,2,2 3
F.conv1d(x, w, None, 1, 'valid', 2) | 1,1,9 1,1,3
F.conv1d(x, w, b) | 3,5 2,3,4 2
F.conv1d(x, w) | 0,3,7 4,3,3
F.conv2d(x, w) | 2,3,6,5 4,3,3,2
F.conv2d(x, w, b, 2, 1) | 2,3,7,6 4,3,3,3 4
F.conv2d(x, w, b, (2, 1), (1, 0), (1, 2)) | 2,3,7,6 4,3,3,3 4
F.conv2d(x, w, b, padding='same') | 2,3,5,6 4,3,4,3 4
F.conv2d(x, w, b, groups=2) | 2,4,5,5 6,2,2,3 6
F.conv2d(x, w, b, 2, 2, groups=3) | 2,3,5,6 3,1,3,3 3
F.conv2d(x, w, b, 2, (0, 2), (1, 2), groups=3) | 2,3,6,5 3,1,2,3 3
F.conv2d(x, w, padding=1) | 2,1,4,5 1,1,3,3
F.conv2d(x, w, groups=2, padding=4) | 1,2,9,9 2,1,9,9
F.conv2d(x, w, stride=(2, 3), padding=2) | 1,2,6,8 3,2,2,3
F.conv2d(x, w, groups=2, stride=3) | 1,4,7,7 2,2,3,2
F.conv2d(x, w, b, 1, 1, groups=4) | 2,4,9,8 4,1,3,3 4
F.conv2d(x, w, None, (2, 1), (2, 1), (1, 2), groups=6) | 2,6,10,7 6,1,3,2
F.conv1d(x, w, stride=2, padding=1, groups=3) | 2,3,11 3,1,5
F.conv2d(x, w, b, padding=1) | 2,5,4,3 40,5,3,3 40
F.conv2d(x, w, padding=1, stride=2) | 1,6,3,4 30,6,3,2
F.conv2d(x, w, padding=1) | 3,24,9,7 35,24,3,3
F.conv2d(x, w) | 1,5,5,4 3,5,1,1
F.conv2d(x, w, stride=2) | 2,2,5,4 3,2,1,1
F.conv2d(x, w, padding=2) | 2,1,1,1 1,1,3,3
F.conv2d(x, w) | 3,4,5 2,3,2,2
F.conv2d(x, w) | 0,3,4,5 2,3,2,2
F.conv2d(x.transpose(1, 3), w.transpose(2, 3), b[::2]) | 2,5,6,3 4,3,2,3 8
F.conv3d(x, w, b, 2, 1) | 1,2,4,5,3 3,2,2,3,3 3
F.conv3d(x, w, b, (1, 2, 1), 'valid', (1, 1, 2), 2) | 2,2,3,4,5 4,1,2,1,2 4
F.conv_transpose1d(x, w, b) | 2,3,5 3,4,3 4
F.conv_transpose1d(x, w, b, 3, 1, 2, 1, 2) | 2,3,4 3,2,3 2
F.conv_transpose2d(x, w, b, 2, 1, 1) | 2,3,4,3 3,4,3,3 4
F.conv_transpose2d(x, w, None, (2, 1), (0, 1), (1, 0), 2, (1, 2)) | 2,4,3,4 4,3,2,3
F.conv_transpose2d(x, w, padding=2) | 1,2,5,5 2,1,2,3
F.conv_transpose2d(x, w) | 2,4,3 2,1,2,3
F.conv_transpose2d(x, w, stride=3, groups=3, padding=1) | 2,3,3,4 3,1,3,4
F.conv_transpose2d(x, w, stride=(1, 3), dilation=2) | 2,3,3,4 3,2,3,2
F.conv_transpose3d(x, w, b, 2, groups=2) | 1,2,2,3,2 2,2,2,2,3 4
""".strip().splitlines()

POOLS = """
F.max_pool1d(x, 2) | 2,3,7
F.max_pool1d(x, 3, 2, 1, 1, True) | 2,3,8
F.max_pool2d(x, 2) | 2,3,6,4
F.max_pool2d(x, 3, 2, 1) | 2,3,7,6
F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (2, 1)) | 2,2,7,8
F.max_pool2d(x, 3, stride=2, ceil_mode=True) | 1,2,6,8
F.max_pool2d(x, 2) | 3,6,4
F.max_pool2d(x, 9) | 2,2,9,10
F.max_pool2d(x, 9, 1, 4) | 1,2,9,10
F.max_pool2d(x.transpose(1, 3), 2) | 2,6,4,3
F.max_pool2d(x, 2) | 0,3,6,4
F.max_pool2d(x, 2).flatten(1) | 2,3,6,4
F.max_pool2d(x, 2).relu_() | 2,3,6,4
F.adaptive_max_pool2d(x, (5, 2)).mul_(2) | 2,3,7,3
F.max_pool3d(x, 2, 1, 1) | 1,2,3,4,3
F.avg_pool1d(x, 3) | 2,3,10
F.avg_pool1d(x, 3, 2, 1, True, False) | 2,3,8
F.avg_pool2d(x, 2) | 2,3,6,5
F.avg_pool2d(x, 3, 2, 1) | 2,3,7,6
F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) | 2,3,7,6
F.avg_pool2d(x, 3, 2, 1, True) | 2,3,6,8
F.avg_pool2d(x, (2, 3), 2, (1, 0), divisor_override=5) | 2,3,6,8
F.avg_pool2d(x, 2) | 3,6,5
F.avg_pool3d(x, 2, 1, 1, False, False) | 1,2,3,4,3
F.lp_pool1d(x.abs() + 0.1, 3, 2) | 2,3,7
F.lp_pool2d(x, 2, 3, 2) | 2,3,7,6
F.lp_pool3d(x.abs() + 0.1, 1.5, 2) | 1,2,4,4,5
F.adaptive_avg_pool1d(x, 4) | 2,3,10
F.adaptive_avg_pool2d(x, 1) | 2,3,5,4
F.adaptive_avg_pool2d(x, (3, None)) | 2,3,6,4
F.adaptive_avg_pool2d(x, (5, 2)) | 2,3,7,3
F.adaptive_avg_pool2d(x, 3) | 3,2,2
F.adaptive_avg_pool3d(x, (2, 1, 3)) | 1,2,4,3,5
F.adaptive_max_pool1d(x, 4) | 2,3,10
F.adaptive_max_pool2d(x, 2) | 2,3,6,4
F.adaptive_max_pool2d(x, (5, 2)) | 2,3,7,3
F.adaptive_max_pool3d(x, (2, 1, 3)) | 1,2,4,3,5
F.max_unpool1d(*F.max_pool1d(x, 2, return_indices=True), 2) | 2,3,6
F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2, output_size=(7, 6)) | 2,3,7,6
F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2) | 1,2,4,4,2
""".strip().splitlines()

INDICES = """
F.max_pool1d(x, 3, 2, 1, return_indices=True) | 2,3,8
F.max_pool2d(x, 3, 2, 1, return_indices=True) | 2,3,7,6
F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (2, 1), True, True) | 2,2,7,8
F.max_pool2d(x, 9, 1, 4, return_indices=True) | 1,2,9,10
F.max_pool3d(x, 2, 2, 1, return_indices=True) | 1,2,3,4,3
F.adaptive_max_pool1d(x, 4, True) | 2,3,10
F.adaptive_max_pool2d(x, (5, 2), True) | 2,3,7,3
F.adaptive_max_pool2d(x, 2, True) | 3,6,4
F.adaptive_max_pool3d(x, (2, 1, 3), return_indices=True) | 1,2,4,3,5
""".strip().splitlines()


def draw(shapes: list[tuple[int, ...]], dtype: Any = np.float64) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("line", CONVOLUTIONS + POOLS)
def test_values_and_gradients(line: str) -> None:
    text, shapes = parsed(line)
    compare(function_of(text), draw(shapes))


@pytest.mark.parametrize("line", CONVOLUTIONS + POOLS)
def test_compiled(line: str) -> None:
    """The result and the gradients of one compiled function."""
    text, shapes = parsed(line)
    call, arrays = function_of(text), draw(shapes)

    @flamec.compile
    def both(*tensors: Any) -> Any:
        result = call(F, *tensors)
        weights = flamec.arange(result.numel(), dtype=flamec.float64).reshape(result.shape).cos()
        return result, *flamec.autograd.grad((result * weights).sum(), tensors)

    result, *gradients = both(*(to_flamec(a, True) for a in arrays))
    theirs = [to_torch(a, True) for a in arrays]
    expected = call(torch.nn.functional, *theirs)
    weights = torch.arange(expected.numel(), dtype=torch.float64).reshape(expected.shape).cos()
    wanted = torch.autograd.grad((expected * weights).sum(), theirs)
    check(result, expected, 1e-11)
    for mine, value in zip(gradients, wanted, strict=True):
        check(mine, value, 1e-10)


@pytest.mark.parametrize("line", INDICES)
@pytest.mark.parametrize("values", ["plain", "ties", "nan", "infinite"])
@pytest.mark.parametrize("compiled", [False, True])
def test_indices(line: str, values: str, compiled: bool) -> None:
    text, shapes = parsed(line)
    call, (x,) = function_of(text), draw(shapes)
    if values == "ties":
        x = np.round(x)
    elif values == "nan":
        x[x > 1.0] = np.nan
    elif values == "infinite":
        x[x < 1.0] = -np.inf
    run = flamec.compile(lambda t: call(F, t)) if compiled else lambda t: call(F, t)
    found, expected = run(to_flamec(x)), call(torch.nn.functional, to_torch(x))
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype.name == str(theirs.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@pytest.mark.parametrize(
    "line", ["F.max_pool2d(x, 3, 2, 1) | 2,3,7,6", "F.max_pool2d(x, 2) | 1,2,4,4"]
)
@pytest.mark.parametrize("values", ["ties", "nan", "infinite"])
def test_gradients_of_the_largest(line: str, values: str) -> None:
    text, shapes = parsed(line)
    (x,) = draw(shapes)
    x = np.round(x)
    if values == "nan":
        x[x > 1.0] = np.nan
    elif values == "infinite":
        x[x < 1.0] = -np.inf
    ours, theirs = to_flamec(x, True), to_torch(x, True)
    function_of(text)(F, ours).sum().backward()
    function_of(text)(torch.nn.functional, theirs).sum().backward()
    np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


ERRORS = """
F.conv2d(x, w) | 2,3,5,5 4,4,3,3
F.conv2d(x, w) | 2,3,2,2 4,3,3,3
F.conv2d(x, w, b) | 2,3,5,5 4,3,3,3 3
F.conv2d(x, w, groups=2) | 2,4,5,5 3,2,3,3
F.conv2d(x, w, groups=2) | 2,3,5,5 4,3,3,3
F.conv2d(x, w) | 5,5 4,3,3,3
F.conv2d(x, w, stride=0) | 2,3,5,5 4,3,3,3
F.conv2d(x, w, padding=-1) | 2,3,5,5 4,3,3,3
F.conv2d(x, w, padding='same', stride=2) | 2,3,5,5 4,3,3,3
F.conv2d(x, w, padding='other') | 2,3,5,5 4,3,3,3
F.conv2d(x, w, stride=(1, 1, 1)) | 2,3,5,5 4,3,3,3
F.conv2d(x, w.float()) | 2,3,5,5 4,3,3,3
F.conv1d(x, w) | 2,3,5,5 4,3,3
F.conv_transpose2d(x, w, output_padding=1) | 2,3,5,5 3,4,3,3
F.conv_transpose2d(x, w) | 2,4,5,5 3,4,3,3
F.max_pool2d(x, 2, padding=2) | 2,3,5,5
F.max_pool2d(x, 6) | 2,3,5,5
F.max_pool2d(x, 2) | 5,5
F.max_pool2d(x, 2, 0) | 1,2,5,5
F.avg_pool2d(x, 2, divisor_override=0) | 1,2,5,5
F.adaptive_avg_pool2d(x, -1) | 1,2,5,5
F.max_unpool2d(x, x, 2) | 1,2,5,5
F.prelu(x, w) | 2,1,5 3
F.prelu(x, w) | 4 4
F.prelu(x, w) | 2,3 1,1
F.group_norm(x, 3, w) | 1,3,1 3
F.bilinear(x, x, w, b) | 2,3 5,3,3 1
""".strip().splitlines()


@pytest.mark.parametrize("line", ERRORS)
def test_errors(line: str) -> None:
    text, shapes = parsed(line)
    call, arrays = function_of(text), draw(shapes)
    with pytest.raises((RuntimeError, TypeError, ValueError)) as theirs:
        call(torch.nn.functional, *map(to_torch, arrays))
    kind = (
        (type(theirs.value),)
        if type(theirs.value) is not RuntimeError
        else (RuntimeError, TypeError)
    )
    with pytest.raises(kind, match=r"\(at F\."):
        call(F, *map(to_flamec, arrays))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_other_dtypes(dtype: Any) -> None:
    arrays = draw([(2, 3, 7, 6), (4, 3, 3, 3), (4,)], dtype)
    ours = F.conv2d(*map(to_flamec, arrays), padding=1)
    theirs = torch.nn.functional.conv2d(*map(to_torch, arrays), padding=1)
    assert ours.dtype.name == str(theirs.dtype).removeprefix("torch.")
    limit = 1e-5 if dtype is np.float32 else 2e-2
    check(ours.float(), theirs.float(), limit)


def test_any_batch_size_is_one_program() -> None:
    """The batch size is a symbol after the second one, and the program is right for all."""
    w = to_flamec(draw([(4, 3, 3, 3)])[0], True)

    @flamec.compile
    def step(x: Any) -> Any:
        y = F.max_pool2d(F.conv2d(x, w, padding=1, stride=2).relu(), 3, 2, 1)
        return y, flamec.autograd.grad((y * y).sum(), w)[0]

    for batch in (2, 3, 5, 8):
        (x,) = draw([(batch, 3, 9, 8)])
        y, gradient = step(to_flamec(x))
        t = torch.nn.functional
        weight = to_torch(w.detach().numpy(), True)
        theirs = t.max_pool2d(t.conv2d(to_torch(x), weight, padding=1, stride=2).relu(), 3, 2, 1)
        check(y, theirs, 1e-11)
        check(gradient, torch.autograd.grad((theirs * theirs).sum(), weight)[0], 1e-10)
    assert len(step.programs) == 2
