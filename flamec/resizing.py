"""Tensors that get other memory, or see their memory in another shape: resize_, set_, out=.

In: a tensor made outside of compiled functions. Out: the same tensor object, which from then on
has another shape; what it held at the front stays where memory is kept or copied. While a
function is compiled, tensors keep their shapes, and this is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flamec.dispatch import tensor_builder
from flamec.errors import OperationError, unrepeatable, user_location
from flamec.functional.creation import zeros
from flamec.functional.dimensions import sizes
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import regroup, window
from flamec.functional.strided import as_strided, flat_storage
from flamec.ir.shape import product
from flamec.layout import row_major
from flamec.memory import becoming, copy_, set_data
from flamec.state import no_grad, thread
from flamec.tensor import Tensor


def set_(
    self: Tensor,
    source: Tensor | None = None,
    storage_offset: int = 0,
    size: Sequence[int] | None = None,
    stride: Sequence[int] | None = None,
) -> Tensor:
    """Let the tensor have the memory of ``source``, all of it as it is or in the given layout."""
    if source is None:
        source = tensor_builder.full(value=0, shape=(0,), dtype=self._type.dtype)
    elif size is not None:
        strides = _dense(size) if stride is None else stride
        source = as_strided(source, size, strides, storage_offset)
    set_data(self, source)
    return self


def _dense(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(s) for s in row_major(tuple(shape)))


def resize_(self: Tensor, *sizes_: Any, memory_format: Any = None) -> Tensor:
    """Change the shape; elements stay in order, new ones at the end are zero.

    RuntimeError for a tensor that requires grad, and while a function is compiled.
    """
    return _resized("resize_", self, sizes("resize_", sizes_))


def resize_as_(input: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """``resize_`` to the shape of ``the_template``."""
    require_tensor("resize_as_", "the_template", the_template)
    return _resized("resize_as_", input, tuple(the_template._type.shape))


def _resized(name: str, self: Tensor, shape: tuple[Any, ...]) -> Tensor:
    if thread.trace is not None:
        raise unrepeatable(f"{name} of a tensor")
    if self.requires_grad:
        raise OperationError(
            f"{name}: cannot resize variables that require grad (at {user_location()})"
        )
    if self._type.shape == shape:
        return self
    with no_grad():
        storage = flat_storage(self)
        offset = self.storage_offset()
        needed, available = int(product(shape)), int(storage._type.shape[0])
        if offset + needed > available:
            larger = tensor_builder.full(
                value=0,
                shape=(offset + needed,),
                dtype=self._type.dtype,
                device=self._type.device,
            )
            copy_(window(larger, 0, 0, available), storage)
            storage = larger
        set_data(self, regroup(window(storage, 0, offset, needed), shape))
    return self


def empty_strided(size: Sequence[int], stride: Sequence[int], **options: Any) -> Tensor:
    """A tensor of the given size and strides without meaningful contents (they are zeros)."""
    shape, strides = tuple(map(int, size)), tuple(map(int, stride))
    places = [(d, s) for d, s in zip(shape, strides, strict=True)]
    count = max(1 + sum((d - 1) * s for d, s in places), *(d * s for d, s in places), 1)
    requires_grad = options.pop("requires_grad", False)
    with no_grad():
        flat = zeros(0 if 0 in shape else count, **options)
        result = as_strided(flat, shape, strides)
    result.requires_grad = bool(requires_grad)
    return result


def new_empty_strided(
    self: Tensor, size: Sequence[int], stride: Sequence[int], **options: Any
) -> Tensor:
    """``empty_strided`` with the dtype and device of ``self``."""
    options.setdefault("dtype", self._type.dtype)
    options.setdefault("device", self._type.device)
    return empty_strided(size, stride, **options)


def empty_permuted(size: Sequence[int], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """Zeros whose dimension ``physical_layout[i]`` is the i-th in memory, from the outermost on."""
    shape, order = tuple(size), tuple(physical_layout)
    dense = _dense([shape[i] for i in order])
    strides = [dense[order.index(i)] for i in range(len(shape))]
    return empty_strided(shape, strides, **options)


__all__ = ["empty_permuted", "empty_strided"]

TENSOR_METHODS = {
    "as_strided_": becoming("as_strided_", as_strided),
    "new_empty_strided": new_empty_strided,
    "resize_": resize_,
    "resize_as_": resize_as_,
    "set_": set_,
}
