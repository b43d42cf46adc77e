"""Eager mode on a GPU: each operation is a program of its own, shared by all sizes.

In: an operation and arrays. Out: new arrays. The operation becomes a graph of one node, and of
the views by which its operands lie in memory, whose sizes are symbols; it goes through the same
fusion, code generation and cache as compiled functions. Two calls share a program if the same
of their sizes are equal, 0, 1 or multiples of 16, and if their sizes fall into the same buckets.
Operands that are neither dense, permuted nor broadcast are copied first.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flamec.constant_arrays import ConstantArray
from flamec.device_array import DeviceArray, Shape
from flamec.errors import operation_error
from flamec.gpu import Gpu, gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.evaluate import run_op
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind, lookup
from flamec.ir.passes.place import on_one_device
from flamec.ir.shape import evaluate_shape
from flamec.ir.shape_oracle import Undecidable, using_oracle
from flamec.ir.types import CPU, Device, DType, TensorType
from flamec.layout import row_major
from flamec.prepared import Prepared
from flamec.state import Float32Precision, process
from flamec.strided_copy import joined
from flamec.symbolic_sizes import (
    Operand,
    Sizes,
    input_lying,
    operand,
    rounded_hints,
    with_inputs_lying,
)
from flamec.tensor import Tensor

ALIGNMENT = 16  # of the addresses that kernels are compiled for
_MOST_CALLS = 4096
_SMALL = 8  # sizes below that a rule may insist on
_CONVERT = lookup("convert")
_NARROW = 1 << 30  # elements up to which indices are 32-bit numbers
_LONGEST_LINE = 1 << 31  # that is sorted, see ``codegen/triton/sort_launches.py``


class EagerCall:
    """A program bound to shapes: addresses go in, and the kernels are launched."""

    __slots__ = ("_allocate", "_gpu", "copied", "program", "results", "single")

    def __init__(
        self, gpu: Gpu, invocation: Any, copied: tuple[int, ...], types: tuple[TensorType, ...]
    ) -> None:
        self._gpu = gpu
        self._allocate = gpu.runtime.allocate
        self.program = invocation.bound  # its ``launch`` may become another function
        self.copied = copied
        self.results = [_result(type) for type in types]
        self.single = self.results[0] if len(types) == 1 else None

    def run_into(self, arrays: Sequence[DeviceArray], target: DeviceArray) -> bool:
        """Run an elementwise program whose only result goes to ``target``'s memory.

        False, and nothing is done, unless each array has no gaps and shares no memory with the
        target, or all of it in its order.
        """
        address, shape = target.address, target.shape
        if self.copied or self.single is None or self.single[1] != shape:
            return False
        nbytes = self.single[2]
        addresses = []
        for array in (*arrays, target):
            start = array.address
            if not array.c_contiguous or start % ALIGNMENT:
                return False
            alike = array.shape == shape and array.dtype is target.dtype
            if start != address or not alike:
                size = nbytes if alike else array.nbytes if array.shape else array.dtype.itemsize
                end = start + size
                if start < address + nbytes and end > address:
                    return False
            addresses.append(start)
        self.program.launch(addresses)
        return True

    def run(self, arrays: Sequence[DeviceArray]) -> tuple[DeviceArray, ...]:
        """The results, for arrays of which those in ``copied`` have gaps or odd addresses."""
        addresses = [array.address for array in arrays]
        for address in addresses:
            if address % ALIGNMENT:
                break
        else:
            if not self.copied:
                return self.launch(addresses)
        gpu, dense = self._gpu, list(arrays)
        for position in self.copied:
            dense[position] = gpu.dense(dense[position])
        for position, array in enumerate(dense):
            if array.address % ALIGNMENT:
                aligned = gpu.allocate(array.shape, array.dtype)
                gpu.copy(aligned, array)
                dense[position] = aligned
        return self.launch([array.address for array in dense])

    def launch(self, addresses: list[int]) -> tuple[DeviceArray, ...]:
        """The results, given the addresses of operands that kernels can use as they are."""
        if self.single is not None:
            type, shape, nbytes = self.single
            memory = self._allocate(nbytes)
            address = memory.address
            addresses.append(address)
            self.program.launch(addresses)
            return (DeviceArray(type.device, shape, type.dtype, address, memory),)
        outputs = []
        for type, shape, nbytes in self.results:
            memory = self._allocate(nbytes)
            address = memory.address
            addresses.append(address)
            outputs.append(DeviceArray(type.device, shape, type.dtype, address, memory))
        self.program.launch(addresses)
        return tuple(outputs)


def _result(type: TensorType) -> tuple[TensorType, Shape, int]:
    """A result's type, its sizes as numbers, and its bytes; at least one."""
    shape = evaluate_shape(type.shape, {})
    return type, shape, max(1, math.prod(shape) * type.dtype.itemsize)


class _Calls:
    """A thread's calls of single operations; an invocation belongs to a thread.

    ``known``: by operation and how operands lie; ``dense``: by operation and types alone, for
    operands without gaps; ``views``: result types, shape, strides and offset in bytes of views, and
    whether they are of copies;
    ``created``: what makes arrays of one value.
    """

    def __init__(self) -> None:
        self.known: OrderedDict[Any, EagerCall] = OrderedDict()
        self.dense: dict[Any, EagerCall] = {}
        self.views: dict[Any, tuple[tuple[TensorType, ...], Shape, Shape, int, bool]] = {}
        self.created: dict[Any, ConstantArray] = {}
        self.precision = process.float32_precision

    def follow(self, precision: Float32Precision) -> None:
        """Forget calls made for another precision of float32 products."""
        self.known.clear()
        self.dense.clear()
        self.precision = precision


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.of_thread = _Calls()


_calls = _OfThread()
_programs: dict[Any, Prepared] = {}
_lock = threading.RLock()


def run_dense(op: Op, attributes: Attributes, inputs: Sequence[Tensor]) -> Any:
    """The result of an operation met before, or a tuple of them, if its operands have no gaps.

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
    call = calls.dense.get(key)
    if call is None:
        return None
    addresses = []
    for tensor in inputs:
        array = tensor._array
        address = array.address
        if not array.c_contiguous or address % ALIGNMENT:
            return None
        addresses.append(address)
    if call.single is None:
        found = zip(call.launch(addresses), call.results, strict=True)
        return tuple([Tensor._from_array(array, type) for array, (type, *_) in found])
    (array,) = call.launch(addresses)
    return Tensor._from_array(array, call.single[0])


def met(op: Op, inputs: Sequence[Tensor]) -> EagerCall | None:
    """The call of an operation without attributes that operands of these types had before."""
    calls = _calls.of_thread
    if calls.precision is not process.float32_precision:
        calls.follow(process.float32_precision)
    return calls.dense.get((op, *[t._type._number or t._type.number for t in inputs]))


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
    exact = exact_key(attributes.values())
    key = (op, device, exact, tuple([(a.shape, a.strides, a.dtype) for a in arrays]))
    calls = _calls.of_thread
    known = calls.known
    call = known.get(key)
    if call is None:
        call = known[key] = _bind(here, op, attributes, arrays, types)
        if len(known) > _MOST_CALLS:
            known.popitem(last=False)
            calls.dense.clear()
    if call.copied and op is _CONVERT and types[0].dtype is arrays[0].dtype:
        return (here.dense(arrays[0]),)  # the copy that a kernel would be given is the result
    if inputs and not call.copied and all(a.c_contiguous for a in arrays):
        short: Any = (op, *[t._type.number for t in inputs])
        calls.dense[(short, *exact) if attributes else short] = call
    return call.run(arrays)


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
    """A tensor of one value, if one like it was made before."""
    call = _calls.of_thread.created.get((op, *exact_key(attributes.values())))
    return None if call is None else Tensor._from_array(call.new(), call.type)


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


# binding ---------------------------------------------------------------------------------
def _bind(
    here: Gpu,
    op: Op,
    attributes: Attributes,
    arrays: Sequence[DeviceArray],
    types: tuple[TensorType, ...],
) -> EagerCall:
    places, copied = _places(arrays)
    results: list[Any] = [t.shape for t in types]
    if op.kind is OpKind.ELEMENTWISE:
        strides: list[Shape] = [
            row_major(a.shape) if i in copied else _steps(a) for i, a in enumerate(arrays)
        ]
        places, results = _joined([a.shape for a in arrays], strides, results)
    dtypes = [a.dtype for a in arrays]
    for least in (2, _SMALL, None):
        general = Sizes(least)
        try:
            with using_oracle(None):
                graph = _graph(general, op, attributes, places, dtypes, here.device)
                if _promised(graph, general.bindings, results):
                    break
        except (Undecidable, ValueError, TypeError):
            if least is None:  # the sizes are numbers: the error is the operation's own
                raise  # else a rule asks more of the sizes than their form tells
    most = max([math.prod(s) for s in (*(o.shape for o in places), *results)])
    if most >= _LONGEST_LINE:
        _refuse_long_lines(graph, general.bindings)
    # an elementwise operation alone has the bits that it has among others in a strict program
    strict = op.kind is OpKind.ELEMENTWISE
    return EagerCall(here, _invocation(here, graph, general.bindings, most, strict), copied, types)


def bind_graph(
    here: Gpu, graph: Graph, bindings: Mapping[str, int], arrays: Sequence[DeviceArray]
) -> EagerCall:
    """A program over symbols for arrays that lie as these do; ``bindings``: the symbols' values.

    CompileError if the program cannot be made.
    """
    places, copied = _places(arrays)
    laid_out = with_inputs_lying(graph, places)
    if len(laid_out.devices) > 1:  # numbers that the function made on the CPU
        laid_out = on_one_device(laid_out, here.device)
    most = max(math.prod(evaluate_shape(v.type.shape, bindings)) for v in graph.values())
    if most >= _LONGEST_LINE:
        try:
            _refuse_long_lines(graph, bindings)
        except ValueError as error:
            raise operation_error(graph.name, error) from error
    types = tuple(
        [v.type.with_shape(evaluate_shape(v.type.shape, bindings)) for v in graph.outputs]
    )
    return EagerCall(here, _invocation(here, laid_out, bindings, most), copied, types)


def _invocation(
    here: Gpu, graph: Graph, bindings: Mapping[str, int], most: int, strict: bool = False
) -> Any:
    """The graph's program with its sizes bound; ``most``: elements of its largest value."""
    symbols, hints = tuple(bindings), rounded_hints(bindings)
    narrow = most < _NARROW
    key: Any = (here.device, graph.fingerprint(), symbols, tuple(hints.values()), narrow)
    key = (*key, process.float32_precision, strict)
    with _lock:
        if key not in _programs:
            _programs[key] = here.prepare_operation(graph, symbols, hints, narrow, strict)
        prepared = _programs[key]
    return prepared.bind(tuple(bindings.values()))


def _refuse_long_lines(graph: Graph, bindings: Mapping[str, int]) -> None:
    """ValueError for lines that no kernel sorts; programs over symbols are made for all."""
    for node in graph.nodes:
        if node.op.kind is OpKind.SORT:
            (size,) = evaluate_shape(
                (node.inputs[0].type.shape[node.attributes["axis"]],), bindings
            )
            if size >= _LONGEST_LINE:
                raise ValueError(
                    f"a line of {size} elements is too long for a GPU, which sorts those of fewer "
                    f"than {_LONGEST_LINE}"
                )


def _places(arrays: Sequence[DeviceArray]) -> tuple[list[Operand], tuple[int, ...]]:
    """How arrays lie in memory, and which of them have gaps: those are copied before."""
    places, copied = [], []
    for position, array in enumerate(arrays):
        try:
            places.append(operand(array.shape, _steps(array)))
        except ValueError:
            copied.append(position)
            places.append(operand(array.shape, row_major(array.shape)))
    return places, tuple(copied)


def _promised(graph: Graph, bindings: Mapping[str, int], shapes: Sequence[Shape]) -> bool:
    """Whether the graph's results have these shapes."""
    return [evaluate_shape(v.type.shape, bindings) for v in graph.outputs] == list(shapes)


def _steps(array: DeviceArray) -> Shape:
    itemsize = array.dtype.itemsize
    return tuple([s // itemsize for s in array.strides])


def _joined(
    shapes: Sequence[Shape], strides: Sequence[Shape], results: Sequence[Shape]
) -> tuple[list[Operand], list[Shape]]:
    """Operands of an elementwise operation over as few dimensions as they allow."""
    shape = results[0]
    rank = len(shape)
    broadcast = []
    for have, own in zip(shapes, strides, strict=True):
        extra = rank - len(have)
        broadcast.append(
            tuple(
                0 if axis < extra or have[axis - extra] == 1 else own[axis - extra]
                for axis in range(rank)
            )
        )
    dims = joined(shape, row_major(shape), *broadcast)  # first the results' strides
    sizes = tuple(d[0] for d in dims)
    if sizes == (1,):
        return [Operand((), (), ()) for _ in shapes], [()] * len(results)
    operands = [operand(sizes, tuple(d[2 + i] for d in dims)) for i in range(len(shapes))]
    return operands, [sizes] * len(results)


# graphs over symbols ---------------------------------------------------------------------
def _graph(
    sizes: Sizes,
    op: Op,
    attributes: Attributes,
    operands: Sequence[Operand],
    dtypes: Sequence[DType],
    device: Device,
) -> Graph:
    """The operation over operands that lie as described, with symbols in place of sizes."""
    b = GraphBuilder()
    values = []
    for place, dtype in zip(operands, dtypes, strict=True):
        values.append(input_lying(b, place, TensorType(sizes.shape(place.shape), dtype, device)))
    general = {
        name: _general(sizes, value) if name in op.dimensions else value
        for name, value in attributes.items()
    }
    if op.kind is OpKind.CREATION:
        general["device"] = device
    results = b.apply(op, values, general)
    return b.build(results if isinstance(results, tuple) else (results,), name=op.name)


def _general(sizes: Sizes, value: Any) -> Any:
    return sizes.shape(value) if isinstance(value, tuple) else sizes.dim(value)
