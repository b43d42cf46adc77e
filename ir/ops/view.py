"""Views: the same elements at other places, no arithmetic; ``detach`` and ``overwrite``.

The NumPy meaning returns a view of its operand where NumPy can express one.
Each view has a ``write_back``: the parent with the view's elements replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.ir import batching
from flamec.ir.op import Attributes, DerivativeContext, Op, OpKind, Types, register
from flamec.ir.ops.checks import (
    check_alike,
    check_axis,
    check_one_per_dimension,
    check_operand_count,
    check_shape_attribute,
    surely_less,
)
from flamec.ir.shape import (
    Dim,
    equal,
    format_shape,
    maximum,
    minimum,
    product,
    structurally_equal,
)
from flamec.ir.types import TensorType, int64

if TYPE_CHECKING:
    from flamec.ir.builder import Builder


# reshape ------------------------------------------------------------------
def _infer_reshape(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("reshape", types, 1)
    (x,) = types
    shape = attributes["shape"]
    check_shape_attribute("reshape", shape)
    have, want = product(x.shape), product(shape)
    if not equal(have, want):
        raise ValueError(
            f"reshape: {format_shape(x.shape)} with {have} elements cannot become "
            f"{format_shape(shape)} with {want}"
        )
    return x.with_shape(shape)


def _reshape_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (b.reshape(g, shape=ctx.input_types[0].shape),)


reshape = register(
    Op(
        name="reshape",
        kind=OpKind.VIEW,
        infer=_infer_reshape,
        evaluate=lambda attributes, x: x.reshape(attributes["shape"]),
        derivative=_reshape_gradient,
        write_back=lambda b, parent, child, attributes: b.reshape(
            child, shape=b.type_of(parent).shape
        ),
        dimensions=("shape",),
        batch=batching.extending(shape=lambda size: size),
        doc="The elements in row-major order in another shape.",
    )
)


# permute ------------------------------------------------------------------
def _infer_permute(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("permute", types, 1)
    (x,) = types
    axes = attributes["axes"]
    if sorted(axes) != list(range(len(x.shape))):
        raise ValueError(
            f"permute: axes {axes} are not a permutation of the {len(x.shape)} dimensions "
            f"of {format_shape(x.shape)}"
        )
    return x.with_shape(tuple(x.shape[a] for a in axes))


def inverse_permutation(axes: tuple[int, ...]) -> tuple[int, ...]:
    inverse = [0] * len(axes)
    for position, axis in enumerate(axes):
        inverse[axis] = position
    return tuple(inverse)


def _permute_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (b.permute(g, axes=inverse_permutation(ctx.attributes["axes"])),)


permute = register(
    Op(
        name="permute",
        kind=OpKind.VIEW,
        infer=_infer_permute,
        evaluate=lambda attributes, x: x.transpose(attributes["axes"]),
        derivative=_permute_gradient,
        write_back=lambda b, parent, child, attributes: b.permute(
            child, axes=inverse_permutation(attributes["axes"])
        ),
        batch=batching.permute,
        doc="Dimension i of the result is dimension axes[i] of the operand.",
    )
)


# expand -------------------------------------------------------------------
def _infer_expand(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("expand", types, 1)
    (x,) = types
    shape = attributes["shape"]
    check_shape_attribute("expand", shape)
    extra = len(shape) - len(x.shape)
    if extra < 0:
        raise ValueError(
            f"expand: {format_shape(x.shape)} has more dimensions than {format_shape(shape)}"
        )
    for axis, size in enumerate(x.shape):
        target = shape[axis + extra]
        if structurally_equal(size, target) or structurally_equal(size, 1):
            continue
        if not equal(size, target) and not (not isinstance(size, int) and equal(size, 1)):
            raise ValueError(
                f"expand: {format_shape(x.shape)} cannot be stretched to {format_shape(shape)}: "
                f"dimension {axis} has size {size}, not 1 or {target}"
            )
    return x.with_shape(shape)


def _expand_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    return (b.sum_to(g, ctx.input_types[0].shape),)


def _expand_write_back(b: Builder, parent: Any, child: Any, attributes: Attributes) -> Any:
    shape, written = b.type_of(parent).shape, b.type_of(child).shape
    if not equal(product(shape), product(written)):
        raise ValueError(
            f"cannot write through a view that expands {format_shape(shape)} to "
            f"{format_shape(written)}: several of its elements are one element of memory; "
            f"clone() it first"
        )
    return b.reshape(child, shape=shape)


def _evaluate_expand(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    view = np.broadcast_to(x, attributes["shape"])
    if x.flags.writeable:  # writes are refused where elements overlap, not everywhere
        view.flags.writeable = True
    return view


expand = register(
    Op(
        name="expand",
        kind=OpKind.VIEW,
        infer=_infer_expand,
        evaluate=_evaluate_expand,
        derivative=_expand_gradient,
        write_back=_expand_write_back,
        dimensions=("shape",),
        batch=batching.expand,
        doc="Broadcasts to a shape; leading dimensions may be added.",
    )
)


# slice --------------------------------------------------------------------
def check_window(
    op: str,
    sizes: tuple[Dim, ...],
    starts: tuple[Dim, ...],
    counts: tuple[Dim, ...],
    steps: tuple[int, ...],
) -> None:
    """Elements ``start + i * step`` for ``i < count`` lie inside each dimension."""
    for name, entries in (("starts", starts), ("sizes", counts), ("steps", steps)):
        check_one_per_dimension(op, name, entries, len(sizes))
    for axis, (size, start, count, step) in enumerate(
        zip(sizes, starts, counts, steps, strict=True)
    ):
        if not isinstance(step, int) or step == 0:
            raise ValueError(f"{op}: step {step} at dimension {axis}; it must be a nonzero int")
        if surely_less(count, 0):
            raise ValueError(f"{op}: negative size {count} at dimension {axis}")
        if structurally_equal(count, 0) or not surely_less(0, count):
            continue
        last = start + (count - 1) * step
        for end in (start, last):
            if surely_less(end, 0) or surely_less(size - 1, end):
                raise ValueError(
                    f"{op}: element {end} is outside dimension {axis} of size {size} "
                    f"(start {start}, {count} elements, step {step})"
                )


def _infer_slice(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("slice", types, 1)
    (x,) = types
    check_window("slice", x.shape, attributes["starts"], attributes["sizes"], attributes["steps"])
    return x.with_shape(attributes["sizes"])


def numpy_window(
    starts: tuple[int, ...], counts: tuple[int, ...], steps: tuple[int, ...]
) -> tuple[slice, ...]:
    """The NumPy index of ``count`` elements from ``start`` on, by ``step``."""
    window = []
    for start, count, step in zip(starts, counts, steps, strict=True):
        stop: int | None = start + count * step
        if count == 0:
            start = stop = 0
        elif stop is not None and stop < 0:
            stop = None
        window.append(slice(start, stop, step))
    return tuple(window)


def _evaluate_slice(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    if x.ndim == 0:
        return x
    return x[numpy_window(attributes["starts"], attributes["sizes"], attributes["steps"])]


def flip(b: Builder, x: Any, axis: int) -> Any:
    """``x`` with one axis reversed, as a slice with step -1."""
    shape = b.type_of(x).shape
    return b.slice(
        x,
        starts=tuple(d - 1 if i == axis else 0 for i, d in enumerate(shape)),
        sizes=shape,
        steps=tuple(-1 if i == axis else 1 for i in range(len(shape))),
    )


def _slice_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    x = ctx.input_types[0]
    starts, sizes, steps = (ctx.attributes[k] for k in ("starts", "sizes", "steps"))
    if any(structurally_equal(n, 0) for n in sizes):
        return (b.full_like(0, x),)
    if any(abs(s) != 1 for s in steps):
        return (b.slice_update(b.full_like(0, x), g, starts=starts, steps=steps),)
    low: list[Dim] = []
    high: list[Dim] = []
    for axis, (size, start, count, step) in enumerate(
        zip(x.shape, starts, sizes, steps, strict=True)
    ):
        if step == -1:
            g = flip(b, g, axis)
        low.append(start if step == 1 else start - count + 1)
        high.append(size - low[-1] - count)
    if all(structurally_equal(d, 0) for d in (*low, *high)):
        return (g,)
    return (b.pad(g, b.constant(0, x), low=tuple(low), high=tuple(high)),)


slice_ = register(
    Op(
        name="slice",
        kind=OpKind.VIEW,
        infer=_infer_slice,
        evaluate=_evaluate_slice,
        derivative=_slice_gradient,
        write_back=lambda b, parent, child, attributes: b.slice_update(
            parent, child, starts=attributes["starts"], steps=attributes["steps"]
        ),
        dimensions=("starts", "sizes"),
        batch=batching.extending(
            starts=lambda size: 0, sizes=lambda size: size, steps=lambda size: 1
        ),
        doc="Element i of a dimension is element start + i * step of the operand.",
    )
)


# diagonal -----------------------------------------------------------------
def _diagonal_length(rows: Dim, columns: Dim, offset: int) -> Dim:
    if offset < 0:
        rows = rows + offset
    else:
        columns = columns - offset
    return maximum(minimum(rows, columns), 0)


def _infer_diagonal(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("diagonal", types, 1)
    (x,) = types
    first = check_axis("diagonal", attributes["axis1"], x)
    second = check_axis("diagonal", attributes["axis2"], x)
    if first == second:
        raise ValueError(
            f"diagonal: axis1 and axis2 are both {first} for shape {format_shape(x.shape)}"
        )
    length = _diagonal_length(x.shape[first], x.shape[second], attributes["offset"])
    rest = tuple(d for i, d in enumerate(x.shape) if i not in (first, second))
    return x.with_shape((*rest, length))


def _evaluate_diagonal(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    view = np.diagonal(x, attributes["offset"], attributes["axis1"], attributes["axis2"])
    if x.flags.writeable:
        view.flags.writeable = True
    return view


def _place_on_diagonal(b: Builder, parent: Any, child: Any, attributes: Attributes) -> Any:
    """``parent`` with its diagonal replaced by ``child``, by a mask over rows and columns."""
    whole = b.type_of(parent)
    offset, first, second = (attributes[k] for k in ("offset", "axis1", "axis2"))
    rest = tuple(i for i in range(len(whole.shape)) if i not in (first, second))
    order = (*rest, first, second)
    rows, columns = whole.shape[first], whole.shape[second]
    length = b.type_of(child).shape[-1]
    if structurally_equal(length, 0):
        return parent
    above = max(0, -offset)
    below = rows - length - above
    placed = child
    if above or not structurally_equal(below, 0):
        none = (0,) * len(rest)
        placed = b.pad(child, b.constant(0, whole), low=(*none, above), high=(*none, below))
    batch = tuple(whole.shape[i] for i in rest)
    placed = b.expand_to(b.reshape(placed, shape=(*batch, rows, 1)), (*batch, rows, columns))
    grid = {"shape": (rows, columns), "dtype": int64, "device": whole.device}
    row, column = b.iota(axis=0, **grid), b.iota(axis=1, **grid)
    distance = b.sub(column, row)
    mask = b.eq(distance, b.constant(offset, b.type_of(distance)))
    result = b.where(mask, placed, b.permute(parent, axes=order))
    return b.permute(result, axes=inverse_permutation(order))


def _diagonal_gradient(b: Builder, ctx: DerivativeContext, g: Any) -> tuple[Any]:
    zeros = b.full_like(0, ctx.input_types[0])
    return (_place_on_diagonal(b, zeros, g, ctx.attributes),)


diagonal = register(
    Op(
        name="diagonal",
        kind=OpKind.VIEW,
        infer=_infer_diagonal,
        evaluate=_evaluate_diagonal,
        derivative=_diagonal_gradient,
        write_back=_place_on_diagonal,
        batch=batching.shifting("axis1", "axis2"),
        doc="The elements (i, i + offset) of two dimensions, as a new last dimension.",
    )
)


# detach -------------------------------------------------------------------
def _infer_detach(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("detach", types, 1)
    return types[0]


detach = register(
    Op(
        name="detach",
        kind=OpKind.BARRIER,
        infer=_infer_detach,
        evaluate=lambda attributes, x: x,
        write_back=lambda b, parent, child, attributes: child,
        doc="The operand, through which no gradient flows.",
    )
)


# overwrite ----------------------------------------------------------------
def _infer_overwrite(types: Types, attributes: Attributes) -> TensorType:
    check_operand_count("overwrite", types, 2)
    check_alike("overwrite", types)
    new, old = types
    if len(new.shape) != len(old.shape) or not all(map(equal, new.shape, old.shape)):
        raise ValueError(
            f"overwrite: operands have shapes {format_shape(new.shape)} and "
            f"{format_shape(old.shape)}; they must be equal"
        )
    return new


overwrite = register(
    Op(
        name="overwrite",
        kind=OpKind.BARRIER,
        infer=_infer_overwrite,
        evaluate=lambda attributes, new, old: new,
        derivative=lambda b, ctx, g: (None, g),
        doc="The first operand with the history of the second: a write that autograd does not see.",
    )
)
