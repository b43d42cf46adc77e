"""Tracing: run a Python function once and write down its operations as a Graph.

While a trace is in progress every operation passes through ``Trace.apply``.
Concrete tensors that the function meets become graph inputs, identified by the
Tensor object; writes become new values of the storage written to, so the graph
itself has no mutation. Reads of Python state are noted in ``guards.Recorder``.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec import errors
from flamec.backward_spans import BackwardSpans
from flamec.detached_histories import begin_own_history, with_own_history
from flamec.dispatch import overlap_error, view_steps, with_scalars_moved
from flamec.errors import operation_error, operation_location, user_location
from flamec.given_memory import refuse_exchange, require_unchanged
from flamec.host_numbers import settle
from flamec.ir.builder import GraphBuilder
from flamec.ir.graph import Graph, Node, Value
from flamec.ir.op import Op, OpKind
from flamec.ir.shape import Dim, SymbolicDim, equal, evaluate_dim
from flamec.ir.types import CPU, TensorType, float64
from flamec.lifting import lift
from flamec.picked_elements import PickedElements
from flamec.recomputed_parts import RecomputedParts
from flamec.roots import AliasDiscovered, Root, view_overlaps_itself
from flamec.size_oracle import SizeOracle
from flamec.sources import InputSource
from flamec.state import thread
from flamec.tape import is_detached, tape_value
from flamec.tensor import RuntimeNumber, Storage, Tensor, ViewStep
from flamec.traced_gradients import TracedGradients
from flamec.traced_hooks import TracedHooks
from flamec.traced_leaves import switch
from flamec.watching import unwatched
from flamec.write_builder import WriteBuilder
from flamec.write_through import EXPAND, with_zero_gradient, write_through

if TYPE_CHECKING:
    from flamec.common_memory import InputMemory
    from flamec.host_state import HostState
    from flamec.segments import Execution
    from flamec.tensor_attributes import TensorAttributes


class Trace:
    """A trace in progress: the graph being built and what is known about each tensor.

    Tensors remember their values by its ``serial``: parameters live longer than their traces, which
    refer to all that was captured.
    """

    _serials = itertools.count()

    gives_numbers = True  # whether item() may give a number that the program computes
    is_batch = False  # whether tensors stand for examples of a batch
    body_of = ""  # the loop or branch whose function is traced
    host: HostState | None = None  # of the trace of a compiled call
    memory: InputMemory | None = None  # there
    attributes: TensorAttributes | None = None  # that users set, there

    def __init__(self, base_storages: Sequence[Storage] = ()) -> None:
        self.serial = next(Trace._serials)
        self.builder = GraphBuilder()
        self.sources: list[InputSource] = []
        self.oracle = SizeOracle(self.apply, self.expression_of_size)
        self.roots: dict[Storage, Root] = {}
        self.picked = PickedElements(self.roots)
        self.base_storages = list(base_storages)
        self.apart: dict[Storage, Storage] = {}  # of arguments, for memory that others share
        self.tracked: set[Value] = set()
        self.leaf_tensors: dict[Value, Tensor] = {}
        self.first_values: dict[Value, Value] = {}  # of leaves, by what they were changed to
        self.cut_leaves: dict[Value, Value] = {}  # what leaves were before they were switched off
        self.late_leaves: set[Value] = set()  # switched on when they had been used
        self.gradients = TracedGradients()
        self.requires_grad_reads: dict[Tensor, bool] = {}
        self.created: list[weakref.ref[Tensor]] = []
        self.arguments: list[weakref.ref[Tensor]] = []  # what stands for them
        self.given: set[Storage] = set()  # left, eager, by their tensors (``given_memory.py``)
        self.apart_since: dict[Storage, tuple[Storage, int]] = {}  # the same, and one in eager mode
        self.scopes: list[str] = []
        self.backward_nodes: set[int] = set()
        self.backward = BackwardSpans(self.builder)
        self.value_tensors: weakref.WeakValueDictionary[Value, Tensor] = (
            weakref.WeakValueDictionary()
        )
        self.numbers: dict[Any, Tensor] = {}
        self._copied_for: dict[Storage, list[Dim]] = {}
        self.freed: set[int] = set()
        self.backwards_in_progress: list[type] = []  # of custom functions, the innermost last
        self.aliases: list[tuple[int, Tensor]] = []
        self.alias_tensors: set[Tensor] = set()
        self.sharing: dict[Tensor, InputSource] = {}  # captured ones in the memory of others
        self.exempted: set[tuple[int, Any]] = set()
        self.reads_cuda_device = self.reads_default_device = False
        self.calls_modules = self.steps_optimizers = False
        self.batch_randomness: str | None = None  # how to draw, if this is an example's trace
        self.conditions: list[tuple[Any, Any, Callable[[Any], bool], bool]] = []
        self.autocast_casts: dict[Any, Any] = {}
        self.hooks = TracedHooks(self.leaf_tensors, self.first_values)
        self.parts = RecomputedParts()
        self.constants: set[Storage] = set()
        self.execution: Execution | None = None
        self.stand_ins: list[weakref.ref[Tensor]] = []
        self._standing_in = 0
        self._writes: list[tuple[Tensor, Value]] | None = None
        self._lent: list[tuple[Storage, weakref.ref[np.ndarray]]] = []  # what numpy() gave

    # inputs -------------------------------------------------------------------
    def add_input(self, type: TensorType, source: InputSource) -> Value:
        value = self.builder.input(type, source.name or None)
        self.sources.append(source)
        return value

    def expression_of_size(self, size: SymbolicDim) -> Any:
        """What Python computes a size by before a call's program runs; None if it cannot."""
        return None if self.host is None else self.host.sizes.expression(size)

    def exempt(self, container: Any, key: Any) -> None:
        """Leave an entry unguarded: the program reads it anew at each call."""
        self.exempted.add((id(container), key))

    def number(self, container: Any, path: tuple[Any, ...], name: str) -> Tensor:
        """A zero-dimensional float64 tensor for a Python number read anew at each call."""
        key = (id(container), path)
        if key not in self.numbers:
            source = InputSource("number", container=container, path=path, name=name)
            value = self.add_input(TensorType((), float64, CPU), source)
            self.numbers[key] = RuntimeNumber.of(self.wrap(value))
        return self.numbers[key]

    def _lift(self, tensor: Tensor) -> Root:
        return lift(self, tensor)

    # values -------------------------------------------------------------------
    def root_of(self, tensor: Tensor) -> Root:
        root = self.roots.get(tensor._storage) or self._lift(tensor)
        if tensor._trace is None and root.input_position is not None:
            source = self.sources[root.input_position]
            if source.position < 0 and tensor is not source.tensor:
                if tensor not in self.sharing and tensor._storage in self.given:
                    raise refuse_exchange("a tensor is used that has the memory from before")
                self.sharing[tensor] = source
            elif source.position >= 0 and tensor not in self.alias_tensors:
                is_symbolic = any(isinstance(d, SymbolicDim) for d in root.type.shape)
                if is_symbolic or tensor._storage in self.apart.values():
                    raise AliasDiscovered(tensor._storage)  # whose sizes are known
                self.alias_tensors.add(tensor)
                self.aliases.append((source.position, tensor))
        return root

    def value_of(self, tensor: Tensor) -> Value:
        """The value that ``tensor`` has now: its storage's value seen through its view steps."""
        self.picked.read(tensor)
        root = self.root_of(tensor)
        if self.apart_since:
            require_unchanged(self, tensor)
        cached = self.known(tensor)
        if cached is not None and cached[0] == self.serial and cached[1] == root.version:
            return cached[2]
        steps = self.relative_steps(tensor, root)
        value = self.seen_through(root.value, steps)
        if steps and is_detached(steps):
            value = with_own_history(self, tensor, root, value)
        if tensor._requires_grad and value not in self.leaf_tensors:
            first = next((v for v, t in self.leaves() if t is tensor), None) if steps else None
            if first is not None:  # the memory of a leaf that is a view was written to
                value = WriteBuilder(self).overwrite(value, first)
                self.first_values[value] = first
            self.leaf_tensors[value] = tensor
            self.tracked.add(value)
        self.remember(tensor, root, value)
        return value

    def known(self, tensor: Tensor) -> tuple[int, int, Value] | None:
        """What is noted of the value of a tensor: the trace, the memory's version, the value."""
        return tensor._cached

    def seen_through(self, value: Value, steps: Sequence[ViewStep]) -> Value:
        """``value`` seen through view steps."""
        for op, attributes in steps:
            source = value
            value = self._add_node(op, (value,), attributes).output
            if source in self.tracked and op.derivative is not None:
                self.tracked.add(value)
        return value

    def remember(self, tensor: Tensor, root: Root, value: Value) -> None:
        """``value`` is what ``tensor``, a view of ``root``, has until that changes."""
        tensor._cached = (self.serial, root.version, value)
        self.value_tensors[value] = tensor

    def relative_steps(self, tensor: Tensor, root: Root) -> tuple[ViewStep, ...]:
        """The steps from ``root`` to a tensor."""
        count = len(root.steps)
        if tensor._steps[:count] != root.steps:
            raise AliasDiscovered(tensor._storage)
        return tensor._steps[count:]

    def tensor_of(self, value: Value) -> Tensor:
        """A tensor that has ``value``, for the rules of differentiation."""
        tensor = self.value_tensors.get(value)
        if tensor is not None and tensor._cached is not None and tensor._cached[2] is value:
            root = self.roots.get(tensor._storage)
            if root is not None and tensor._cached[1] == root.version:
                return tensor
        return self.wrap(value)

    def wrap(self, value: Value, storage: Storage | None = None) -> Tensor:
        """A new tensor, with a storage of its own (``storage``), whose value is ``value``."""
        tensor = Tensor._from_trace(self, value.type, storage)
        self.roots[tensor._storage] = Root((), value, value.type)
        tensor._cached = (self.serial, 0, value)
        self.value_tensors[value] = tensor
        self.created.append(weakref.ref(tensor))
        return tensor

    def fresh(self, tensor: Tensor) -> Tensor:
        """A tensor with the same value and memory of its own."""
        return self.wrap(self.value_of(tensor))

    def constant(self, tensor: Tensor) -> Tensor:
        """As ``fresh``, for a tensor that was made while tracing and that nothing else knows."""
        self.constants.add(tensor._storage)
        return self.fresh(tensor)

    def is_one(self, size: Dim) -> bool:
        """Whether a symbolic size is 1 here; guarded only if it is."""
        if not isinstance(size, SymbolicDim) or evaluate_dim(size, self.oracle.hints) != 1:
            return False
        return equal(size, 1)

    def note_copy(self, source: Tensor, copy: Tensor) -> None:
        """Remember a copy that would have been a view if a symbolic size were 1.

        That matters only if one of the two is written to, so it is guarded only then.
        """
        sizes = [d for d in source._type.shape if isinstance(d, SymbolicDim)]
        if sizes:
            for storage in (source._storage, copy._storage):
                self._copied_for.setdefault(storage, []).extend(sizes)

    def _guard_copies(self, storage: Storage) -> None:
        for size in self._copied_for.pop(storage, ()):
            equal(size, 1)

    # operations ---------------------------------------------------------------
    def apply(self, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Any:
        attributes = {key: _settled(value) for key, value in attributes.items()}
        if op.kind is OpKind.KERNEL:  # whose rule for shapes the user wrote
            return self._apply(op, inputs, attributes)
        return self._apply_unwatched(op, inputs, attributes)

    def _apply(self, op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Any:
        operands = [self.value_of(t) for t in inputs]
        try:
            node = self._add_node(op, operands, attributes)
        except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
            together = with_scalars_moved(op, inputs)
            if together is not None:
                return self.apply(op, together, attributes)
            raise operation_error(op.name, error) from error
        if (
            thread.grad_enabled
            and op.derivative is not None
            and any(v in self.tracked for v in operands)
        ):
            self.tracked.update(v for v in node.outputs if v.type.dtype.is_floating_point)
        if op.kind is OpKind.VIEW or op.kind is OpKind.BARRIER:
            source = inputs[0]
            steps = view_steps(source, op, attributes, node.output.type)
            tensor = Tensor._from_trace(self, node.output.type, source._storage, steps)
            tensor._cached = (self.serial, self.roots[source._storage].version, node.output)
            self.value_tensors[node.output] = tensor
            self.created.append(weakref.ref(tensor))
            return tensor
        outputs = tuple(self.wrap(v) for v in node.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    _apply_unwatched = unwatched(_apply)

    def _add_node(self, op: Op, inputs: Sequence[Value], attributes: Mapping[str, Any]) -> Node:
        if not self.backward.is_open:
            self.builder.location = operation_location() if op.may_report else user_location()
            self.builder.scope = ".".join(self.scopes)
        return self.builder.add_node(op, inputs, attributes)

    @unwatched
    def write(self, target: Tensor, source: Tensor, name: str) -> Tensor:
        """Give ``target``'s storage the value it has after ``source`` is stored through it."""
        self._guard_copies(target._storage)
        self.picked.write(target)
        self.gradients.use(target)  # a backward pass that comes after the call may need the old one
        if view_overlaps_itself(target, self.oracle.hints):
            raise overlap_error(name)
        for size in (d for op, a in target._steps if op is EXPAND for d in a["shape"]):
            self.is_one(size)  # another size may be an error
        root = self.root_of(target)
        source_value, old = self.value_of(source), self.value_of(target)
        steps = self.relative_steps(target, root)
        builder = WriteBuilder(self)
        detached = is_detached(steps)
        tracking = thread.grad_enabled and not detached
        # a value of its own, so that the target's gradient is not the source's
        if tracking:
            value = builder.convert(source_value, dtype=source_value.type.dtype)
        else:
            value = builder.detach(source_value)
        if not steps:
            new = builder.expand_to(value, root.type.shape)
        else:
            new = write_through(builder, root.value, steps, value)
        forgets = value not in self.tracked or name == "copy_"
        if tracking and not steps and old in self.tracked and forgets:
            new = with_zero_gradient(builder, new, old)
        if tracking:
            if value in self.tracked or old in self.tracked or root.value in self.tracked:
                self.tracked.add(new)
        elif root.value in self.tracked:
            new = builder.overwrite(new, root.value)
        before = root.value
        self.hold(target, new)
        if detached and thread.grad_enabled:
            begin_own_history(self, target, root, before, source_value)
        return target

    def hold(self, target: Tensor, value: Value) -> None:
        """``target``'s memory holds ``value`` from now on, the new value of its storage."""
        if target._storage in self.apart or target._storage in self.apart.values():
            raise AliasDiscovered(target._storage)
        if any(of is target._storage and array() is not None for of, array in self._lent):
            raise errors.Uncompiled(
                "it writes to a tensor whose memory an array of numpy() shares, which it still has "
                f"(at {user_location()}; take a copy, numpy().copy())"
            )
        root = self.root_of(target)
        if root.input_position is not None and self.memory is not None:
            self.memory.write(root.input_position)
        leaf = self.leaf_tensors.get(root.value)
        if leaf is not None:  # gradients flow on to its first value, where they are summed
            self.leaf_tensors[value] = leaf
            self.first_values[value] = self.first_values.get(root.value, root.value)
            self.tracked.add(value)
        root.value = value
        root.version += 1
        root.written = True
        root.writer = user_location()
        if not self.relative_steps(target, root):
            self.remember(target, root, value)
        if self._writes is not None:
            self._writes.append((target, value))

    @contextmanager
    def writes_noted(self) -> Iterator[list[tuple[Tensor, Value]]]:
        """A list that gets what is written in the block: targets, and new values of their
        storages."""
        outer, self._writes = self._writes, []
        try:
            yield self._writes
        finally:
            if outer is not None:
                outer += self._writes
            self._writes = outer

    # autograd -----------------------------------------------------------------
    def is_tracked(self, tensor: Tensor) -> bool:
        if tensor._trace is None:
            self.requires_grad_reads.setdefault(tensor, tensor._requires_grad)
        if tensor._requires_grad:
            return True
        if tensor._storage not in self.roots and tensor._trace is None:
            return tape_value(tensor) is not None
        return self.value_of(tensor) in self.tracked

    def mark_leaf(self, tensor: Tensor) -> None:
        value = self.value_of(tensor)
        self.leaf_tensors[value] = tensor
        self.tracked.add(value)

    def switch_leaf(self, tensor: Tensor, flag: bool) -> None:
        """``requires_grad`` of a leaf becomes another (``traced_leaves.py``)."""
        switch(self, tensor, flag)
        if flag:
            self.mark_leaf(tensor)

    def leaves(self) -> Iterator[tuple[Value, Tensor]]:
        """The leaves by their first values, where their gradients are complete."""
        return iter([(v, t) for v, t in self.leaf_tensors.items() if v not in self.first_values])

    def autograd_value(self, tensor: Tensor) -> Value:
        """The value whose gradient is the tensor's: of a leaf changed in place, the first."""
        value = self.value_of(tensor)
        return self.first_values.get(value, value)

    # values in Python -----------------------------------------------------------
    def read_value(self, tensor: Tensor, what: str, recurs: bool = False) -> Any:
        """The array of a tensor's values, by running what has been traced so far.

        DataDependentError where nothing may be run: ``fullgraph``, vmap, stand-ins for gradients.
        ``recurs``: see ``segments.Decision``.
        """
        if (number := settle(tensor)) is not None:
            return np.array(number)
        value = self.value_of(tensor)
        execution = self.execution
        if execution is None or self._standing_in or execution.depends_only_on_numbers(value):
            raise errors.unknown_value(what, self.is_batch, self.body_of)
        return execution.read(value, what, user_location(), recurs)

    def lend(self, tensor: Tensor, values: np.ndarray) -> np.ndarray:
        """The array that ``numpy()`` gives, a copy that must not live on when the tensor's memory
        is written."""
        array = np.array(values, copy=True)
        array.flags.writeable = False
        self._lent.append((tensor._storage, weakref.ref(array)))
        return array

    def can_read(self) -> bool:
        """Whether values can be had here: the function may be split."""
        return self.execution is not None and not self._standing_in

    def live_values(self) -> list[Value]:
        """The values of the memory of all tensors of the trace that are still alive."""
        alive = (ref() for ref in self.created)
        storages = dict.fromkeys(t._storage for t in alive if t is not None)
        written = (
            r.value for r in self.roots.values() if r.written and r.input_position is not None
        )
        return [*(self.roots[s].value for s in storages if s in self.roots), *written]

    @contextmanager
    def without_values(self) -> Iterator[None]:
        """In the block tensors stand for gradients to come: they have no values."""
        first = len(self.created)
        self._standing_in += 1
        try:
            yield
        finally:
            self._standing_in -= 1
            self.stand_ins += self.created[first:]

    def escaped(self, keep: set[int]) -> list[Tensor]:
        """Tensors of this trace that are still alive and not in ``keep`` (ids)."""
        alive = (ref() for ref in self.created)
        return [t for t in alive if t is not None and id(t) not in keep]

    def release(self) -> None:
        """Let go of the tensors of the traced call; what the program needs is kept elsewhere."""
        self.roots.clear()
        self.parts.release()
        self.picked.clear()
        self.numbers.clear()
        self.gradients.release()
        self.leaf_tensors.clear()
        self.hooks.release()
        self.base_storages.clear()
        self.apart.clear()
        self.memory = None
        self._lent.clear()
        self.execution = None

    def build(self, outputs: Sequence[Value], name: str) -> Graph:
        """The finished graph; writes to inputs become its updates."""
        updates = {
            root.input_position: root.value
            for root in self.roots.values()
            if root.written and root.input_position is not None
        }
        return self.builder.build(outputs, updates, name)


def _settled(attribute: Any) -> Any:
    """An attribute of an operation with the number itself for one that varies."""
    if isinstance(attribute, tuple):
        return tuple(map(_settled, attribute)) if attribute else attribute
    return attribute.read() if isinstance(attribute, RuntimeNumber) else attribute
