"""What changes a tensor on a GPU without recording, straight into its memory: arithmetic, stores.

In: a function of two operands, such as ``add``, and the operands, of which the first is to receive
the result. Out: whether it has; if not, nothing has happened, and the caller computes into new
memory and stores that (``dispatch.write``), with all checks and errors. Invariant: the kernel reads
and writes each element of the tensor at one place, and no other operand shares memory with it,
unless all of it in the same order. A number is stored by a fill of the driver where elements lie
side by side; what has another dtype is converted where it is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flamec.device_array import DeviceArray
from flamec.dispatch import apply_named, write
from flamec.errors import user_location
from flamec.functional import arithmetic
from flamec.functional.promotion import constant, is_number, result_dtype, scalar_of
from flamec.fusing import InPlace
from flamec.gpu import broadcast, filling_word, gpu_of
from flamec.ir.op import Op, lookup
from flamec.state import process, thread
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.eager_programs import EagerCall

_OPS: dict[Callable[..., Tensor], Op] = {
    arithmetic.add: lookup("add"),
    arithmetic.sub: lookup("sub"),
    arithmetic.mul: lookup("mul"),
    arithmetic.div: lookup("div"),
    arithmetic.true_divide: lookup("div"),
}
_SCALED = (arithmetic.add, arithmetic.sub)  # have a factor alpha
_DIVIDE = lookup("div")
_OF_INTEGERS = frozenset(map(lookup, ("abs", "neg", "floor", "ceil", "trunc")))

Direct = Callable[..., bool]


def direct_form(function: Callable[..., Tensor]) -> Direct | None:
    """What tries to compute a function in place, with its arguments; None if nothing does."""
    primitive: Op | None = getattr(function, "primitive", None)
    if primitive is not None:
        return _direct_unary(primitive)
    op = _OPS.get(function)
    if op is None:
        return None
    scaled = function in _SCALED

    def direct(target: Tensor, *args: Any, **kwargs: Any) -> bool:
        if target._array.__class__ is not DeviceArray or len(args) != 1 or thread.trace is not None:
            return False
        alpha = None
        if kwargs:
            alpha = kwargs.get("alpha")
            kind = alpha.__class__
            if not scaled or len(kwargs) != 1 or not (kind is float or kind is int):
                return False
            if alpha == 1:
                alpha = None
        other = args[0]
        key = op, alpha is None, target._type.number, _kind_of(other)
        call = _calls.known.get(key)
        if call is not None and process.anomaly is None:
            return _again(call, target, other, alpha)
        call = _computed(op, target, other, alpha)
        if call is None:
            return False
        if key[-1] is not None:
            if len(_calls.known) >= _MOST_CALLS:
                _calls.known.clear()
            _calls.known[key] = call
        return True

    return direct


def _direct_unary(op: Op) -> Direct:
    """As ``direct_form`` for an operation on the tensor alone."""

    def direct(target: Tensor, *args: Any, **kwargs: Any) -> bool:
        if target._array.__class__ is not DeviceArray or thread.trace is not None:
            return False
        if args or kwargs or process.anomaly is not None or process.recorder is not None:
            return False
        kind = target._type.dtype.kind
        if kind == "bool" or (kind != "float" and op not in _OF_INTEGERS):
            return False
        if thread.grad_enabled and may_be_tracked(target):
            return False
        call = _gpu_eager().call_of(op, (target,))
        if call is None or not call.run_into([target._array], target._array):
            return False
        note_write(target)
        return True

    return direct


def _kind_of(operand: Any) -> Any:
    """What a program depends on of an operand: a number is one of the program's operands. None for
    what has to be looked at each time."""
    if isinstance(operand, Tensor):
        type = operand._type
        return type._number or type.number
    kind = operand.__class__
    return kind if kind is float or kind is int else None


class _OfThread(threading.local):
    """Programs that were found for operands of the same types, with and without a factor."""

    def __init__(self) -> None:
        self.known: dict[Any, EagerCall] = {}


_calls = _OfThread()
_MOST_CALLS = 4096


def _again(call: EagerCall, target: Tensor, other: Any, alpha: float | None) -> bool:
    """Run a program for operands whose types it had before."""
    type = target._type
    computed = type.dtype if type.dtype.itemsize != 2 else type.dtype.compute
    if not isinstance(other, Tensor):
        other = constant(other, computed, type.device)
    if thread.grad_enabled and (may_be_tracked(target) or may_be_tracked(other)):
        return False
    array = target._array
    arrays = [array, other._array]
    if alpha is not None:
        arrays.append(constant(alpha, computed, type.device)._array)
    if not call.run_into(arrays, array):
        return False
    note_write(target)
    return True


def note_write(target: Tensor) -> None:
    """The tensor's memory has other contents now."""
    storage = target._storage
    storage.version += 1
    storage.writer = user_location()


def _computed(op: Op, target: Tensor, other: Any, alpha: float | None) -> EagerCall | None:
    """The program that has run; None if nothing was done."""
    type = target._type
    dtype = type.dtype
    if dtype.kind == "bool" or process.anomaly is not None:
        return None
    if not dtype.is_floating_point and (op is _DIVIDE or alpha is not None):
        return None
    if not isinstance(other, Tensor):
        if not is_number(other) or isinstance(other, bool):
            return None
        if result_dtype(target, other) is not dtype:
            return None
        other = constant(other, dtype.compute, type.device)
    elif other._type.device != type.device or result_dtype(target, other) is not dtype:
        return None
    if other._type.dtype.kind == "bool":  # of which there are no differences
        return None
    if thread.grad_enabled and (may_be_tracked(target) or may_be_tracked(other)):
        return None
    inputs = [target, other]
    if alpha is not None:
        factor = constant(alpha, dtype.compute, type.device)
        inputs.append(factor)
        call = arithmetic.with_factor_call(op.name, target, other, factor, dtype)
    elif other._type.dtype is dtype and (other._type.shape or not dtype.is_half):
        call = _gpu_eager().call_of(op, inputs)
    else:
        computed = dtype if other._type.shape and type.shape else dtype.compute
        call = arithmetic.converted_call(op.name, target, other, computed)
    if call is None or not call.run_into([t._array for t in inputs], target._array):
        return None
    note_write(target)
    found: EagerCall = call
    return found


def _gpu_eager() -> Any:
    from flamec import gpu_eager

    return gpu_eager


def may_be_tracked(tensor: Tensor) -> bool:
    """Whether the tensor, or what it is a view of, may take part in autograd."""
    storage = tensor._storage
    return tensor._requires_grad or tensor._value is not None or storage.value is not None


# stores ------------------------------------------------------------------------------------
_words: dict[Any, tuple[int, int] | None] = {}  # None: the driver repeats no words so wide
_MOST_WORDS = 4096
_NUMBERS = frozenset((bool, int, float))


def filled(target: Tensor, value: Any) -> bool:
    """Store a number; RuntimeError if the dtype has no such number."""
    array, kind = target._array, value.__class__
    if array.__class__ is not DeviceArray or kind not in _NUMBERS or _is_seen(target):
        return False
    dtype = target._type.dtype
    if array.c_contiguous:
        key = value or repr(value), kind, dtype  # 0.0 and -0.0 are equal
        if key not in _words:
            scalar_of(value, target)
            if len(_words) >= _MOST_WORDS:
                _words.clear()
            _words[key] = filling_word(constant(value, dtype)._array)
        word = _words[key]
        if word is None or array.address % word[1]:
            return False
        nbytes = array.nbytes
        if nbytes:
            gpu_of(array).runtime.fill(array.address, word[0], nbytes, word[1])
    elif 0 in array.strides:
        return False
    else:
        number = scalar_of(value, target)._array
        gpu_of(array).copy(array, broadcast(number, array.shape))
    note_write(target)
    return True


def copied(target: Tensor, source: Tensor) -> bool:
    """Store a tensor of the same shape."""
    array, data = target._array, source._array
    if array.__class__ is not DeviceArray or data.__class__ is not DeviceArray:
        return False
    if array.shape != data.shape or array.device != data.device:
        return False
    if _is_seen(target) or (thread.grad_enabled and may_be_tracked(source)):
        return False
    if array.dtype is not data.dtype:
        return _converted(target, source)
    if array.address != data.address or array.strides != data.strides:
        if 0 in array.strides:
            return False
        gpu_of(array).copy(array, data)
    note_write(target)
    return True


def _convert(target: Tensor, source: Tensor) -> None:
    write(target, apply_named("convert", source, dtype=target._type.dtype))


_converted = InPlace(_convert)


def _is_seen(target: Tensor) -> bool:
    """Whether somebody is to know of the change but who reads the tensor."""
    if thread.trace is not None or process.recorder is not None:
        return True
    return thread.grad_enabled and may_be_tracked(target)
