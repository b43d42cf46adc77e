"""``dot_general``: products summed over contracted axes, for each batch index.

The result has the batch dimensions (in the order in which they are listed),
then the free dimensions of the left operand, then those of the right one.

The attribute ``part_of``, which need not be there, names the operation of which it is a part: a
``"convolution"``, whose float32 a GPU may multiply in another precision than that of products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import check_alike, check_axis, check_numeric, check_operand_count
from flamec.ir.ops.view import inverse_permutation
from flamec.ir.shape import equal, format_shape
from flamec.ir.types import TensorType, float32

if TYPE_CHECKING:
    from flamec.ir.builder import Builder

Axes = tuple[int, ...]


def free_axes(rank: int, *used: Axes) -> Axes:
    """The axes of an operand that are neither contracted nor batched."""
    taken = {axis for axes in used for axis in axes}
    return tuple(i for i in range(rank) if i not in taken)


def convolution_part(type: TensorType) -> dict[str, str]:
    """The attribute ``part_of`` of a product that a convolution with such a result becomes, where
    it makes a difference."""
    return {"part_of": "convolution"} if type.dtype is float32 else {}


def _infer_dot_general(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("dot_general", types, 2)
    check_alike("dot_general", types)
    x, y = types
    check_numeric("dot_general", x)
    contract, batch = attributes["contract"], attributes["batch"]
    if attributes.get("part_of", "convolution") != "convolution":
        raise ValueError(f"dot_general: part_of is 'convolution', not {attributes['part_of']!r}")
    for name, (left, right) in (("contract", contract), ("batch", batch)):
        if len(left) != len(right):
            raise ValueError(f"dot_general: {name}={(left, right)} pairs axes unevenly")
        for i, j in zip(left, right, strict=True):
            check_axis("dot_general", i, x)
            check_axis("dot_general", j, y)
            if not equal(x.shape[i], y.shape[j]):
                raise ValueError(
                    f"dot_general: {format_shape(x.shape)} and {format_shape(y.shape)} do not "
                    f"match: {name} dimension {i} of size {x.shape[i]} against dimension {j} "
                    f"of size {y.shape[j]}"
                )
    for side, operand in enumerate(types):
        used = (*contract[side], *batch[side])
        if len(set(used)) != len(used):
            raise ValueError(
                f"dot_general: an axis of operand {side}, {format_shape(operand.shape)}, is used "
                f"twice: contract={contract}, batch={batch}"
            )
    shape = [x.shape[i] for i in batch[0]]
    shape += [x.shape[i] for i in free_axes(len(x.shape), contract[0], batch[0])]
    shape += [y.shape[i] for i in free_axes(len(y.shape), contract[1], batch[1])]
    return x.with_shape(tuple(shape))


def _evaluate_dot_general(attributes: Attributes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brought to the form ``[batch…, m, k] @ [batch…, k, n]``, which NumPy gives to the BLAS."""
    (cx, cy), (bx, by) = attributes["contract"], attributes["batch"]
    if x.ndim == 2 and y.ndim == 2 and len(cx) == 1 and not bx:
        return np.matmul(x if cx == (1,) else x.T, y if cy == (0,) else y.T)
    fx, fy = free_axes(x.ndim, cx, bx), free_axes(y.ndim, cy, by)
    batch = tuple(x.shape[i] for i in bx)
    rows, columns = tuple(x.shape[i] for i in fx), tuple(y.shape[i] for i in fy)
    inner = 1
    for i in cx:
        inner *= x.shape[i]
    m = int(np.prod(rows, dtype=np.int64))
    n = int(np.prod(columns, dtype=np.int64))
    left = x.transpose(bx + fx + cx).reshape((*batch, m, inner))
    right = y.transpose(by + cy + fy).reshape((*batch, inner, n))
    return np.matmul(left, right).reshape(batch + rows + columns)


def _dot_general_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any, Any]:
    (cx, cy), (bx, by) = ctx.attributes["contract"], ctx.attributes["batch"]
    x, y = ctx.input_types
    alike = {name: value for name, value in ctx.attributes.items() if name == "part_of"}
    fx, fy = free_axes(len(x.shape), cx, bx), free_axes(len(y.shape), cy, by)
    g_batch = tuple(range(len(bx)))
    g_x = tuple(range(len(bx), len(bx) + len(fx)))
    g_y = tuple(range(len(bx) + len(fx), len(bx) + len(fx) + len(fy)))
    x_gradient = y_gradient = None
    if ctx.needs[0]:
        product = b.dot_general(g, ctx.inputs[1], contract=(g_y, fy), batch=(g_batch, by), **alike)
        # its dimensions: batch, x's free axes, then x's partners of y's contracted axes in order
        layout = bx + fx + tuple(i for _, i in sorted(zip(cy, cx, strict=True)))
        x_gradient = _arrange(b, product, layout)
    if ctx.needs[1]:
        product = b.dot_general(ctx.inputs[0], g, contract=(fx, g_x), batch=(bx, g_batch), **alike)
        layout = by + tuple(j for _, j in sorted(zip(cx, cy, strict=True))) + fy
        y_gradient = _arrange(b, product, layout)
    return x_gradient, y_gradient


def _arrange(b: Builder, value: Any, layout: Axes) -> Any:
    """``value``, whose dimension i is axis ``layout[i]``, with its axes in order."""
    if layout == tuple(range(len(layout))):
        return value
    return b.permute(value, axes=inverse_permutation(layout))


dot_general = register(
    Op(
        name="dot_general",
        kind=OpKind.CONTRACTION,
        infer=_infer_dot_general,
        evaluate=_evaluate_dot_general,
        derivative=_dot_general_gradient,
        saves_inputs={0: (1,), 1: (0,)},
        expensive=True,
        batch=batching.dot_general,
        doc="Sums of products over contracted axes, for each batch index.",
    )
)
