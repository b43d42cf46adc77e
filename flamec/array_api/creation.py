"""The standard's creation functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec import conversion
from flamec.functional import creation as ours
from flamec.functional import diagonals, grids
from flamec.functional.arguments import as_device, default_device
from flamec.ir.types import DType, int64
from flamec.state import process
from flamec.tensor import Tensor

__all__ = [
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like",
    "linspace", "meshgrid", "ones", "ones_like", "tril", "triu", "zeros", "zeros_like",
]  # fmt: skip

Shape = int | Sequence[int]


def _shape(shape: Shape) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(shape)


def asarray(
    obj: Any, /, *, dtype: DType | None = None, device: Any = None, copy: bool | None = None
) -> Tensor:
    """``obj`` as an array. ``copy``: True always, False never (ValueError), None if needed."""
    return conversion.asarray(obj, dtype=dtype, device=device, copy=copy)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """The memory of another library's array."""
    return conversion.from_dlpack(x, device=device, copy=copy)


def empty(shape: Shape, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """An array without meaningful contents."""
    return ours.empty(_shape(shape), dtype=dtype, device=device)


def zeros(shape: Shape, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Zeros."""
    return ours.zeros(_shape(shape), dtype=dtype, device=device)


def ones(shape: Shape, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Ones."""
    return ours.ones(_shape(shape), dtype=dtype, device=device)


def full(
    shape: Shape, fill_value: Any, *, dtype: DType | None = None, device: Any = None
) -> Tensor:
    """One value everywhere."""
    return ours.full(_shape(shape), fill_value, dtype=dtype, device=device)


def empty_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """``empty`` in the shape, and unless given the dtype and device, of ``x``."""
    return ours.empty_like(x, dtype=dtype, device=device)


def zeros_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """``zeros`` in the shape, and unless given the dtype and device, of ``x``."""
    return ours.zeros_like(x, dtype=dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: DType | None = None, device: Any = None) -> Tensor:
    """``ones`` in the shape, and unless given the dtype and device, of ``x``."""
    return ours.ones_like(x, dtype=dtype, device=device)


def full_like(
    x: Tensor, /, fill_value: Any, *, dtype: DType | None = None, device: Any = None
) -> Tensor:
    """``full`` in the shape, and unless given the dtype and device, of ``x``."""
    return ours.full_like(x, fill_value, dtype=dtype, device=device)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: DType | None = None,
    device: Any = None,
) -> Tensor:
    """Numbers from ``start`` on below ``stop`` (from 0, if only one is given)."""
    if stop is None:
        start, stop = 0, start
    if (stop - start) * step <= 0:
        whole = all(isinstance(x, int) for x in (start, stop, step))
        kind = dtype or (int64 if whole else process.default_dtype)
        return ours.empty((0,), dtype=kind, device=device)
    return ours.arange(start, stop, step, dtype=dtype, device=device)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: DType | None = None,
    device: Any = None,
    endpoint: bool = True,
) -> Tensor:
    """``num`` evenly spaced numbers; ``stop`` is the last of them if ``endpoint``."""
    if endpoint:
        return ours.linspace(start, stop, num, dtype=dtype, device=device)
    return ours.linspace(start, stop, num + 1, dtype=dtype, device=device)[:num]


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DType | None = None,
    device: Any = None,
) -> Tensor:
    """Ones on the ``k``-th diagonal, zeros elsewhere."""
    columns = n_rows if n_cols is None else n_cols
    place = as_device("eye", device, default_device())
    row = ours.arange(n_rows, device=place)[:, None]
    column = ours.arange(columns, device=place)[None, :]
    result: Tensor = (column - row == k).to(dtype or process.default_dtype)
    return result


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The lower triangles of matrices."""
    return diagonals.tril(x, k)


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    """The upper triangles of matrices."""
    return diagonals.triu(x, k)


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> tuple[Tensor, ...]:
    """The coordinates of a grid, one array for each dimension."""
    return tuple(grids.meshgrid(*arrays, indexing=indexing))
