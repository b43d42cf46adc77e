"""The programs of eager mode on a GPU, over symbolic sizes, bound to arrays that lie in one way.

In: an operation or a graph, and arrays. Out: ``EagerCall``. How operands lie in memory is part of
the program (``symbolic_sizes.Operand``): where elements are read one by one they may have gaps and
any address, also what a program writes in place; operands of matrix products and sorts are copied
before if they are neither dense, permuted nor broadcast.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from flamec.device_array import ALIGNMENT, DeviceArray, Shape
from flamec.errors import OperationError, operation_error
from flamec.gpu import Gpu
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph
from flamec.ir.op import Attributes, Op, OpKind
from flamec.ir.passes.place import on_one_device
from flamec.ir.shape import evaluate_shape
from flamec.ir.shape_oracle import Undecidable, using_oracle
from flamec.ir.types import Device, DType, TensorType
from flamec.layout import row_major
from flamec.prepared import Prepared
from flamec.state import process
from flamec.strided_copy import joined
from flamec.symbolic_sizes import (
    Lying,
    Operand,
    Sizes,
    operand,
    rounded_hints,
    with_inputs_lying,
)

_SMALL = 8  # sizes below that a rule may insist on
_NARROW = 1 << 30  # elements up to which indices are 32-bit numbers
_BY_ELEMENT = frozenset(  # kinds of operations that read their operands wherever they lie
    {
        OpKind.ELEMENTWISE, OpKind.REDUCTION, OpKind.VIEW, OpKind.ASSEMBLE, OpKind.CREATION,
        OpKind.RANDOM, OpKind.GATHER, OpKind.SCATTER, OpKind.SCAN, OpKind.BARRIER,
        OpKind.REQUIREMENT,
    }
)  # fmt: skip

_programs: dict[Any, Prepared] = {}
_lock = threading.RLock()


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
        """The results, for arrays that lie as those did for which the program was made."""
        if self.copied:
            arrays = list(arrays)
            for position in self.copied:
                array = arrays[position]
                arrays[position] = dense = self._gpu.allocate(array.shape, array.dtype)
                self._gpu.copy(dense, array)
        return self.launch([array.address for array in arrays])

    def launch(self, addresses: list[int]) -> tuple[DeviceArray, ...]:
        """The results, given the addresses of operands that need not be copied."""
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


def bind(
    here: Gpu,
    op: Op,
    attributes: Attributes,
    arrays: Sequence[DeviceArray],
    types: tuple[TensorType, ...],
) -> EagerCall:
    """A program of one operation, whose results have these types, for arrays that lie as these
    do."""
    lying = _Places(arrays, op.kind in _BY_ELEMENT)
    places = lying.places
    results: list[Any] = [t.shape for t in types]
    if op.kind is OpKind.ELEMENTWISE:
        places, results = _joined([a.shape for a in arrays], lying.strides, results)
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
    # an elementwise operation alone has the bits that it has among others in a strict program
    strict = op.kind is OpKind.ELEMENTWISE
    sizes = general.bindings
    prepared = _prepared(here, graph, sizes, most, lying.unaligned, strict)
    return EagerCall(here, prepared.bind(tuple(sizes.values())), lying.copied, types)


def bind_graph(
    here: Gpu,
    graph: Graph,
    bindings: Mapping[str, int],
    arrays: Sequence[DeviceArray],
    anywhere: bool = True,
) -> EagerCall:
    """A program over symbols for arrays that lie as these do; ``bindings``: the symbols' values.

    ``anywhere``: see ``_Places``. CompileError if the program cannot be made; OperationError if it
    does not serve the sizes.
    """
    anywhere = anywhere and all(node.op.kind in _BY_ELEMENT for node in graph.nodes)
    lying = _Places(arrays, anywhere)
    gaps = Sizes(2, "gap")
    laid_out = with_inputs_lying(graph, lying.places, gaps)
    if len(laid_out.devices) > 1:  # numbers that the function made on the CPU
        laid_out = on_one_device(laid_out, here.device)
    most = max(math.prod(evaluate_shape(v.type.shape, bindings)) for v in graph.values())
    types = tuple(
        [v.type.with_shape(evaluate_shape(v.type.shape, bindings)) for v in graph.outputs]
    )
    sizes = {**bindings, **gaps.bindings}
    prepared = _prepared(here, laid_out, sizes, most, lying.unaligned)
    for position in graph.updates:  # what is in gaps is not the program's
        gapped, plan = lying.places[position].rows is not None, prepared.plan
        if gapped and plan is not None and plan.copies_into(position):
            return bind_graph(here, graph, bindings, arrays, anywhere=False)
    try:
        invocation = prepared.bind(tuple(sizes.values()))
    except OperationError as error:  # of sizes, which no program serves
        raise operation_error(graph.name, error) from error
    return EagerCall(here, invocation, lying.copied, types)


def _prepared(
    here: Gpu,
    graph: Graph,
    bindings: Mapping[str, int],
    most: int,
    unaligned: tuple[int, ...],
    strict: bool = False,
) -> Any:
    """The graph's program, to be bound to the values of ``bindings``.

    ``most``: elements of its largest value; ``unaligned``: inputs at any addresses.
    """
    symbols, hints = tuple(bindings), rounded_hints(bindings)
    narrow = most < _NARROW
    key: Any = (here.device, graph.fingerprint(), symbols, tuple(hints.values()), narrow)
    key = (*key, process.float32_precision, unaligned, strict)
    with _lock:
        if key not in _programs:
            found = here.prepare_operation(graph, symbols, hints, narrow, strict, unaligned)
            _programs[key] = found
        return _programs[key]


class _Places:
    """How arrays lie in memory: ``strides`` in elements, ``copied``: which are to be copied before,
    ``unaligned``: which have addresses that are not multiples of 16.

    ``anywhere``: whether those with gaps and such addresses need not be copied.
    """

    def __init__(self, arrays: Sequence[DeviceArray], anywhere: bool) -> None:
        self.places: list[Operand] = []
        self.strides: list[Shape] = []
        copied, unaligned = [], []
        for position, array in enumerate(arrays):
            shape, strides = array.shape, tuple([s // array.itemsize for s in array.strides])
            odd = bool(array.address % ALIGNMENT)
            place: Operand | None = None
            with contextlib.suppress(ValueError):
                place = operand(shape, strides)
            if place is None or ((odd or place.rows is not None) and not anywhere):
                copied.append(position)
                strides, odd = row_major(shape), False
                place = operand(shape, strides)
            if odd:
                unaligned.append(position)
            self.places.append(place)
            self.strides.append(strides)
        self.copied, self.unaligned = tuple(copied), tuple(unaligned)


def _promised(graph: Graph, bindings: Mapping[str, int], shapes: Sequence[Shape]) -> bool:
    """Whether the graph's results have these shapes."""
    return [evaluate_shape(v.type.shape, bindings) for v in graph.outputs] == list(shapes)


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
        return [Operand((), ()) for _ in shapes], [()] * len(results)
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
        type = TensorType(sizes.shape(place.shape), dtype, device)
        values.append(Lying(b, place, type, sizes).value)
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
