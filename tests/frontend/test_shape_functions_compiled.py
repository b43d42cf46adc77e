"""Shape and gather functions under compile: the same values, gradients and aliasing as eager.

Each function takes a tensor [B, 3, 4]. It is called with several B, of which the second
makes the program symbolic; ``SPECIAL`` functions need to know B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flamec
from flamec import Tensor

I = flamec.tensor

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "reshape": lambda x: x.reshape(-1, 12) + 1.0,
    "reshape_copy": lambda x: x.transpose(0, 1).reshape(-1, 4) * 2.0,
    "view": lambda x: (x * 1.0).view(x.shape[0] * 3, 4),
    "flatten": lambda x: x.flatten(1).sum(1),
    "unflatten": lambda x: x.unflatten(2, (2, 2)).permute(3, 0, 1, 2) + 0.0,
    "squeeze": lambda x: x[:, :1].squeeze(1) + x.unsqueeze(-1)[:, 0, :, 0],
    "expand": lambda x: x[:, :1].expand(-1, 5, -1) * 1.5,
    "movedim": lambda x: x.movedim(0, -1).contiguous(),
    "flip": lambda x: x.flip(0, 2),
    "rot90": lambda x: x.rot90(1, (1, 2)),
    "roll": lambda x: x.roll(1, 1),
    "roll_batch": lambda x: x.roll(-1, 0),
    "cat": lambda x: flamec.cat([x, x * 2.0, x[:1]], 0),
    "stack": lambda x: flamec.stack([x, -x], 1),
    "hstack": lambda x: flamec.hstack([x, x]),
    "split": lambda x: [p * 1.0 for p in x.split([1, 3], 2)],
    "chunk": lambda x: [p * 1.0 for p in x.chunk(2, -1)],
    "unbind": lambda x: [p + 1.0 for p in x.unbind(1)],
    "narrow": lambda x: x.narrow(2, 1, 2) * x.select(1, -1)[:, None, 1:3],
    "repeat": lambda x: x.repeat(2, 1, 2),
    "tile": lambda x: x.tile(3),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "unfold": lambda x: x.unfold(2, 2, 1) * 1.0,
    "diagonal": lambda x: x.diagonal(1, 1, 2) * 2.0,
    "diag_embed": lambda x: flamec.diag_embed(x[:, 0], 1),
    "diagonal_scatter": lambda x: x.diagonal_scatter(x[:, 0, :3] * 2.0, 0, 1, 2),
    "tril": lambda x: x.tril(1) + x.triu(-1),
    "meshgrid": lambda x: [g * 1.0 for g in flamec.meshgrid(x[:, 0, 0], x[0, 0], indexing="xy")],
    "cartesian": lambda x: flamec.cartesian_prod(x[:, 0, 0], x[0, 0]),
    "index_select": lambda x: x.index_select(1, I([2, 0])),
    "index_add": lambda x: x.index_add(1, I([2, 2]), x[:, :2] * 1.0),
    "index_fill": lambda x: x.index_fill(2, I([0, 3]), 7.0),
    "gather": lambda x: x.gather(2, (x > 0).long()),
    "scatter": lambda x: x.scatter(2, (x[:, :, :1] > 0).long(), x[:, :, 1:2]),
    "scatter_add": lambda x: x.scatter_add(1, (x > 0).long(), x),
    "scatter_amax": lambda x: x.scatter_reduce(1, (x > 0).long(), x * 2.0, "amax"),
    "scatter_mean": lambda x: x.scatter_reduce(1, (x > 0).long(), x * 2.0, "mean"),
    "take": lambda x: x.take(I([0, -1, 3])),
    "take_along_dim": lambda x: x.take_along_dim((x[:, :, :1] > 0).long(), 2),
    "masked_fill": lambda x: x.masked_fill(x > 0.5, 0.0),
    "masked_scatter": lambda x: x.masked_scatter(x > 0.5, x * 3.0),
    "select_scatter": lambda x: x.select_scatter(x[:, 0] * 2.0, 1, 2),
    "slice_scatter": lambda x: x.slice_scatter(x[:, :, :2] * 2.0, 2, 0, None, 2),
    "index_put": lambda x: x.index_put((I([0, 0]), I([1, 1])), x[0, 0], accumulate=True),
    "write_to_view": lambda x: _written(x),
}
SPECIAL = {"roll_batch", "masked_scatter", "cat"}  # what they do depends on the size
NOT_EMPTY = {"cat", "meshgrid", "cartesian", "take", "index_put"}


def _written(x: Tensor) -> Tensor:
    y = x * 1.0
    y.transpose(1, 2)[:, 0].mul_(2.0)
    y.flatten(1)[:, 3:5] = x[:, 0, :2]
    return y


def results_and_gradients(
    function: Callable[[Tensor], Any], wrap: Callable[[Any], Any], sizes: list[int]
) -> tuple[list[list[np.ndarray]], Any]:
    def whole(x: Tensor) -> Any:
        result = function(x)
        parts = result if isinstance(result, (list, tuple)) else [result]
        loss = sum((p * p).sum() for p in parts)
        return [p.detach() for p in parts], flamec.autograd.grad(loss, x)[0]

    wrapped, found = wrap(whole), []
    for size in sizes:
        values = np.sin(np.arange(size * 12, dtype=np.float64)).reshape(size, 3, 4)
        parts, grad = wrapped(flamec.tensor(values, requires_grad=True))
        found.append([np.array(p.numpy()) for p in (*parts, grad)])
    return found, wrapped


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_equals_eager(name: str) -> None:
    sizes = [3, 5, 2, 1, 9] if name in NOT_EMPTY else [3, 5, 2, 1, 0, 9]
    expected, _ = results_and_gradients(FUNCTIONS[name], lambda f: f, sizes)
    found, compiled = results_and_gradients(FUNCTIONS[name], flamec.compile, sizes)
    for size, got, want in zip(sizes, found, expected, strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=f"{name}, B={size}")
    if name not in SPECIAL:
        assert compiled.stats.traces == 2, [str(g) for g in compiled.stats.guard_failures]


def test_layout_of_traced_tensors() -> None:
    @flamec.compile
    def look(x: Tensor) -> Tensor:
        view = x.transpose(0, 1)[1:, ::2]
        assert (view.is_contiguous(), view.stride(), view.storage_offset()) == (False, (1, 8), 1)
        assert x.flatten().is_contiguous()
        assert x[:, :1].contiguous().stride() == (1, 1)
        assert "not compatible" in _refusal(view)
        return view * 1.0

    look(flamec.zeros(3, 4))
    look(flamec.zeros(5, 4))


def _refusal(x: Tensor) -> str:
    try:
        x.view(-1)
    except RuntimeError as error:
        return str(error)
    return ""


def test_views_of_arguments_are_written_through() -> None:
    @flamec.compile
    def clear(x: Tensor) -> None:
        x[:, 1:].reshape(-1).fill_(5.0)  # a copy
        x.view(-1)[::2].zero_()
        x.unbind(0)[1].add_(1.0)

    x = flamec.ones(2, 3)
    clear(x)
    assert x.tolist() == [[0.0, 1.0, 0.0], [2.0, 1.0, 2.0]]
    strided = flamec.ones(3, 2).t()
    clear_strided = flamec.compile(lambda x: x[0].zero_())
    clear_strided(strided)
    assert strided.tolist() == [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize("sizes", [[3, 5, 2, 1], [1, 3, 5, 1], [3, 0, 4]])
def test_a_reshape_that_is_a_view_for_size_one_only(sizes: list[int]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.transpose(1, 2) * 1.0
        z = y.transpose(0, 1).reshape(-1, 3)  # y sees the write only if x.shape[0] is 1
        z.zero_()
        return y, z

    compiled = flamec.compile(function)
    for size in sizes:
        x = flamec.ones(size, 3, 4)
        for got, want in zip(compiled(x), function(x), strict=True):
            assert got.tolist() == want.tolist()
