"""Eager mode on a GPU: each operation is a program of its own, shared by all sizes.

In: an operation and arrays. Out: new arrays. The operation becomes a graph of one node, and of
the views by which its operands lie in memory, whose sizes are symbols; it goes through the same
fusion, code generation and cache as compiled functions. Two calls share a program if the same
of their sizes are equal, 0, 1 or multiples of 16, and if their sizes fall into the same buckets.
What makes the programs is in ``eager_programs.py``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

from flamec.constant_arrays import ConstantArray
from flamec.device_array import ALIGNMENT, DeviceArray, Shape
from flamec.eager_programs import EagerCall, bind
from flamec.gpu import Gpu, gpu
from flamec.ir.evaluate import run_op
from flamec.ir.op import Attributes, Op, OpKind
from flamec.ir.shape import evaluate_shape
from flamec.ir.types import CPU, TensorType
from flamec.state import Float32Precision, process
from flamec.tensor import Tensor

_MOST_CALLS = 4096


class _Calls:
    """A thread's calls of single operations; an invocation belongs to a thread.

    ``known``: by operation, types and how operands lie; ``views``: result types, shape, strides and
    offset in bytes of views, and whether they are of copies; ``created``: what makes arrays of one
    value.
    """

    def __init__(self) -> None:
        self.known: dict[Any, EagerCall] = {}
        self.views: dict[Any, tuple[tuple[TensorType, ...], Shape, Shape, int, bool]] = {}
        self.created: dict[Any, ConstantArray] = {}
        self.precision = process.float32_precision

    def follow(self, precision: Float32Precision) -> None:
        """Forget calls made for another precision of float32 products."""
        self.known.clear()
        self.precision = precision


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.of_thread = _Calls()


_calls = _OfThread()


def run_known(op: Op, attributes: Attributes, inputs: Sequence[Tensor]) -> Any:
    """The result of an operation met before, or a tuple of them; None if it is new.

    The short way: nothing is inferred or checked, because all was for the same types before.
    """
    calls = _calls.of_thread
    if calls.precision is not process.float32_precision:
        calls.follow(process.float32_precision)
    key: Any
    if len(inputs) == 2:  # sooner than by a list
        x, y = inputs
        key = (op, x._type._number or x._type.number, y._type._number or y._type.number)
    elif len(inputs) == 1:
        (x,) = inputs
        key = (op, x._type._number or x._type.number)
    else:
        key = (op, *[t._type._number or t._type.number for t in inputs])
    if attributes:
        key = (key, *exact_key(attributes.values()))
    addresses = []
    for tensor in inputs:
        array = tensor._array
        if array.__class__ is not DeviceArray:
            return None
        address = array.address
        if not array.c_contiguous or address % ALIGNMENT:
            key = (key, *layouts([t._array for t in inputs]))
            break
        addresses.append(address)
    call = calls.known.get(key)
    if call is None:
        return None
    arrays = (
        call.launch(addresses)
        if len(addresses) == len(inputs)
        else call.run([t._array for t in inputs])
    )
    if call.single is None:
        found = zip(arrays, call.results, strict=True)
        return tuple([Tensor._from_array(array, type) for array, (type, *_) in found])
    return Tensor._from_array(arrays[0], call.single[0])


def layouts(arrays: Iterable[DeviceArray]) -> list[Any]:
    """How arrays lie, as far as programs differ by that."""
    return [
        None if a.c_contiguous and not a.address % ALIGNMENT else (a.strides, a.address % ALIGNMENT)
        for a in arrays
    ]


def call_of(op: Op, inputs: Sequence[Tensor]) -> EagerCall | None:
    """The call of an operation without attributes, of which no result is computed yet; None where
    an operand has gaps or an odd address."""
    calls = _calls.of_thread
    if calls.precision is not process.float32_precision:
        calls.follow(process.float32_precision)
    call = calls.known.get((op, *[t._type._number or t._type.number for t in inputs]))
    if call is not None or any(layouts([t._array for t in inputs])):
        return call
    return _bound(op, {}, inputs, op.infer_types(tuple([t._type for t in inputs]), {}))


def run(
    op: Op,
    attributes: Attributes,
    inputs: Sequence[Tensor],
    types: tuple[TensorType, ...],
) -> tuple[DeviceArray, ...]:
    """Apply one operation whose result types are ``types``; views share memory where they can."""
    device = types[0].device
    arrays: list[DeviceArray] = [t._array for t in inputs]
    if op.kind is OpKind.VIEW or op.kind is OpKind.BARRIER:
        return (_view(op, attributes, arrays, types[0]),)
    here = gpu(device)
    if op.kind is OpKind.CREATION and (not types[0].shape or "value" in attributes):
        return (_created(here, op, attributes, types[0]),)
    if not any(0 not in t.shape for t in types):  # nothing to compute
        return tuple([here.allocate(evaluate_shape(t.shape, {}), t.dtype) for t in types])
    if op.kind is OpKind.HOST:
        host = [here.download(array) for array in arrays]
        return tuple([here.upload(r) for r in run_op(op, attributes, host, types)])
    return _bound(op, attributes, inputs, types).run(arrays)


def _bound(
    op: Op, attributes: Attributes, inputs: Sequence[Tensor], types: tuple[TensorType, ...]
) -> EagerCall:
    """The call for tensors of these types that lie as these do; see ``run_known``."""
    arrays: list[DeviceArray] = [t._array for t in inputs]
    key: Any = (op, *[t._type.number for t in inputs])
    if attributes:
        key = (key, *exact_key(attributes.values()))
    lying = layouts(arrays)
    if any(lying):
        key = (key, *lying)
    known = _calls.of_thread.known
    call = known.get(key)
    if call is None:
        if len(known) >= _MOST_CALLS:
            known.clear()
        call = known[key] = bind(gpu(types[0].device), op, attributes, arrays, types)
    return call


def view(
    op: Op, attributes: Attributes, source: Tensor
) -> tuple[tuple[TensorType, ...], tuple[DeviceArray, ...]]:
    """Type and array of a view of an array on a GPU, of a copy where the array has none.

    Where a view lies is computed once for all arrays of one type that lie alike. Raises what the
    operation's shape rule raises.
    """
    array: DeviceArray = source._array
    strides = None if array.c_contiguous else array.strides
    key = (op, source._type.number, strides, *exact_key(attributes.values()))
    calls = _calls.of_thread
    known = calls.views.get(key)
    if known is None:
        types = op.infer_types((source._type,), attributes)
        result = evaluate_shape(types[0].shape, {})
        made = array.view(op, attributes, result)
        copies = made is None
        if made is None:
            array = gpu(array.device).dense(array)
            made = array.view(op, attributes, result)
            assert made is not None
        if len(calls.views) >= _MOST_CALLS:
            calls.views.clear()
        place = made.shape, made.strides, made.address - array.address
        calls.views[key] = (types, *place, copies)
        return types, (made,)
    types, shape, steps, offset, copies = known
    if copies:
        array = gpu(array.device).dense(array)
    return types, (
        DeviceArray(
            array.device,
            shape,
            array.dtype,
            array.address + offset,
            array.memory,
            steps,
        ),
    )


def _created(here: Gpu, op: Op, attributes: Attributes, type: TensorType) -> DeviceArray:
    """A scalar, or one value everywhere: no program, because it would be one for each value."""
    scalar = TensorType((), type.dtype)
    plain = {**attributes, "device": CPU}
    if "shape" in plain:
        plain["shape"] = ()
    (value,) = run_op(op, plain, (), (scalar,))
    known = _calls.of_thread.created
    if len(known) >= _MOST_CALLS:
        known.clear()
    call = known[(op, *exact_key(attributes.values()))] = ConstantArray(here, type, value)
    return call.new()


def created(op: Op, attributes: Attributes) -> Tensor | None:
    """A tensor of one value, or of numbers in order, if one like it was made before."""
    calls, exact = _calls.of_thread, exact_key(attributes.values())
    call = calls.created.get((op, *exact))
    if call is not None:
        return Tensor._from_array(call.new(), call.type)
    made = calls.known.get(((op,), *exact))
    if made is None or made.single is None:
        return None
    return Tensor._from_array(made.launch([])[0], made.single[0])


def exact_key(values: Iterable[Any]) -> tuple[Any, ...]:
    """Values as parts of a key in which 1, 1.0 and True, 0.0 and -0.0 differ."""
    found = (*values,)
    kinds = (*map(type, found),)
    if float in kinds:
        found = tuple([v.hex() if v.__class__ is float else v for v in found])
    return (kinds, *found)


def _view(
    op: Op, attributes: Attributes, arrays: Sequence[DeviceArray], type: TensorType
) -> DeviceArray:
    source, shape = arrays[0], evaluate_shape(type.shape, {})
    if op.kind is OpKind.BARRIER:
        return source
    view = source.view(op, attributes, shape)
    if view is None:
        view = gpu(source.device).dense(source).view(op, attributes, shape)
        assert view is not None
    return view
