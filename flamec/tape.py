"""The eager tape: nodes that keep what derivative rules need, and the values of tensors there.

``record`` adds an operation, ``tape_value`` gives the value of a concrete tensor. A ``TapeNode`` is
an IR node with its saved tensors and the versions they had, so that a change in place is an error
in backward, never a wrong gradient.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flamec.errors import user_location
from flamec.ir import ops as _ops  # noqa: F401  (declares the primitives)
from flamec.ir.graph import Location, Node, Value
from flamec.ir.op import Op, lookup
from flamec.ir.types import CPU, TensorType, float32
from flamec.state import process, thread
from flamec.tensor import Storage, Tensor, ViewStep

DETACH: ViewStep = (lookup("detach"), {})
APART = Value(TensorType((), float32, CPU))  # a storage's, where only views cut off have histories


class Detachment(dict[str, Any]):
    """The step that cuts a view off the history of its storage; it has no attributes.

    ``value``: the history of its own that what lies behind the step, of ``base_type``, has once
    it was written to. ``traced``: the same in a trace, with the trace's serial number and the
    version of the memory.
    """

    base_type: TensorType
    value: Value | None = None
    traced: tuple[int, int, Value] | None = None


def cut_off(type: TensorType) -> ViewStep:
    """A step that cuts a view of ``type`` off the history of its storage."""
    own = Detachment()
    own.base_type = type
    return DETACH[0], own


def history_of(tensor: Tensor) -> tuple[Storage | Detachment, tuple[ViewStep, ...]]:
    """What holds the history that a tensor is part of, and the steps from there to the tensor."""
    steps = tensor._steps
    for i in range(len(steps) - 1, -1, -1):
        if steps[i][0] is DETACH[0]:
            own: Any = steps[i][1]
            return own, steps[i + 1 :]
    return tensor._storage, steps


def hold_history(storage: Storage, holder: Storage | Detachment, value: Value | None) -> None:
    """``value`` is the history of all that ``holder``, of a tensor in ``storage``, stands for."""
    holder.value = value
    if storage.value is None and value is not None:
        storage.value = APART


# histories of views that lead to a part of what they show (``written_histories.follow_part``)
PARTIAL: weakref.WeakSet[Value] = weakref.WeakSet()


class Leaf(Value):
    """The autograd value of a tensor whose gradient is accumulated in ``.grad``."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        super().__init__(tensor._type)
        self.tensor = weakref.ref(tensor)


def set_leaf(tensor: Tensor, flag: bool) -> None:
    """Let a tensor be a leaf whose gradient is accumulated from here on, or no more."""
    tensor._requires_grad = flag
    if not flag and isinstance(tensor._value, Leaf):
        if tensor._storage.value is tensor._value:
            tensor._storage.value = None
        tensor._value = None


def tape_tracked(value: Value) -> bool:
    """Whether a value is recorded on the tape."""
    return value.node.__class__ is TapeNode or value.__class__ is Leaf


class Saved:
    """A concrete value kept for a derivative rule, with the version it had."""

    __slots__ = ("array", "storage", "type", "value", "version")

    array: Any

    def __init__(self, tensor: Tensor, value: Value | None) -> None:
        self.array = tensor._array
        self.type = tensor._type
        self.storage = tensor._storage
        self.version = tensor._storage.version
        self.value = value


class Packed:
    """What a hook keeps in place of a saved tensor; see ``autograd/saved_tensors.py``."""

    __slots__ = ("_packed", "_unpack", "type", "value")

    def __init__(self, tensor: Tensor, value: Value | None) -> None:
        assert thread.saved_hooks is not None
        pack, self._unpack = thread.saved_hooks
        steps = (cut_off(tensor._type),)
        plain = Tensor._from_array(tensor._array, tensor._type, tensor._storage, steps)
        hooks, grad_enabled = thread.saved_hooks, thread.grad_enabled
        thread.saved_hooks, thread.grad_enabled = None, False
        try:
            self._packed = pack(plain)
        finally:
            thread.saved_hooks, thread.grad_enabled = hooks, grad_enabled
        self.type = tensor._type
        self.value = value

    def open(self) -> Saved:
        """The tensor that the hook gives back."""
        tensor = self._unpack(self._packed)
        if not isinstance(tensor, Tensor):
            raise TypeError("Output of saved tensor unpack_hook expected to be a Tensor")
        return Saved(tensor, self.value)


def keep(tensor: Tensor, value: Value | None) -> Saved | Packed:
    """What the tape holds of a tensor that a derivative needs."""
    return Saved(tensor, value) if thread.saved_hooks is None else Packed(tensor, value)


class TapeNode(Node):
    """A node of the eager tape: a Node that also keeps what its derivative needs.

    It refers to its results weakly (they refer to it), so that memory is freed
    as soon as the user's last tensor is gone, without waiting for the collector.
    """

    __slots__ = ("_result_types", "_results", "_weak_results", "saved", "saved_results")

    saved: dict[Value, Saved | Packed] | None
    saved_results: dict[int, Saved | Packed]

    def __init__(
        self,
        op: Op,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any],
        location: Location | None,
        types: tuple[TensorType, ...] | None = None,
    ) -> None:
        super().__init__(op, inputs, attributes, location, "", types)
        self.saved = {}
        self.saved_results = {}

    def name(self) -> str:
        """The operation's name as programs that print ``grad_fn`` expect it: "MulBackward0"."""
        return "".join(word.capitalize() for word in self.op.name.split("_")) + "Backward0"

    @property
    def next_functions(self) -> tuple[tuple[TapeNode | AccumulateGrad | None, int], ...]:
        """For each operand, what made it and which of its results it is, as PyTorch has it.

        A leaf is made by ``AccumulateGrad``, a constant by None.
        """
        return tuple([_maker(value) for value in self.inputs])

    @property
    def outputs(self) -> tuple[Value, ...]:
        if self._results is not None:
            return self._results
        if len(self._weak_results) == 1:
            return (self._weak_results[0]() or Value(self._result_types[0], self),)
        pairs = zip(self._weak_results, self._result_types, strict=True)
        return tuple([ref() or Value(type, self, i) for i, (ref, type) in enumerate(pairs)])

    @outputs.setter
    def outputs(self, values: tuple[Value, ...]) -> None:
        self._results: tuple[Value, ...] | None = values
        self._result_types = tuple([v.type for v in values])
        self._weak_results = (*map(weakref.ref, values),)

    def seal(self) -> tuple[Value, ...]:
        """Hand the results over to their tensors; afterwards they are referred to weakly."""
        results, self._results = self.outputs, None
        return results

    def free(self) -> None:
        """Forget the saved values; a second backward through this node is an error."""
        if self.saved or self.saved_results:
            self.saved = None
            self.saved_results.clear()  # a compiled call knows it


@dataclass(frozen=True)
class AccumulateGrad:
    """The end of a history at a leaf; equal for the same leaf."""

    leaf: Leaf

    next_functions: ClassVar[tuple[tuple[Any, int], ...]] = ()

    @property
    def variable(self) -> Tensor | None:
        """The tensor whose ``.grad`` grows; None if the program has dropped it."""
        return self.leaf.tensor()

    def name(self) -> str:
        return "torch::autograd::AccumulateGrad"


def _maker(value: Value) -> tuple[TapeNode | AccumulateGrad | None, int]:
    if isinstance(value, Leaf):
        return AccumulateGrad(value), 0
    node = value.node
    return (node, value.index) if isinstance(node, TapeNode) else (None, 0)


def freed_error(node: Node) -> RuntimeError:
    """The error of a second backward pass through ``node``."""
    return RuntimeError(
        "trying to backward through the graph a second time: the values saved for "
        f"{node.op.name} (at {node.location}) were freed; pass retain_graph=True the first time"
    )


def unpack(node: TapeNode, value: Value) -> Tensor:
    """The tensor saved on the tape for ``node``'s derivative.

    Raises RuntimeError if the tape was freed, or if the memory was changed in place since.
    """
    if node.saved is None:
        raise freed_error(node)
    is_result = value.node is node
    saved = node.saved_results[value.index] if is_result else node.saved[value]
    return restore(saved, node.op.name, node.location, value if is_result else saved.value)


def restore(
    saved: Saved | Packed, name: str, location: Location | None, value: Value | None
) -> Tensor:
    """A saved tensor with the autograd value ``value``.

    Raises RuntimeError if the memory was changed in place since; ``name`` and ``location`` say
    which operation needs it.
    """
    if isinstance(saved, Packed):
        saved = saved.open()
    if saved.storage.version != saved.version:
        raise RuntimeError(
            f"one of the values needed for the gradient of {name} (at {location}), "
            f"of type {saved.type}, was changed in place at {saved.storage.writer}: it is at "
            f"version {saved.storage.version}, expected version {saved.version}"
        )
    tensor = Tensor._from_array(saved.array, saved.type, saved.storage, (cut_off(saved.type),))
    if saved.type.dtype.is_floating_point:  # positions have no gradient
        tensor._value = value
        tensor._value_version = saved.version
    return tensor


# tensors ---------------------------------------------------------------------------


def is_detached(steps: Sequence[ViewStep]) -> bool:
    """Whether a view takes no part in the autograd history of its storage."""
    return any(op is DETACH[0] for op, _ in steps)


def record(
    op: Op,
    inputs: Sequence[Tensor],
    attributes: Mapping[str, Any],
    outputs: Sequence[Tensor],
    leaves: Sequence[Value | None] = (),
) -> None:
    """Append ``op`` to the tape if any input is tracked.

    ``leaves``: values of inputs that were leaves when the operation began, whatever they are now.
    """
    values: list[Value | None] = []
    operands: list[Value] = []
    tracked: list[bool] = []
    for tensor in inputs:
        value = tape_value(tensor)
        values.append(value)
        tracked.append(value is not None)
        operands.append(Value(tensor._type) if value is None else value)
    if leaves:
        for i, leaf in enumerate(leaves):
            if leaf is not None:
                values[i], operands[i], tracked[i] = leaf, leaf, True
    if True not in tracked:
        return
    node = TapeNode(op, operands, attributes, user_location(), tuple([t._type for t in outputs]))
    saved = node.saved
    assert saved is not None
    for i in op.saved_inputs(tracked):
        if operands[i] not in saved:
            saved[operands[i]] = keep(inputs[i], values[i])
    results = node.seal()
    for tensor, value in zip(outputs, results, strict=True):
        if tensor._type.dtype.kind == "float":
            set_tape_value(tensor, value)
    for i in op.saved_outputs(len(outputs), attributes):
        node.saved_results[i] = keep(outputs[i], None)
    if process.anomaly:
        from flamec.autograd.anomaly_mode import note_forward

        note_forward(results[0], inputs, outputs)


def tape_value(tensor: Tensor) -> Value | None:
    """The autograd value of a concrete tensor now, or None if it is not tracked."""
    if tensor._requires_grad:
        return leaf_value(tensor)
    storage = tensor._storage
    if tensor._value is not None and tensor._value_version == storage.version:
        return tensor._value
    value = storage.value
    if value is None:
        return None
    if tensor._steps:
        holder, steps = history_of(tensor)
        value = holder.value
        if value is None or value is APART:
            return None
        for op, attributes in steps:
            (value,) = TapeNode(op, (value,), attributes, user_location()).seal()
        tensor._value = value
        tensor._value_version = storage.version
        return value
    return None if value is APART else value


def leaf_value(tensor: Tensor) -> Value:
    """The leaf's own value, made on first use."""
    value = tensor._value
    if isinstance(value, Leaf):
        return value
    tensor._value = value = Leaf(tensor)
    if not tensor._steps:
        tensor._storage.value = value
    return value


def set_tape_value(tensor: Tensor, value: Value | None) -> None:
    tensor._value = value
    tensor._value_version = tensor._storage.version
    if not tensor._steps:
        tensor._storage.value = value
