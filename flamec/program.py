"""A compiled variant of a function: its check, its runnable, and the call itself.

The call path does as little Python work as it can: fill in addresses, run,
wrap the outputs.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from flamec.backends import allocate
from flamec.capture import Captured, GradEffect, Result, evaluate_size
from flamec.dispatch import TapeNode, apply
from flamec.guard_code import Check, CheckBuilder
from flamec.ir.graph import Value
from flamec.ir.op import lookup
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import TensorType
from flamec.prepared import Invocation, Prepared
from flamec.state import process, thread
from flamec.structures import unflatten
from flamec.tensor import Tensor, ViewStep

MAX_BOUND_SIZES = 64


class Program:
    """One traced and compiled variant.

    ``check(args, kwargs)`` gives ``(leaves, sizes)`` if every assumption holds, else
    False; ``run(leaves, sizes)`` executes. ``prepared`` has the stages for inspection.
    """

    def __init__(self, captured: Captured, prepared: Prepared) -> None:
        self.captured = captured
        self.prepared = prepared
        self.check: Check = build_check(captured)
        self._lock = threading.Lock()
        self._bound: OrderedDict[tuple[int, ...], Invocation] = OrderedDict()
        graph = captured.graph
        self._arguments: list[tuple[int, int]] = []
        self._fixed: list[tuple[int, Any]] = []
        self._numbers: list[tuple[int, np.ndarray, Any, int]] = []
        for position, source in enumerate(captured.sources):
            if source.kind == "argument":
                self._arguments.append((position, source.position))
            elif source.kind == "number":
                cell = np.zeros((), graph.inputs[position].type.dtype.numpy)
                self._numbers.append((position, cell, source.read, source.position))
            else:
                self._fixed.append((position, source.tensor or source.storage))
        self._updated = sorted(graph.updates)
        self._output_types = [v.type for v in graph.outputs]
        self._grads = [GradSlot(e) for e in captured.grads]
        self._grad_outputs = {
            s.result.position for s in self._grads if s.result.kind == "fresh"
        }
        self._freed = _freed_value(captured)
        self._simple = _only_fresh(captured)

    # running ------------------------------------------------------------------
    def run(self, leaves: tuple[Any, ...], sizes: tuple[int, ...]) -> Any:
        outputs, tensors = self.execute(leaves, sizes)
        return self.assemble(leaves, sizes, tensors)

    def execute(
        self, leaves: tuple[Any, ...], sizes: tuple[int, ...]
    ) -> tuple[list[np.ndarray], list[Tensor]]:
        """Run the program; the graph's outputs as arrays and as tensors of their own."""
        with self._lock:
            invocation = self._bound.get(sizes)
            if invocation is None:
                invocation = self._bind(sizes)
            copied: list[tuple[int, np.ndarray, np.ndarray]] = []
            for position, leaf in self._arguments:
                array = leaves[leaf]._array
                if not array.flags.c_contiguous:
                    dense = np.ascontiguousarray(array)
                    copied.append((position, array, dense))
                    array = dense
                invocation.set_input(position, array)
            for position, owner in self._fixed:
                array = owner._array if isinstance(owner, Tensor) else owner.base
                if not array.flags.c_contiguous:
                    dense = np.ascontiguousarray(array)
                    copied.append((position, array, dense))
                    array = dense
                invocation.set_input(position, array)
            for position, cell, read, leaf in self._numbers:
                cell[()] = read() if read is not None else leaves[leaf]
                invocation.set_input(position, cell)
            arrays = []
            for position, type in enumerate(self._output_types):
                slot = self._slot_of(position)
                array = None if slot is None else slot.reusable()
                if array is None:
                    array = allocate(type, self._shape(type, sizes))
                invocation.set_output(position, array)
                arrays.append(array)
            invocation.run()
        for position, array, dense in copied:
            if position in self.captured.graph.updates:
                np.copyto(array, dense)
        self._bump_versions(leaves)
        tensors = [Tensor._from_array(a) for a in arrays]
        for slot in self._grads:
            slot.store(self, leaves, sizes, tensors)
        return arrays, tensors

    def _slot_of(self, position: int) -> GradSlot | None:
        if position not in self._grad_outputs:
            return None
        for slot in self._grads:
            if slot.result.kind == "fresh" and slot.result.position == position:
                return slot
        return None

    def _bind(self, sizes: tuple[int, ...]) -> Invocation:
        invocation = self.prepared.bind(sizes)
        self._bound[sizes] = invocation
        if len(self._bound) > MAX_BOUND_SIZES:
            self._bound.popitem(last=False)
        return invocation

    def _shape(self, type: TensorType, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not self.captured.symbols:
            return type.shape  # type: ignore[return-value]
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        return tuple(evaluate_dim(d, bindings) for d in type.shape)

    def _bump_versions(self, leaves: tuple[Any, ...]) -> None:
        for position in self._updated:
            source = self.captured.sources[position]
            if source.kind == "argument":
                storage = leaves[source.position]._storage
            elif source.tensor is not None:
                storage = source.tensor._storage
            else:
                assert source.storage is not None
                storage = source.storage
            storage.version += 1

    # results ------------------------------------------------------------------
    def assemble(
        self, leaves: tuple[Any, ...], sizes: tuple[int, ...], tensors: list[Tensor]
    ) -> Any:
        results = [self.result(r, leaves, sizes, tensors) for r in self.captured.results]
        return unflatten(self.captured.result_structure, iter(results))

    def result(
        self, result: Result, leaves: tuple[Any, ...], sizes: tuple[int, ...], tensors: list[Tensor]
    ) -> Any:
        """The Python value of one leaf of the result."""
        kind = result.kind
        if kind == "fresh":
            tensor = tensors[result.position]
            if result.freed and self._freed is not None:
                tensor._value = tensor._storage.value = self._freed
                tensor._value_version = 0
        elif kind == "argument":
            tensor = leaves[result.position]
        elif kind == "tensor":
            tensor = result.value
        elif kind == "base":
            storage = result.value
            tensor = Tensor._from_array(storage.base, storage.base_type, storage)
        elif kind == "size":
            return evaluate_size(
                result.value, dict(zip(self.captured.symbols, sizes, strict=True))
            )
        else:
            return result.value
        return self._replay(tensor, result.steps, sizes)

    def _replay(
        self, tensor: Tensor, steps: tuple[ViewStep, ...], sizes: tuple[int, ...]
    ) -> Tensor:
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        for op, attributes in steps:
            concrete = {k: _concrete(v, bindings) for k, v in attributes.items()}
            tensor = apply(op, (tensor,), concrete)
        return tensor


class GradSlot:
    """Stores one gradient after each call, in the same memory as long as nobody else holds it."""

    def __init__(self, effect: GradEffect) -> None:
        self.target = effect.target
        self.result = effect.result
        self._last: Tensor | None = None
        self._baseline: tuple[int, int, int] | None = None

    def reusable(self) -> np.ndarray | None:
        """The memory of the gradient stored last, if only this slot and its target know it."""
        last = self._last
        if last is None or not isinstance(self.target, Tensor) or self.target._grad is not last:
            return None
        return last._array if _references(last) == self._baseline else None

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
        last = self._last
        if last is not None and last is target._grad and (
            last._array is tensors[self.result.position]._array
        ):
            last._storage.version += 1
            return
        target._grad = self._last = Tensor._from_array(tensors[self.result.position]._array)  # type: ignore[arg-type]
        self._baseline = None
        del last
        tensors[self.result.position] = self._last
        self._baseline = _references(self._last)


def _references(tensor: Tensor) -> tuple[int, int, int]:
    return (
        sys.getrefcount(tensor),
        sys.getrefcount(tensor._storage),
        sys.getrefcount(tensor._array),
    )


def _concrete(value: Any, bindings: Mapping[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_concrete(v, bindings) for v in value)
    return evaluate_dim(value, bindings) if isinstance(value, SymbolicDim) else value


def _only_fresh(captured: Captured) -> bool:
    return all(r.kind == "fresh" and not r.steps for r in captured.results)


def _freed_value(captured: Captured) -> Value | None:
    """An autograd value whose history was consumed by a backward() inside the program."""
    if not any(r.freed for r in captured.results):
        return None
    type = captured.graph.outputs[0].type
    node = TapeNode(lookup("mul"), (Value(type), Value(type)), {}, None, (type,))
    (value,) = node.seal()
    node.saved = None
    return value


def build_check(captured: Captured) -> Check:
    """The generated check of everything that a trace assumed."""
    b = CheckBuilder()
    b.add(f"thread.grad_enabled is {captured.grad_enabled}", "grad mode")
    b.add(f"process.default_dtype is {b.name(process.default_dtype)}", "default dtype")
    positional, keyword = captured.structure.children
    expressions = [*b.add_structure(positional, "args"), *b.add_structure(keyword, "kwargs")]
    sizes: dict[str, str] = {}
    values: list[str] = []
    storages: list[tuple[int, str]] = []
    for position, (path, leaf) in enumerate(zip(expressions, captured.arguments, strict=True)):
        if isinstance(leaf, Tensor):
            variable = f"a{position}"
            b.add_tensor(
                variable, path, leaf, captured.argument_types[position].shape, sizes
            )
            b.add(
                f"{variable}._requires_grad is {leaf._requires_grad}",
                f"{path}.requires_grad is {leaf._requires_grad}",
            )
            if not leaf._requires_grad:
                _add_history(b, variable, path, leaf)
            storages.append((position, variable))
            values.append(variable)
        else:
            values.append(path)
            if position in captured.number_arguments:
                b.add(f"type({path}) is {b.name(type(leaf))}", f"{path} is a {type(leaf).__name__}")
            else:
                b.add_constant(path, leaf)
    _add_aliasing(b, captured, storages)
    for guard in captured.shape_guards:
        text = str(guard).replace("//", "//")
        b.add(f"({text})", str(guard))
    for guard in captured.guards:
        b.add_guard(guard)
    _add_captured(b, captured)
    ordered = ", ".join(_size_text(s, sizes) for s in captured.symbols)
    result = f"(({_tuple(values)}), ({ordered}{',' if ordered else ''}))"
    return b.build(result)


def _tuple(values: list[str]) -> str:
    return ", ".join(values) + ("," if values else "")


def _size_text(symbol: str, sizes: Mapping[str, str]) -> str:
    return sizes.get(symbol, symbol)


def _add_history(b: CheckBuilder, variable: str, path: str, leaf: Tensor) -> None:
    if leaf.requires_grad:
        b.add(f"{variable}.requires_grad", f"{path} requires grad")
    else:
        b.add(
            f"(({variable}._value is None and {variable}._storage.value is None)"
            f" or not {variable}.requires_grad)",
            f"{path} does not require grad",
        )


def _add_aliasing(b: CheckBuilder, captured: Captured, storages: list[tuple[int, str]]) -> None:
    leaves = captured.arguments
    for i, (position, variable) in enumerate(storages):
        for other, earlier in storages[:i]:
            same = leaves[position]._storage is leaves[other]._storage
            b.add(
                f"{variable}._storage is {'' if same else 'not '}{earlier}._storage",
                f"arguments {other} and {position} {'share' if same else 'do not share'} memory",
            )
        if any(leaves[position]._storage is leaves[o]._storage for o, _ in storages if o != position):
            steps = b.name(leaves[position]._steps)
            base = b.name(leaves[position]._storage.base_type)
            b.add(
                f"{variable}._steps == {steps} and {variable}._storage.base_type == {base}",
                f"argument {position} views its memory the same way",
            )
    fixed = [
        s.tensor._storage if s.tensor is not None else s.storage
        for s in captured.sources
        if s.kind in ("captured", "base") and (s.tensor is not None or s.storage is not None)
    ]
    aliased = {id(t._storage) for _, t in captured.aliases}
    argument_storages = {id(leaves[p]._storage) for p, _ in storages}
    fixed = [s for s in fixed if id(s) not in argument_storages]
    if fixed:
        held = b.name(frozenset(fixed))
        for position, variable in storages:
            if id(leaves[position]._storage) not in aliased:
                b.add(
                    f"{variable}._storage not in {held}",
                    f"argument {position} shares no memory with captured tensors",
                )
    for position, tensor in captured.aliases:
        b.add(
            f"a{position}._storage is {b.name(tensor)}._storage",
            f"argument {position} is the captured tensor",
        )


def _add_captured(b: CheckBuilder, captured: Captured) -> None:
    trace = captured.trace
    for source in captured.sources:
        tensor = source.tensor
        if source.kind == "captured" and tensor is not None:
            name, type = b.name(tensor), b.name(tensor._type)
            b.add(
                f"({name}._type is {type} or {name}._type == {type})",
                f"captured {source.name or 'tensor'} is {tensor._type}",
            )
            b.add(
                f"{name}._requires_grad is {tensor._requires_grad}",
                f"captured {source.name or 'tensor'}.requires_grad",
            )
    for tensor, flag in trace.requires_grad_reads.items():
        b.add(f"{b.name(tensor)}._requires_grad is {flag}", "requires_grad of a captured tensor")
    for tensor, gradient in trace.grad_reads.items():
        label = f"grad of captured {getattr(tensor, '_name', '') or 'tensor'}"
        if gradient is None:
            b.add(f"{b.name(tensor)}._grad is None", f"{label} is None")
        else:
            b.add(f"{b.name(tensor)}._grad is {b.name(gradient)}", f"{label} is the same tensor")
    for container, key, condition, expected in trace.conditions:
        b.add(
            f"bool({b.name(condition)}({b.name(container)}[{key!r}])) is {expected}",
            f"the condition on {key!r} is {expected}",
        )


