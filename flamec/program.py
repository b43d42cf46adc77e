"""A compiled variant of a function: its check, its runnable, and the call itself.

The call path does as little Python work as it can: fill in addresses, run,
wrap the outputs.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from operator import attrgetter, is_
from sys import getrefcount
from typing import Any

import numpy as np

from flamec.assumptions import build_check
from flamec.capture import Captured, GradEffect, Result, evaluate_size
from flamec.dispatch import Leaf, TapeNode, apply
from flamec.guard_code import Check
from flamec.ir.graph import Value
from flamec.ir.op import lookup
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import DType, TensorType
from flamec.prepared import DeviceMemory, Invocation, Prepared
from flamec.stages import Stages
from flamec.structures import unflatten
from flamec.tensor import Storage, Tensor, ViewStep
from flamec.trace import InputSource

MAX_BOUND_SIZES = 64
Copied = tuple[int, Any, Any]  # graph input, the caller's array, its dense copy
_array_of = attrgetter("_array")

# What getrefcount says of a gradient that nobody else holds: the tensor is known to its slot,
# to its target, to a local variable and to the call; the storage to the tensor and the call;
# the array to the tensor, the storage and the call.
_TENSOR_REFERENCES, _STORAGE_REFERENCES, _ARRAY_REFERENCES = 4, 2, 3


class Program:
    """One traced and compiled variant.

    ``check(args, kwargs)`` gives ``(leaves, sizes)`` if every assumption holds, else
    False; ``run(leaves, sizes)`` executes. ``prepared`` has the stages for inspection.
    """

    def __init__(self, captured: Captured, prepared: Prepared) -> None:
        self.captured = captured
        self.prepared = prepared
        self.check: Check = build_check(captured)
        self._local = _ThreadLocal()
        graph = captured.graph
        self._arguments: list[tuple[int, int]] = []
        self._argument_bases: list[tuple[int, int]] = []
        self._owners: list[Tensor | _BaseOwner] = []
        self._owner_positions: list[int] = []
        self._numbers: list[tuple[int, DType, Any, int]] = []
        for position, source in enumerate(captured.sources):
            if source.kind == "argument":
                self._arguments.append((position, source.position))
            elif source.kind == "base" and source.position >= 0:
                self._argument_bases.append((position, source.position))
            elif source.kind == "number":
                dtype = graph.inputs[position].type.dtype
                self._numbers.append((position, dtype, source.read, source.position))
            else:
                owner = source.tensor
                self._owners.append(_BaseOwner(source.storage) if owner is None else owner)
                self._owner_positions.append(position)
        self._updates = [
            (p, captured.sources[p].position, _storage_of(captured.sources[p]))
            for p in sorted(graph.updates)
        ]
        self._grads = [GradSlot(e) for e in captured.grads]
        self._slots = {s.result.position: s for s in self._grads if s.result.kind == "fresh"}
        self._outputs = [(i, self._slots.get(i)) for i in range(len(graph.outputs))]
        self._freed = _freed_value(captured)
        self._single = _single_fresh(captured)
        captured.arguments = [None if isinstance(a, Tensor) else a for a in captured.arguments]

    @property
    def stages(self) -> Stages:
        """The program's stages as text, by name."""
        return Stages(self.prepared)

    # running ------------------------------------------------------------------
    def run(self, leaves: tuple[Any, ...], sizes: tuple[int, ...]) -> Any:
        tensors = self.execute(leaves, sizes)
        return self.assemble(leaves, sizes, tensors)

    def execute(self, leaves: tuple[Any, ...], sizes: tuple[int, ...]) -> list[Tensor]:
        """Run the program; the graph's outputs as tensors of their own."""
        bound = self._local.bound.get(sizes)
        if bound is None:
            bound = self._bind(sizes)
        invocation, memory = bound.invocation, self.prepared.memory
        copied: list[Copied] = []
        if not all(map(is_, map(_array_of, self._owners), bound.arrays)):
            self._set_owners(bound, copied)
        for position, leaf in self._arguments:
            array = leaves[leaf]._array
            if array is bound.argument_arrays[leaf]:
                continue
            if array.flags.c_contiguous:
                bound.argument_arrays[leaf] = array
                invocation.set_input(position, array)
            else:
                bound.argument_arrays[leaf] = None
                _set_copy(memory, invocation, position, array, copied)
        for position, leaf in self._argument_bases:
            array = leaves[leaf]._storage.base
            if array.flags.c_contiguous:
                invocation.set_input(position, array)
            else:
                _set_copy(memory, invocation, position, array, copied)
        for (_, _, read, leaf), cell in zip(self._numbers, bound.cells, strict=True):
            memory.write_number(cell, read() if read is not None else leaves[leaf])
        tensors = []
        for position, slot in self._outputs:
            tensor = None if slot is None else slot.reusable(bound)
            if tensor is None:
                type = bound.types[position]
                array = memory.empty(type)
                invocation.set_output(position, array)
                tensor = Tensor._from_array(array, type)
                if slot is not None:
                    slot.bound = bound
            tensors.append(tensor)
        invocation.run()
        for position, array, dense in copied:
            if position in self.captured.graph.updates:
                memory.copy(array, dense)
        for _, leaf, storage in self._updates:
            (leaves[leaf]._storage if storage is None else storage).version += 1
        for slot in self._grads:
            slot.store(self, leaves, sizes, tensors)
        return tensors

    def _set_owners(self, bound: _Bound, copied: list[Copied]) -> None:
        """Pass the captured tensors' memory; strided ones as copies, anew at each call."""
        memory = self.prepared.memory
        for index, (owner, position) in enumerate(
            zip(self._owners, self._owner_positions, strict=True)
        ):
            array = owner._array
            assert array is not None
            if array.flags.c_contiguous:
                bound.arrays[index] = array
                bound.invocation.set_input(position, array)
            else:
                _set_copy(memory, bound.invocation, position, array, copied)

    def _bind(self, sizes: tuple[int, ...]) -> _Bound:
        invocation = self.prepared.bind(sizes)
        types = [v.type.with_shape(self.shape(v.type, sizes)) for v in self.captured.graph.outputs]
        cells = [self.prepared.memory.number(dtype) for _, dtype, _, _ in self._numbers]
        count = len(self.captured.arguments)
        bound = _Bound(invocation, [None] * len(self._owners), [None] * count, types, cells)
        for (position, _, _, _), cell in zip(self._numbers, cells, strict=True):
            invocation.set_input(position, cell)
        known = self._local.bound
        known[sizes] = bound
        if len(known) > MAX_BOUND_SIZES:
            known.popitem(last=False)
        return bound

    def shape(self, type: TensorType, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The concrete shape of an output for given symbol values."""
        if not self.captured.symbols:
            return type.shape  # type: ignore[return-value]
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        return tuple(evaluate_dim(d, bindings) for d in type.shape)

    # results ------------------------------------------------------------------
    def assemble(
        self, leaves: tuple[Any, ...], sizes: tuple[int, ...], tensors: list[Tensor]
    ) -> Any:
        if self._single is not None:
            return self._fresh(self.captured.results[0], tensors)
        results = [self.result(r, leaves, sizes, tensors) for r in self.captured.results]
        return unflatten(self.captured.result_structure, iter(results))

    def result(
        self, result: Result, leaves: tuple[Any, ...], sizes: tuple[int, ...], tensors: list[Tensor]
    ) -> Any:
        """The Python value of one leaf of the result."""
        kind = result.kind
        if kind == "fresh":
            tensor = self._fresh(result, tensors)
        elif kind == "argument":
            tensor = leaves[result.position]
        elif kind == "tensor":
            tensor = result.value
        elif kind == "base":
            storage = leaves[result.position]._storage if result.value is None else result.value
            tensor = Tensor._from_array(storage.base, storage.base_type, storage)
        elif kind == "size":
            return evaluate_size(result.value, dict(zip(self.captured.symbols, sizes, strict=True)))
        else:
            return result.value
        return self._replay(tensor, result.steps, sizes)

    def _fresh(self, result: Result, tensors: list[Tensor]) -> Tensor:
        tensor = tensors[result.position]
        if result.freed and self._freed is not None:
            tensor._value = tensor._storage.value = self._freed
            tensor._value_version = 0
        return tensor

    def _replay(
        self, tensor: Tensor, steps: tuple[ViewStep, ...], sizes: tuple[int, ...]
    ) -> Tensor:
        if not steps:
            return tensor
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        for op, attributes in steps:
            concrete = {k: _concrete(v, bindings) for k, v in attributes.items()}
            tensor = apply(op, (tensor,), concrete)
        return tensor


def _set_copy(
    memory: DeviceMemory, invocation: Invocation, position: int, array: Any, copied: list[Copied]
) -> None:
    """Pass a strided array as a dense copy; a change is copied back after the call."""
    dense = memory.dense(array)
    copied.append((position, array, dense))
    invocation.set_input(position, dense)


class _Bound:
    """An invocation for one choice of sizes, and which arrays it holds already."""

    __slots__ = ("argument_arrays", "arrays", "cells", "invocation", "types")

    def __init__(
        self,
        invocation: Invocation,
        arrays: list[Any],
        argument_arrays: list[Any],
        types: list[TensorType],
        cells: list[Any],
    ) -> None:
        self.invocation = invocation
        self.cells = cells
        self.arrays = arrays
        self.argument_arrays = argument_arrays
        self.types = types


class _ThreadLocal(threading.local):
    """Invocations by sizes; each thread has its own, since an invocation holds addresses."""

    def __init__(self) -> None:
        self.bound: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()


class _BaseOwner:
    """The base array of a storage, looked up like a tensor's."""

    __slots__ = ("storage",)

    def __init__(self, storage: Storage | None) -> None:
        assert storage is not None
        self.storage = storage

    @property
    def _array(self) -> np.ndarray | None:
        return self.storage.base


class GradSlot:
    """Stores one gradient after each call, in the same memory as long as nobody else holds it."""

    def __init__(self, effect: GradEffect) -> None:
        self.target = effect.target
        self.result = effect.result
        self.bound: _Bound | None = None
        self._last: Tensor | None = None

    def reusable(self, bound: _Bound) -> Tensor | None:
        """The gradient stored last, if only this slot and its target know its memory."""
        last = self._last
        if (
            last is None
            or bound is not self.bound
            or not isinstance(self.target, Tensor)
            or self.target._grad is not last
            or getrefcount(last) > _TENSOR_REFERENCES
            or getrefcount(last._storage) > _STORAGE_REFERENCES
            or getrefcount(last._array) > _ARRAY_REFERENCES
        ):
            return None
        return last

    def store(
        self,
        program: Program,
        leaves: tuple[Any, ...],
        sizes: tuple[int, ...],
        tensors: list[Tensor],
    ) -> None:
        target = self.target if isinstance(self.target, Tensor) else leaves[self.target]
        if self.result.kind == "constant":
            target._grad = self.result.value
            return
        if self.result.kind != "fresh":
            target._grad = program.result(self.result, leaves, sizes, tensors)
            return
        tensor = tensors[self.result.position]
        if tensor is self._last:
            tensor._storage.version += 1
            return
        target._grad = self._last = tensor


def _storage_of(source: InputSource) -> Storage | None:
    return source.storage if source.tensor is None else source.tensor._storage


def _concrete(value: Any, bindings: Mapping[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_concrete(v, bindings) for v in value)
    return evaluate_dim(value, bindings) if isinstance(value, SymbolicDim) else value


def _single_fresh(captured: Captured) -> int | None:
    """The output that alone, fresh and unviewed, is the function's result; None otherwise."""
    if captured.result_structure.kind is None:
        (result,) = captured.results
        if result.kind == "fresh" and not result.steps:
            return result.position
    return None


def _freed_value(captured: Captured) -> Value | None:
    """An autograd value whose history was consumed by a backward() inside the program."""
    if not any(r.freed for r in captured.results):
        return None
    type = captured.graph.outputs[0].type
    source = Leaf(Tensor._from_array(np.zeros((), type.dtype.numpy)))
    node = TapeNode(lookup("mul"), (source, source), {}, None, (type,))
    (value,) = node.seal()
    node.saved = None
    return value
