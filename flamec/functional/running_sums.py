"""Running sums along one dimension, on a GPU by lines where rows are long and few.

In: tensors. Out: what the primitive ``cumsum`` gives, with sums of floats grouped by lines.
"""

from __future__ import annotations

from flamec.functional.primitives import ops
from flamec.functional.shape import window
from flamec.fusing import fused
from flamec.ir.shape import product
from flamec.tensor import Tensor

_LONG_ROW, _FEW_ROWS = 1 << 15, 64  # from which on, and up to which, rows are divided on a GPU
_LINE, _MOST_LINES = 1024, 1 << 14  # elements of a line, and lines whose sums are added at once


def running_sums(x: Tensor, axis: int) -> Tensor:
    """The primitive ``cumsum``, by lines where a row is long and there are few of them."""
    if axis == x.ndim - 1 and _has_long_rows(x):
        return _cumsum_of_lines(x)
    sums: Tensor = ops.cumsum(x, axis=axis)
    return sums


def _has_long_rows(x: Tensor) -> bool:
    """Whether a device that works on rows side by side has too few of them."""
    *rows, size = x._type.shape
    count = product(rows)
    if not isinstance(size, int) or not isinstance(count, int) or x._type.device.type != "cuda":
        return False
    return size >= _LONG_ROW and 0 < count <= _FEW_ROWS


def _cumsum_of_lines(x: Tensor) -> Tensor:
    """The running sums of rows, by lines whose sums are added up before (Blelloch 1990, "Prefix
    Sums and Their Applications", section 1.5.1)."""
    shape = x._type.shape
    *rows, size = shape
    assert isinstance(size, int)
    line = _LINE
    while -(-size // line) > _MOST_LINES:
        line *= 2
    missing = -size % line
    if missing:
        zero = ops.full(value=0, shape=(), dtype=x._type.dtype, device=x._type.device)
        none = (0,) * len(rows)
        x = ops.pad(x, zero, low=(*none, 0), high=(*none, missing))
    count = (size + missing) // line
    sums = _lines_with_those_before(ops.reshape(x, shape=(product(rows), count, line)))
    sums = ops.reshape(sums, shape=(*rows, size + missing))
    return window(sums, len(rows), 0, size) if missing else sums


@fused()
def _lines_with_those_before(lines: Tensor) -> Tensor:
    """Running sums along the last dimension, which start from the sum of all lines before."""
    total = ops.sum(lines, axes=(2,))
    shape = (*total._type.shape, 1)
    earlier = window(ops.cumsum(total, axis=1), 1, 0, shape[1] - 1)
    zero = ops.full(value=0, shape=(), dtype=total._type.dtype, device=total._type.device)
    before = ops.pad(earlier, zero, low=(0, 1), high=(0, 0))
    within = ops.cumsum(lines, axis=2)
    before = ops.expand(ops.reshape(before, shape=shape), shape=within._type.shape)
    result: Tensor = ops.add(within, before)
    return result
