"""``x[...]`` and ``x[...] = v`` in every form.

In: a selection (``flamec.functional.selection``): a view, and index tensors and masks, which
read it with ``index``. An assignment writes to that view: directly, through ``index_put``, or
through ``where`` for a mask that stands alone, which needs no values and so can be compiled.
Placement of the result's dimensions is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flamec.arithmetic_in_place import copied, filled
from flamec.conversion import as_tensor, constant_array, on_device
from flamec.dispatch import apply_named, tensor_builder, write
from flamec.errors import OperationError, OperationTypeError, user_location
from flamec.functional.eager_view import eager_view, indexed_axis, is_whole_mask, plain_indices
from flamec.functional.promotion import is_number, scalar_of
from flamec.functional.selection import Selection, require_indices_here, select
from flamec.functional.shape import owned, regroup
from flamec.functional.true_places import (
    finds_places,
    is_large_mask,
    true_elements,
    true_places,
    unravelled,
)
from flamec.fusing import InPlace, fused
from flamec.ir.broadcasting import broadcast_shapes
from flamec.ir.shape import Dim, equal, format_shape, structurally_equal
from flamec.ir.types import bool_
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import concrete_array


# index tensors --------------------------------------------------------------------------
@dataclass
class Gathered:
    """Index tensors of one shape for the first dimensions of ``view``.

    ``place``: where their dimensions stand in the result of reading; ``axes``: the
    permutation of the selection's view that moved the indexed dimensions to the front.
    """

    view: Tensor
    indices: list[Tensor]
    place: int
    axes: tuple[int, ...]

    @property
    def index_shape(self) -> tuple[Dim, ...]:
        return self.indices[0]._type.shape

    def result_axes(self) -> tuple[int, ...]:
        """The permutation from (index dims, other dims) to the order of the result."""
        k = len(self.index_shape)
        others = len(self.view._type.shape) - len(self.indices)
        rest = tuple(range(k, k + others))
        return (*rest[: self.place], *range(k), *rest[self.place :])


def gathered(selection: Selection) -> Gathered:
    """Masks turned into positions, index tensors broadcast, their dimensions moved to the front.

    A zero-dimensional index (there is one only while tracing) counts as an int would: it
    is as if its dimension were gone before the result's dimensions are placed.
    """
    axes: list[int] = []
    dropped: list[int] = []
    indices: list[Tensor] = []
    axis = 0
    for index in selection.indices:
        if index is None:
            axis += 1
            continue
        for part in _positions(index):
            if not part._type.shape:
                dropped.append(axis)
            indices.append(part)
            axes.append(axis)
            axis += 1
    try:
        shape = broadcast_shapes(*(i._type.shape for i in indices))
    except ValueError as error:
        shapes = ", ".join(format_shape(i._type.shape) for i in indices)
        raise IndexError(
            "shape mismatch: indexing tensors could not be broadcast together with shapes "
            f"{shapes} (at {user_location()})"
        ) from error
    indices = [tensor_builder.expand_to(i, shape) for i in indices]
    kept = [a - sum(d < a for d in dropped) for a in axes if a not in dropped]
    place = kept[0] if kept and kept == list(range(kept[0], kept[0] + len(kept))) else 0
    rank = len(selection.view._type.shape)
    view = selection.view
    order = (*axes, *(i for i in range(rank) if i not in axes))
    if axes != list(range(len(axes))):
        view = apply_named("permute", view, axes=order)
    return Gathered(view, indices, place, order)


def _positions(index: Tensor) -> Sequence[Tensor]:
    if index._type.dtype is not bool_:
        return (index,)
    if finds_places(index):
        return unravelled(true_places(index), index._type.shape)
    mask = concrete_array(index, "indexing with a boolean mask")
    return [constant_array(p, index._type.device) for p in np.nonzero(mask)]


def getitem(self: Tensor, index: Any) -> Tensor:
    """``self[index]``: a view for ints, slices, None and Ellipsis, otherwise a copy."""
    view = eager_view(self, index)
    if view is not None:
        return view
    plain = plain_indices(self, index)
    if plain is not None:
        picked: Tensor = apply_named("index", self, *plain)
        return picked
    if isinstance(index, Tensor) and _is_large_mask_of(self, index):  # the short way
        return true_elements(self, index)
    axis = indexed_axis(self, index)
    if axis is not None:
        return _along(self, axis, index[axis])
    require_indices_here(self, index)
    selection = select(self, index)
    if selection.is_basic:
        if selection.view is self:
            return regroup(self, self._type.shape)
        return selection.view
    mask = _only_mask(selection)
    if mask is not None:
        return true_elements(selection.view, mask)
    found = gathered(selection)
    axes = found.result_axes()
    result: Tensor
    if axes == tuple(range(len(axes))):
        result = apply_named("index", found.view, *found.indices)
    else:
        result = _read(found.view, axes, *found.indices)
    if thread.trace is not None and not found.index_shape:
        thread.trace.picked.note(result, self, index)
    return result


@fused()
def _read(view: Tensor, axes: tuple[int, ...], *indices: Tensor) -> Tensor:
    """The elements at ``indices``, whose dimensions go where ``axes`` says."""
    found = apply_named("index", view, *indices)
    return owned(apply_named("permute", found, axes=axes))


@fused()
def _along(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """``x[:, index]``, with as many slices as the axis has before it."""
    rank, count = len(x._type.shape), len(index._type.shape)
    others = [a for a in range(rank) if a != axis]
    found = apply_named("index", apply_named("permute", x, axes=(axis, *others)), index)
    behind = range(count + axis, count + rank - 1)
    axes = (*range(count, count + axis), *range(count), *behind)
    return owned(apply_named("permute", found, axes=axes))


def _is_large_mask_of(x: Tensor, mask: Tensor) -> bool:
    have, given = x._type, mask._type
    if given.dtype is not bool_ or given.shape != have.shape or given.device != have.device:
        return False
    return is_large_mask(mask)


def _only_mask(selection: Selection) -> Tensor | None:
    """The large mask of the view's shape by which alone elements are chosen, if it is so."""
    mask = selection.indices[0] if len(selection.indices) == 1 else None
    if mask is None or mask._type.dtype is not bool_ or not is_large_mask(mask):
        return None
    return mask if mask._type.shape == selection.view._type.shape else None


# assignment -------------------------------------------------------------------------------
def _assigned(self: Tensor, value: Any) -> Tensor:
    """The value of an assignment to ``self`` as a tensor of its dtype and device."""
    dtype, device = self._type.dtype, self._type.device
    if isinstance(value, Tensor):
        return tensor_builder.cast(on_device(value, device), dtype)
    if is_number(value):
        return scalar_of(value, self)
    if isinstance(value, (np.ndarray, list, tuple)):
        return tensor_builder.cast(as_tensor(value, device=device), dtype)
    raise OperationTypeError(
        f"can't assign a {type(value).__name__} to a flamec.{dtype.name} tensor "
        f"(at {user_location()})"
    )


def fit(value: Tensor, shape: Sequence[Dim], what: str) -> Tensor:
    """``value`` broadcast to ``shape``; leading dimensions of size 1 too many are dropped."""
    have = value._type.shape
    extra = len(have) - len(shape)
    if extra > 0 and all(equal(d, 1) for d in have[:extra]):
        value = regroup(value, have[extra:])
        have = value._type.shape
    if len(have) > len(shape) or not all(
        structurally_equal(a, b) or equal(a, b) or equal(a, 1)
        for a, b in zip(reversed(have), reversed(tuple(shape)), strict=False)
    ):
        raise OperationError(
            f"shape mismatch: {what} of shape {format_shape(have)} cannot be broadcast to "
            f"{format_shape(shape)} (at {user_location()})"
        )
    return tensor_builder.expand_to(value, tuple(shape))


def setitem(self: Tensor, index: Any, value: Any) -> None:
    """``self[index] = value``; the value is converted to the dtype of ``self`` and broadcast."""
    if thread.trace is not None and thread.trace.picked.put_back(value, self, index):
        _assign(self, index, value)
        thread.trace.picked.note(value, self, index)
    else:
        _assign(self, index, value)


def _assign(self: Tensor, index: Any, value: Any) -> None:
    view = eager_view(self, index)
    plain = plain_indices(self, index) if view is None else None
    if plain is not None:
        source = _assigned(self, value)
        shape = (*plain[0]._type.shape, *self._type.shape[len(plain) :])
        source = fit(source, shape, "value tensor")
        if not put_in_place(self, source, *plain):
            _put(self, source, *plain)
        return
    if view is not None and (copied if isinstance(value, Tensor) else filled)(view, value):
        return
    if is_number(value) and is_whole_mask(self, index):
        source = _assigned(self, value)
        if not filled_in_place(self, index, source):
            _fill(self, index, source)
        return
    selection = select(self, index) if view is None else Selection(view, [])
    source = _assigned(self, value)
    if selection.is_basic:
        write(selection.view, fit(source, selection.view._type.shape, "value tensor"), "setitem")
        return
    masked = _mask_assignment(selection, source)
    if masked is not None:
        if not filled_in_place(selection.view, *masked):
            _fill(selection.view, *masked)
        return
    found = gathered(selection)
    rest = found.view._type.shape[len(found.indices) :]
    shape = (*found.index_shape, *rest)
    axes = found.result_axes()
    source = fit(source, tuple(shape[a] for a in axes), "value tensor")
    if axes != tuple(range(len(axes))):
        back = sorted(range(len(axes)), key=axes.__getitem__)
        source = apply_named("permute", source, axes=tuple(back))
    if not put_in_place(found.view, source, *found.indices):
        _put(found.view, source, *found.indices)


def _put(view: Tensor, source: Tensor, *indices: Tensor) -> None:
    write(view, apply_named("index_put", view, source, *indices, mode="set"), "setitem")


def _fill(view: Tensor, mask: Tensor, source: Tensor) -> None:
    write(view, apply_named("where", mask, source, view), "setitem")


put_in_place, filled_in_place = InPlace(_put), InPlace(_fill)


def _mask_assignment(selection: Selection, source: Tensor) -> tuple[Tensor, Tensor] | None:
    """The only index, a mask, and what is put where it is True, both for the view's dimensions.

    None if that is not the assignment: the selected elements' number must not matter, so the value
    has size 1 along them.
    """
    given = [(i, index) for i, index in enumerate(selection.indices) if index is not None]
    if len(given) != 1 or given[0][1]._type.dtype is not bool_:
        return None
    axis, mask = given[0]
    shape = selection.view._type.shape
    covered = len(mask._type.shape)
    after = len(shape) - axis - covered
    have = source._type.shape
    if len(have) > after and not equal(have[len(have) - after - 1], 1):
        return None
    if len(have) > after:
        split = len(have) - after
        have = (*have[: split - 1], *((1,) * covered), *have[split:])
        source = regroup(source, have)
    mask = regroup(mask, (*mask._type.shape, *((1,) * after)))
    return mask, fit(source, shape, "value tensor")


TENSOR_METHODS = {"__getitem__": getitem, "__setitem__": setitem}
