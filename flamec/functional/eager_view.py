"""``x[...]`` at once in the common cases of running eagerly: by ints, slices, None and Ellipsis, by
index tensors of one shape, by a mask.

NumPy makes the view; the view steps are those that ``indexing.select`` would apply one
by one. A tensor that autograd follows is left to ``select``, which records them.
"""

from __future__ import annotations

from typing import Any

from flamec.device_array import DeviceArray, Shape
from flamec.ir.op import lookup
from flamec.ir.types import TensorType, bool_, int64
from flamec.state import thread
from flamec.tape import cut_off
from flamec.tensor import Tensor, ViewStep

_SLICE, _RESHAPE = lookup("slice"), lookup("reshape")
_types: dict[tuple[int, tuple[int, ...]], TensorType] = {}  # by the operand's type and the shape
_known: dict[Any, tuple[TensorType, int, Shape, bool, tuple[ViewStep, ...]]] = {}  # see ``_again``
_MOST_TYPES = 4096


def eager_view(x: Tensor, index: Any) -> Tensor | None:
    """The view ``x[index]``, or None where this is not the common case (or an error)."""
    array = x._array
    if array is None or thread.trace is not None:
        return None
    if thread.grad_enabled and (
        x._requires_grad or x._value is not None or x._storage.value is not None
    ):
        return None
    items = index if index.__class__ is tuple else (index,)
    key: list[Any] | None = None  # of a view of an array on a GPU
    if array.__class__ is DeviceArray:
        key = [x._type._number or x._type.number, None if array.c_contiguous else array.strides]
    for item in items:
        kind = item.__class__
        if kind is slice:
            key = _with_slice(key, item)
        elif kind is int or item is None or item is Ellipsis:
            if key is not None:
                key.append(item)
        else:
            return None
    found = None if key is None else (*key,)
    known = None if found is None else _known.get(found)
    if known is not None:
        return _again(x, array, known)
    extents = array.shape
    missing = len(extents) - len(items) + items.count(None)
    if Ellipsis in items:
        missing += 1
        place = items.index(Ellipsis)
        items = (*items[:place], *(slice(None),) * missing, *items[place + 1 :])
    else:
        items = (*items, *(slice(None),) * missing)
    if missing < 0 or Ellipsis in items:
        return None
    axis = 0
    starts: list[int] = []
    sizes: list[int] = []
    steps: list[int] = []
    shape: list[int] = []
    for item in items:
        if item is None:
            shape.append(1)
            continue
        extent = extents[axis]
        axis += 1
        if item.__class__ is int:
            if not -extent <= item < extent:
                return None
            starts.append(item if item >= 0 else item + extent)
            sizes.append(1)
            steps.append(1)
            continue
        try:
            start, stop, step = item.indices(extent)
        except (TypeError, ValueError):  # for select to explain, with the user's line
            return None
        if step <= 0:
            return None
        count = len(range(start, stop, step))
        starts.append(start)
        sizes.append(count)
        steps.append(step)
        shape.append(count)
    if array.__class__ is DeviceArray:
        view = _device_view(array, items, starts, steps, tuple(shape))
    else:
        view = array[(*items, Ellipsis)]
    result = _view(x, view, starts, sizes, steps, tuple(shape))
    if found is not None:
        if len(_known) >= _MOST_TYPES:
            _known.clear()
        more = result._steps[len(x._steps) :]
        place = view.address - array.address, view.strides, view.c_contiguous
        _known[found] = result._type, *place, more if thread.grad_enabled else more[:-1]
    return result


def _with_slice(key: list[Any] | None, item: slice) -> list[Any] | None:
    """The key for one more slice; None if its bounds are others than ints."""
    if key is not None:
        bounds = item.start, item.stop, item.step
        for bound in bounds:
            if bound is not None and bound.__class__ is not int:
                return None
        key += (slice, *bounds)
    return key


def _again(x: Tensor, array: DeviceArray, known: Any) -> Tensor:
    """A view like one that was made before."""
    type, offset, strides, dense, steps = known
    place = array.address + offset
    view = DeviceArray(array.device, type.shape, array.dtype, place, array.memory, strides, dense)
    if not thread.grad_enabled:
        steps = (*steps, cut_off(type))
    return Tensor._from_array(view, type, x._storage, (*x._steps, *steps))


def _device_view(
    array: DeviceArray, items: tuple[Any, ...], starts: list[int], steps: list[int], shape: Shape
) -> DeviceArray:
    """The view of an array on a GPU, whose elements are those from ``starts`` on by ``steps``."""
    own = array.strides
    strides, axis, address = [], 0, array.address
    for item in items:
        if item is None:
            strides.append(array.dtype.itemsize)
            continue
        if item.__class__ is not int:
            strides.append(own[axis] * steps[axis])
        if 0 not in shape:
            address += own[axis] * starts[axis]
        axis += 1
    return DeviceArray(array.device, shape, array.dtype, address, array.memory, tuple(strides))


def _view(
    x: Tensor,
    view: Any,
    starts: list[int],
    sizes: list[int],
    steps: list[int],
    shape: tuple[int, ...],
) -> Tensor:
    window = tuple(sizes)
    path: tuple[ViewStep, ...] = x._steps
    if window != x._type.shape or any(s != 1 for s in steps):
        attributes = {"starts": tuple(starts), "sizes": window, "steps": tuple(steps)}
        path = (*path, (_SLICE, attributes))
    if shape != window or path is x._steps:
        path = (*path, (_RESHAPE, {"shape": shape}))
    key = x._type._number or x._type.number, shape
    type = _types.get(key)
    if type is None:  # the same object each time, because it has a number that keys have
        if len(_types) >= _MOST_TYPES:
            _types.clear()
        type = _types[key] = TensorType(shape, x._type.dtype, x._type.device)
    if not thread.grad_enabled:
        path = (*path, cut_off(type))
    return Tensor._from_array(view, type, x._storage, path)


def plain_indices(x: Tensor, index: Any) -> tuple[Tensor, ...] | None:
    """The index if it is nothing but int64 tensors of one shape for the first dimensions, so that
    nothing is to be brought into another form; else None."""
    items = index if index.__class__ is tuple else (index,)
    if thread.trace is not None or not 0 < len(items) <= len(x._type.shape):
        return None
    first = items[0]
    if not isinstance(first, Tensor) or first._type.dtype is not int64 or not first._type.shape:
        return None
    wanted = first._type
    if wanted.device != x._type.device:
        return None
    for item in items[1:]:
        if not isinstance(item, Tensor) or item._type != wanted:
            return None
    return items


def indexed_axis(x: Tensor, index: Any) -> int | None:
    """The dimension that an int64 tensor picks from, if the index is that tensor and whole slices
    beside it, and nothing is traced; else None."""
    if index.__class__ is not tuple or thread.trace is not None or len(index) > len(x._type.shape):
        return None
    axis = None
    for position, item in enumerate(index):
        if isinstance(item, Tensor):
            if axis is not None:
                return None
            axis = position
        elif item.__class__ is not slice or not item.start is item.stop is item.step is None:
            return None
    have = None if axis is None else index[axis]._type
    if have is None or have.dtype is not int64 or not have.shape or have.device != x._type.device:
        return None
    return axis


def is_whole_mask(x: Tensor, index: Any) -> bool:
    """Whether the index is one bool for each element, where nothing is traced."""
    if thread.trace is not None or not isinstance(index, Tensor):
        return False
    mask, mine = index._type, x._type
    return mask.dtype is bool_ and mask.shape == mine.shape and mask.device == mine.device
