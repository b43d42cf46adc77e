"""Arithmetic in place on a GPU, straight into the tensor's memory.

In: a function of two operands, such as ``add``, and the operands, of which the first is to receive
the result. Out: whether it has; if not, nothing has happened, and the caller computes into new
memory and stores that (``dispatch.write``), with all checks and errors. Invariant: the kernel reads
and writes each element of the tensor at one place, and no other operand shares memory with it,
unless all of it in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.device_array import DeviceArray
from flamec.errors import user_location
from flamec.functional import arithmetic
from flamec.functional.promotion import constant, is_number, result_dtype
from flamec.ir.op import Op, lookup
from flamec.state import process, thread
from flamec.tensor import Tensor

_OPS: dict[Callable[..., Tensor], Op] = {
    arithmetic.add: lookup("add"),
    arithmetic.sub: lookup("sub"),
    arithmetic.mul: lookup("mul"),
    arithmetic.div: lookup("div"),
    arithmetic.true_divide: lookup("div"),
}
_SCALED = (arithmetic.add, arithmetic.sub)  # have a factor alpha

Direct = Callable[..., bool]


def direct_form(function: Callable[..., Tensor]) -> Direct | None:
    """What tries to compute a function in place, with its arguments; None if nothing does."""
    op = _OPS.get(function)
    if op is None:
        return None
    scaled = function in _SCALED

    def direct(target: Tensor, *args: Any, **kwargs: Any) -> bool:
        if target._array.__class__ is not DeviceArray or len(args) != 1 or thread.trace is not None:
            return False
        if not kwargs:
            return _computed(op, target, args[0], None)
        alpha = kwargs.get("alpha")
        if (
            not scaled
            or len(kwargs) != 1
            or not (alpha.__class__ is float or alpha.__class__ is int)
        ):
            return False
        return _computed(op, target, args[0], None if alpha == 1 else alpha)

    return direct


def _computed(op: Op, target: Tensor, other: Any, alpha: float | None) -> bool:
    dtype = target._type.dtype
    if not dtype.is_floating_point or process.anomaly is not None:
        return False
    if not isinstance(other, Tensor):
        if dtype.is_half or not is_number(other) or result_dtype(target, other) is not dtype:
            return False
        other = constant(other, dtype, target._type.device)
    elif other._type.dtype is not dtype or other._type.device != target._type.device:
        return False
    if thread.grad_enabled and (_may_be_tracked(target) or _may_be_tracked(other)):
        return False
    if alpha is None:
        done = _into_target(op, (target, other), target._array)
    elif dtype.is_half:
        return False
    else:
        factor = constant(alpha, dtype, target._type.device)
        done = arithmetic.with_factor_into(op.name, target, other, factor, dtype)
    if done:
        storage = target._storage
        storage.version += 1
        storage.writer = user_location()
    return done


def _may_be_tracked(tensor: Tensor) -> bool:
    storage = tensor._storage
    return tensor._requires_grad or tensor._value is not None or storage.value is not None


def _into_target(op: Op, inputs: Sequence[Tensor], array: DeviceArray) -> bool:
    from flamec import gpu_eager

    return gpu_eager.run_into(op, inputs, array)
