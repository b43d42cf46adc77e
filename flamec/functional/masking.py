"""Reads and writes where a mask is True, and where elements are not zero.

``masked_select`` and ``nonzero`` have results whose size depends on values; a compiled function is
split where it is known. Many elements on a GPU are looked at there (``true_places``), few by the
host.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flamec.conversion import constant_array
from flamec.dispatch import apply_named, tensor_builder
from flamec.errors import OperationError, user_location
from flamec.functional.arguments import public
from flamec.functional.gathering import require_same_dtype, single_value
from flamec.functional.indexing import filled_in_place
from flamec.functional.primitives import ops
from flamec.functional.promotion import require_tensor
from flamec.functional.shape import broadcast_tensors, clone, ravel, regroup, reshaped
from flamec.functional.true_places import (
    finds_places,
    is_large_mask,
    true_elements,
    true_places,
    unravelled,
    unravelled_rows,
)
from flamec.fusing import fused
from flamec.ir.shape import less, product
from flamec.ir.types import bool_, int64
from flamec.state import thread
from flamec.tensor import Tensor
from flamec.values import concrete_array, truth


def _as_mask(name: str, mask: Any) -> Tensor:
    require_tensor(name, "mask", mask)
    if mask._type.dtype is not bool_:
        raise OperationError(
            f"{name}: expected BoolTensor for mask, got {mask._type.dtype.name} "
            f"(at {user_location()})"
        )
    return mask


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """``value`` (a number or zero-dimensional tensor) where ``mask`` is True, else ``input``."""
    filling = single_value("masked_fill", input, value)
    result: Tensor = apply_named("where", _as_mask("masked_fill", mask), filling, input)
    return result


def masked_fill_into(target: Tensor, mask: Tensor, value: Any) -> bool:
    """Whether ``masked_fill`` was computed into the memory of ``target``."""
    if thread.trace is not None:
        return False
    filling = single_value("masked_fill", target, value)
    return filled_in_place(target, _as_mask("masked_fill", mask), filling)


@public
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements of ``input`` where ``mask`` is True, in one dimension."""
    x, chosen = input, _as_mask("masked_select", mask)
    if input._type.shape != chosen._type.shape:
        x, chosen = broadcast_tensors(input, chosen)
    if is_large_mask(chosen):
        return true_elements(x, chosen)
    if finds_places(chosen):
        found: Tensor = apply_named("index", ravel(x), true_places(chosen))
        return found
    flags = concrete_array(chosen, "masked_select()")
    device = chosen._type.device
    places = [constant_array(p, device) for p in np.nonzero(np.atleast_1d(flags))]
    result: Tensor = apply_named("index", x if x._type.shape else regroup(x, (1,)), *places)
    return result


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy of ``input`` with the elements of ``source``, in order, where ``mask`` is True."""
    require_same_dtype("masked_scatter", input, source)
    x, chosen = broadcast_tensors(input, _as_mask("masked_scatter", mask))
    if thread.trace is None:
        count = int(np.count_nonzero(concrete_array(chosen, "masked_scatter()")))
        if less(product(source._type.shape), count):
            raise OperationError(
                f"masked_scatter: the mask has {count} True elements, source only "
                f"{product(source._type.shape)} (at {user_location()})"
            )
        if count == 0:
            return clone(x)
    running = apply_named("cumsum", tensor_builder.cast(ravel(chosen), int64), axis=0)
    return _in_order(x, chosen, source, running)


@fused()
def _in_order(x: Tensor, chosen: Tensor, source: Tensor, running: Tensor) -> Tensor:
    """``x`` with the elements of ``source``, one after the other, where ``chosen`` is True;
    ``running`` counts those."""
    b = tensor_builder
    zero = b.constant(0, running._type)
    order = b.maximum(b.sub(running, b.constant(1, running._type)), zero)
    picked = apply_named("index", ravel(source), order)
    return b.where(chosen, reshaped(picked, x._type.shape), x)


@public
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The places of the elements that are not zero: [count, rank], or one tensor a dimension."""
    if finds_places(input):
        mask = input if input._type.dtype is bool_ else ops.ne(input, 0)
        if not mask._type.shape:
            mask = regroup(mask, (1,))
            if not as_tuple:
                shape = (*true_places(mask)._type.shape, 0)
                return ops.full(value=0, shape=shape, dtype=int64, device=mask._type.device)
        found = unravelled if as_tuple else unravelled_rows
        return found(true_places(mask), mask._type.shape)
    array, device = concrete_array(truth(input), "nonzero()"), input._type.device
    if as_tuple:
        return tuple(constant_array(p, device) for p in np.nonzero(np.atleast_1d(array)))
    if not array.ndim:
        return constant_array(np.empty((int(bool(array)), 0), np.int64), device)
    return constant_array(np.ascontiguousarray(np.argwhere(array)), device)


def argwhere(input: Tensor) -> Tensor:
    """The places of the elements that are not zero, one a row."""
    result: Tensor = nonzero(input)
    return result


TENSOR_METHODS = {
    function.__name__: function
    for function in (argwhere, masked_fill, masked_scatter, masked_select, nonzero)
}

IN_PLACE = ("masked_fill", "masked_scatter")
