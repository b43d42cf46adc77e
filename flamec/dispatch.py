"""The one function through which every operation passes.

``apply`` infers the result types, then either runs the operation (eager) or
adds it to the trace in progress, and records it for autograd. Results are
row-major unless they are views, so that strides are the same in both modes. ``write``
is the only way memory is changed: the new contents are computed functionally
and then stored, so the tape and the trace stay free of mutation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from flamec import tensor as tensor_module
from flamec.device_array import DeviceArray
from flamec.errors import OperationError, operation_error, user_location
from flamec.ir import ops as _ops  # noqa: F401  (declares the primitives)
from flamec.ir.builder import Builder
from flamec.ir.evaluate import run_op
from flamec.ir.graph import Location, Value
from flamec.ir.op import CONTROL, REGISTRY, Op, OpKind, lookup
from flamec.ir.types import TensorType
from flamec.result_types import result_types
from flamec.roots import overlaps_itself
from flamec.state import process, thread
from flamec.tape import (
    APART,
    DETACH,
    PARTIAL,
    Detachment,
    Leaf,
    Saved,
    TapeNode,
    cut_off,
    history_of,
    hold_history,
    record,
    set_leaf,
    tape_value,
)
from flamec.tensor import Storage, Tensor, ViewStep
from flamec.write_through import with_zero_gradient, write_through

_VIEW = OpKind.VIEW
_MANY = 1 << 15  # elements from which on it matters in which order they are copied
_gpu: Any = None  # see ``_gpu_eager``


def apply(op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> Any:
    """Run or trace ``op``; a Tensor, or a tuple of them for an op with several results.

    Raises OperationError (a RuntimeError and ValueError), OperationTypeError or
    IndexError, naming the op, the shapes and the user's line.
    """
    trace = thread.trace
    if trace is not None:
        return trace.apply(op, inputs, attributes)
    recorder = process.recorder
    if (
        recorder is None
        and inputs
        and inputs[0]._array.__class__ is DeviceArray
        and op.kind is not _VIEW
    ):
        met = (_gpu or _gpu_eager()).run_known(op, attributes, inputs)
        if met is not None:
            if thread.grad_enabled and op.derivative is not None:
                for t in inputs:
                    if t._requires_grad or t._value is not None or t._storage.value is not None:
                        record(op, inputs, attributes, met if met.__class__ is tuple else (met,))
                        break
            return met
    elif not inputs and recorder is None:
        device = attributes.get("device")
        if device is not None and device.type != "cpu":
            made: Tensor | None = _gpu_eager().created(op, attributes)
            if made is not None:
                return made
    started = 0 if recorder is None else recorder.now()
    arrays: list[Any] = [t._array for t in inputs]
    for array in arrays:
        if array is None:
            raise OperationError(
                f"{op.name}: a tensor of a compiled function is used outside it; return it from "
                f"the function instead (at {user_location()})"
            )
    try:
        known = None
        if arrays and arrays[0].__class__ is DeviceArray and op.kind is OpKind.VIEW:
            known = _gpu_eager().view(op, attributes, inputs[0])
        if known is not None:
            types, results = known
        else:
            types = result_types(op, inputs, attributes)
            if op.kind is OpKind.CUSTOM:
                results = tuple(arrays[: len(types)])
            elif op.kind in CONTROL:
                results = _eager_loops().run_loop(op, attributes, inputs, types)
            elif types[0].device.type == "cpu" and op.kind is not OpKind.TRANSFER:
                results = run_op(op, attributes, arrays, types)
            else:
                results = _run_elsewhere(op, attributes, inputs, types)
    except (TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        together = with_scalars_moved(op, inputs)
        if together is not None:
            return apply(op, together, attributes)
        raise operation_error(op.name, error) from error
    if recorder is not None:
        recorder.operation(op, attributes, tuple([t._type for t in inputs]), types, started)
    if op.kind is OpKind.VIEW or op.kind is OpKind.BARRIER:
        source = inputs[0]
        if _shares(results[0], source._array):
            outputs = [
                Tensor._from_array(
                    results[0],
                    types[0],
                    source._storage,
                    view_steps(source, op, attributes, types[0]),
                )
            ]
        else:
            outputs = [Tensor._from_array(results[0], types[0])]
    else:
        outputs = [
            Tensor._from_array(r if r.flags.c_contiguous else _row_major(r), t)
            for r, t in zip(results, types, strict=True)
        ]
    return _recorded(op, inputs, attributes, outputs)


def _recorded(
    op: Op, inputs: Sequence[Tensor], attributes: Mapping[str, Any], outputs: list[Tensor]
) -> Any:
    """The results, written on the tape if a gradient may be asked for."""
    if thread.grad_enabled and op.derivative is not None:
        for t in inputs:
            if t._requires_grad or t._value is not None or t._storage.value is not None:
                record(op, inputs, attributes, outputs)
                break
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def apply_named(name: str, *inputs: Tensor, **attributes: Any) -> Any:
    """``apply`` with the op given by name."""
    return apply(lookup(name), inputs, attributes)


def with_scalars_moved(op: Op, inputs: Sequence[Tensor]) -> list[Tensor] | None:
    """The operands of an elementwise operation, zero-dimensional ones copied to the others' GPU.

    None where that is not what is amiss: only scalars on the CPU may stand beside a GPU's arrays.
    """
    gpus = {t._type.device for t in inputs if t._type.device.type != "cpu"}
    here = [t for t in inputs if t._type.device.type == "cpu"]
    if op.kind is not OpKind.ELEMENTWISE or len(gpus) != 1 or not here:
        return None
    if any(t._type.shape for t in here):
        return None
    (device,) = gpus
    return [
        apply_named("to_device", t, device=device) if t._type.device.type == "cpu" else t
        for t in inputs
    ]


def _run_elsewhere(
    op: Op, attributes: Mapping[str, Any], inputs: Sequence[Tensor], types: tuple[TensorType, ...]
) -> tuple[Any, ...]:
    """Run an operation on a GPU, or carry an array from device to device."""
    if op.kind is OpKind.TRANSFER:
        from flamec.gpu import move

        wait = not attributes.get("non_blocking", False)
        return (move(inputs[0]._array, types[0].device, wait),)
    results: tuple[Any, ...] = _gpu_eager().run(op, attributes, inputs, types)
    return results


def _gpu_eager() -> Any:
    """What runs operations on GPUs; imported when there is one to run."""
    global _gpu
    if _gpu is None:
        from flamec import gpu_eager

        _gpu = gpu_eager
    return _gpu


@cache
def _eager_loops() -> Any:
    """What runs loops; imported when there is one to run."""
    from flamec import eager_loops

    return eager_loops


def _shares(result: Any, source: Any) -> bool:
    if source is None:
        return False
    if result is source:
        return True
    if isinstance(result, DeviceArray):
        return result.memory is source.memory
    return np.may_share_memory(result, source) if result.size else True


def view_steps(
    source: Tensor, op: Op, attributes: Mapping[str, Any], type: TensorType
) -> tuple[ViewStep, ...]:
    """How a view of ``type`` made by ``op`` is reached from the storage's base.

    A view made while nothing is recorded is cut off from autograd by a detach step.
    """
    if op is DETACH[0]:
        return (*source._steps, cut_off(type))
    step = (op, dict(attributes))
    if thread.grad_enabled:
        return (*source._steps, step)
    return (*source._steps, step, cut_off(type))


# writing -------------------------------------------------------------------------


def write(target: Tensor, source: Tensor, name: str = "copy_") -> Tensor:
    """Store ``source`` (same dtype, broadcastable shape) in ``target``'s memory; returns target.

    Raises RuntimeError for a leaf that requires grad while recording, and for
    memory in which several elements overlap.
    """
    if thread.grad_enabled:
        refuse_leaf(target, name)
    if source._type.device != target._type.device:
        raise OperationError(
            f"{name}: values on {source._type.device} cannot be stored in a tensor on "
            f"{target._type.device}; copy them there first (at {user_location()})"
        )
    trace = thread.trace
    if trace is not None:
        return trace.write(target, source, name)
    array, data = target._array, source._array
    if array is None or data is None:
        raise OperationError(
            f"{name}: a tensor of a compiled function is used outside it (at {user_location()})"
        )
    if overlaps_itself(target):
        raise overlap_error(name)
    storage = target._storage
    value = old = None
    tracking = thread.grad_enabled and target._type.dtype.is_floating_point
    if tracking:
        value, old = tape_value(source), tape_value(target)
    if not array.flags.writeable:
        raise RuntimeError(
            f"{name}: the tensor's memory is read-only, as was that of the NumPy array it was "
            f"made from; clone() it first (at {user_location()})"
        )
    store(array, data)
    storage.version += 1
    storage.writer = user_location()
    if not tracking:
        return target
    if value is None and old is None and storage.value is None:
        return target
    holder, steps = history_of(target)  # behind a detach step the storage's is not the tensor's
    if value is not None or old is not None or holder.value not in (None, APART):
        forgets = value is None or name == "copy_"
        if value is None:
            value = Value(source._type)
        else:  # a value of its own, so that the target's gradient is not the source's
            value = TapeBuilder(storage.writer).convert(value, dtype=source._type.dtype)
        new = written_base(holder, steps, value)
        if old is not None and not steps and forgets:
            value = new = with_zero_gradient(TapeBuilder(storage.writer), new, old)
        hold_history(storage, holder, new)
        target._value = value if target._type == source._type else None
        target._value_version = storage.version if target._value is not None else -1
    return target


def overlap_error(name: str) -> RuntimeError:
    """The error for writing to all of a tensor whose elements overlap in memory."""
    return RuntimeError(
        f"{name}: several elements of the expanded tensor share one place in memory; "
        f"clone() it before writing (at {user_location()})"
    )


def store(array: Any, data: Any) -> None:
    """Copy elements into the memory of an array on the same device; ``data`` is broadcast."""
    if isinstance(array, DeviceArray):
        from flamec.gpu import gpu_of

        gpu_of(array).copy(array, data)
    elif array.size < _MANY:
        np.copyto(array, data)
    else:
        from flamec.element_copies import copy_elements

        copy_elements(array, data)


def _row_major(array: np.ndarray) -> np.ndarray:
    """A row-major copy of a result in another order."""
    if array.size < _MANY:
        return np.ascontiguousarray(array)
    from flamec.element_copies import row_major

    return row_major(array)


def refuse_leaf(target: Tensor, name: str) -> None:
    """RuntimeError for a leaf that requires grad, or a view of one, whose change is recorded."""
    if _refuses_in_place(target):
        raise RuntimeError(
            f"{name}: a leaf tensor that requires grad (or a view of one) is changed in place; "
            f"wrap the change in flamec.no_grad() (at {user_location()})"
        )
    if PARTIAL and target._steps and _is_partial(target):
        raise RuntimeError(
            f"{name}: a view by as_strided() is changed in place that reaches beyond the tensor "
            "which it was made of, and whose gradients go there; make it of the tensor that has "
            f"all of the memory (at {user_location()})"
        )


def _is_partial(target: Tensor) -> bool:
    """Whether the history of a view is that of a part of what it shows."""
    return any(value in PARTIAL for value in _seen_through(target))


def _seen_through(target: Tensor) -> Iterator[Value]:
    """The values of a view that is recorded and of what it is a view of, the last first."""
    trace = thread.trace
    value = tape_value(target) if trace is None else trace.value_of(target)
    while value is not None:
        yield value
        node = value.node
        value = node.inputs[0] if node is not None and node.op.kind is OpKind.VIEW else None


def _refuses_in_place(target: Tensor) -> bool:
    """Whether a target is a leaf that requires grad, or a view of one."""
    if target._requires_grad:
        return True
    if not target._steps or not target.requires_grad:
        return False
    for value in _seen_through(target):
        leaf: Tensor | None = None
        if thread.trace is not None:
            leaf = thread.trace.leaf_tensors.get(value)
        elif isinstance(value, Leaf):
            leaf = value.tensor()
        if leaf is not None:
            return leaf._requires_grad
    return False


class TapeBuilder(Builder):
    """Emits nodes on the tape; values are tape Values.

    Only what follows from constants (a mask over positions) is computed, because the
    derivative of a node may read it.
    """

    def __init__(self, location: Location | None) -> None:
        self._location = location
        self._constants: dict[Value, Tensor] = {}

    def type_of(self, value: Value) -> TensorType:
        return value.type

    def apply(self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        known = [self._constants[v] for v in inputs if v in self._constants]
        if len(known) == len(inputs):
            tensor = apply(op, known, attributes)
            value = Value(tensor._type)
            self._constants[value] = tensor
            return value
        node = TapeNode(op, inputs, attributes, self._location)
        assert node.saved is not None
        for i in op.saved_inputs([v not in self._constants for v in inputs]):
            node.saved[inputs[i]] = Saved(self._constants[inputs[i]], None)
        (value,) = node.seal()
        return value


def written_base(holder: Storage | Detachment, steps: Sequence[ViewStep], value: Value) -> Value:
    """What has the history of ``holder`` after ``value`` was stored through the view ``steps``."""
    base = holder.value
    if base is None or base is APART:
        base = Value(holder.base_type)
    return write_through(TapeBuilder(user_location()), base, steps, value)


# what a Tensor asks ----------------------------------------------------------------


def _is_tracked(tensor: Tensor) -> bool:
    if thread.trace is not None:
        return thread.trace.is_tracked(tensor)
    value = tape_value(tensor)
    return value is not None


def _set_requires_grad(tensor: Tensor, flag: bool) -> None:
    if flag and not tensor._type.dtype.is_floating_point:
        raise RuntimeError(
            f"only floating-point tensors can require gradients, not {tensor._type.dtype!r}"
        )
    trace = thread.trace
    if trace is not None:
        trace.is_tracked(tensor)  # which notes what it was
    if not flag:
        if not tensor.is_leaf:
            raise RuntimeError(
                "requires_grad can only be changed on leaf tensors; use detach() to get a tensor "
                "that does not require grad"
            )
        if trace is not None:
            trace.switch_leaf(tensor, False)
        for each in _same(tensor):
            set_leaf(each, False)
        return
    if tensor._requires_grad or tensor.requires_grad:
        return
    if trace is None:
        tensor._requires_grad = True
        return
    for each in _same(tensor):
        set_leaf(each, True)
    if trace is not None:
        trace.switch_leaf(tensor, True)


def _same(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor; while tracing an argument and what stands for it."""
    return (tensor,) if thread.trace is None else thread.trace.gradients.both(tensor)


tensor_module.connect(_is_tracked, _set_requires_grad)


class TensorBuilder(Builder):
    """The builder whose values are Tensors: rules and composites run or trace through ``apply``.

    The keys of states are the tensors themselves.
    """

    def __getattr__(self, name: str) -> Any:
        emit = super().__getattr__(name)
        if name in REGISTRY:
            setattr(self, name, emit)  # found without __getattr__ the next time
        return emit

    def read_state(self, key: Tensor, type: TensorType) -> Tensor:
        return key

    def write_state(self, key: Tensor, value: Tensor) -> None:
        write(key, value, "backward")

    def type_of(self, value: Tensor) -> TensorType:
        return value._type

    def apply(self, op: Op, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Any:
        return apply(op, inputs, attributes)


tensor_builder = TensorBuilder()
