"""``gradient``: derivatives estimated from neighbouring samples.

In: samples of a function on a grid. Out: a tensor of estimates for each dimension, differentiable.
Inside the grid the difference is of second order, also where the spacing varies (Fornberg,
"Generation of finite difference formulas on arbitrarily spaced grids", Mathematics of
Computation 51, 1988); at the borders of order ``edge_order``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.functional.arguments import public
from flamec.functional.dimensions import dimension
from flamec.functional.joining import cat
from flamec.functional.primitives import require
from flamec.functional.promotion import is_number, require_tensor
from flamec.fusing import fused
from flamec.ir.shape import less
from flamec.state import process
from flamec.tensor import Tensor


@public
@fused()
def gradient(
    input: Tensor, *, spacing: Any = None, dim: Any = None, edge_order: int = 1
) -> tuple[Tensor, ...]:
    """The partial derivatives along each of ``dim`` (all dimensions), one tensor for each.

    ``spacing``: the distance of samples (1), or one for each dimension, or the samples' coordinates
    along each, as vectors. ``edge_order``: 1 or 2.
    """
    require_tensor("gradient", "input", input)
    if dim is None:
        axes = list(range(input.ndim))
    else:
        given = [dim] if isinstance(dim, int) else list(dim)
        axes = [dimension("gradient", d, input.ndim) for d in given]
    require(len(set(axes)) == len(axes), f"gradient(): dim appears multiple times in {axes}")
    require(edge_order in (1, 2), f"gradient(): expected edge_order to be 1 or 2, got {edge_order}")
    spacing = 1 if spacing is None else spacing
    if is_number(spacing) or (isinstance(spacing, Tensor) and spacing.ndim == 0):
        steps: list[Any] = [spacing] * len(axes)
    else:
        steps = list(spacing) if isinstance(spacing, Sequence) else [spacing]
        require(
            len(steps) == len(axes),
            "gradient(): expected spacing to be one number, or one for each of "
            f"{len(axes)} dimensions, got {len(steps)}",
        )
    for step in steps:
        if not is_number(step):
            require_tensor("gradient", "spacing", step)
    for axis in axes:
        size = input._type.shape[axis]
        require(
            not less(size, edge_order + 1),
            f"gradient(): expected each dimension size to be at least edge_order+1, got {size} "
            f"for dimension {axis}",
        )
    return tuple(_along(input, axis, h, edge_order) for axis, h in zip(axes, steps, strict=True))


def _along(x: Tensor, axis: int, step: Any, edge_order: int) -> Tensor:
    size = x.shape[axis]

    def at(first: int, count: Any) -> Tensor:
        return x.narrow(axis, first if first >= 0 else size + first, count)

    if not x.dtype.is_floating_point:
        x = x.to(process.default_dtype)
    if is_number(step) or step.ndim == 0:
        inner = (at(2, size - 2) - at(0, size - 2)) / (2 * step)
        left, right = (at(1, 1) - at(0, 1)) / step, (at(-1, 1) - at(-2, 1)) / step
        if edge_order == 2:
            left = (-1.5 * at(0, 1) + 2 * at(1, 1) - 0.5 * at(2, 1)) / step
            right = (1.5 * at(-1, 1) - 2 * at(-2, 1) + 0.5 * at(-3, 1)) / step
        return cat([left, inner, right], axis)
    require(
        step.ndim == 1 and step.shape[0] == size,
        f"gradient(): expected {size} coordinates for dimension {axis}, got {list(step.shape)}",
    )
    shape = [1] * x.ndim
    shape[axis] = -1
    gaps = (step[1:] - step[:-1]).reshape(shape)

    def gap(first: int, count: Any) -> Tensor:
        return gaps.narrow(axis, first if first >= 0 else size - 1 + first, count)

    before, behind = gap(0, size - 2), gap(1, size - 2)
    both = before + behind
    inner = (
        -behind / (before * both) * at(0, size - 2)
        + (behind - before) / (before * behind) * at(1, size - 2)
        + before / (behind * both) * at(2, size - 2)
    )
    left, right = (at(1, 1) - at(0, 1)) / gap(0, 1), (at(-1, 1) - at(-2, 1)) / gap(-1, 1)
    if edge_order == 2:
        h, k = gap(0, 1), gap(1, 1)
        left = (
            -(2 * h + k) / (h * (h + k)) * at(0, 1)
            + (h + k) / (h * k) * at(1, 1)
            - h / (k * (h + k)) * at(2, 1)
        )
        h, k = gap(-2, 1), gap(-1, 1)
        right = (
            k / (h * (h + k)) * at(-3, 1)
            - (h + k) / (h * k) * at(-2, 1)
            + (2 * k + h) / (k * (h + k)) * at(-1, 1)
        )
    return cat([left, inner, right], axis)


__all__ = ["gradient"]
