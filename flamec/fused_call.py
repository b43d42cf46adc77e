"""A fused function bound to the sizes of one call: its programs, and its place on the tape.

In: tensors like those that it was bound for. Out: the function's result. The tape gets one node
for the whole call, whose derivative is one program too; where derivatives are recorded or batched,
it is emitted as single operations instead.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from flamec import cpu_eager, gpu_eager
from flamec.common_memory import share_memory
from flamec.device_array import DeviceArray
from flamec.dispatch import tensor_builder
from flamec.eager_programs import EagerCall, bind_graph
from flamec.errors import CompileError, user_location
from flamec.fused_program import ConcreteGraph, FusedProgram, NotFusable, trace_function
from flamec.fusing import Composite, constant_key
from flamec.gpu import gpu
from flamec.ir.batching import Operand
from flamec.ir.builder import Builder
from flamec.ir.graph import Graph
from flamec.ir.op import DerivativeContext, Op, OpKind, Types
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.ir.shape import evaluate_shape
from flamec.runtime.fork_locks import held_in_forks
from flamec.size_oracle import exactly
from flamec.state import process, thread
from flamec.structures import unflatten
from flamec.symbolic_sizes import Sizes
from flamec.tape import record, set_tape_value, tape_value
from flamec.tensor import Tensor

Run = Callable[[Sequence[Any]], Sequence[Any]]

_programs: dict[Any, list[FusedProgram | NotFusable]] = {}
_MOST_SIGNATURES = 64  # of one composite: numbers among its arguments may differ at each call
_lock = held_in_forks(threading.RLock())
_signatures: Counter[Composite] = Counter()
_numbers: defaultdict[Composite, set[tuple[Any, ...]]] = defaultdict(set)
_warned: set[Composite] = set()
_MOST_NODES = 64  # of a function that is not declared as a composite
_MOST_NUMBERS = 8  # choices of numbers among its arguments, which may be others at each call
_MOST_PROGRAMS = 16  # that differ in what they assume of sizes; later calls are not fused


def bind(
    composite: Composite, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor]
) -> FusedCall | None:
    """The call for these arguments; None if it is not fused.

    Warns once if a function's program cannot be compiled.
    """
    if any(t._type.device != tensors[0]._type.device for t in tensors):
        return None
    if any(t._array.size == 0 for t in tensors):
        return None
    sizes = Sizes(2)
    try:
        program = _program(composite, args, kwargs, tensors, sizes)
        if program is None:
            return None
        if composite.short and len(program.forward.nodes) > _MOST_NODES:
            return None
        if isinstance(tensors[0]._array, np.ndarray):
            if not cpu_eager.is_worth_compiling(program.forward, sizes.bindings):
                return None
            changes = any(i < len(tensors) for i in program.forward.updates)
            if changes and cpu_eager.may_fail(program.forward):  # halfway
                return None
        return FusedCall(composite, program, sizes, tensors)
    except CompileError as error:
        if composite not in _warned:
            _warned.add(composite)
            warnings.warn(
                f"{composite.name} runs operation by operation in eager mode, because its program "
                f"cannot be compiled: {error}",
                RuntimeWarning,
                stacklevel=4,
            )
        return None


def _program(
    composite: Composite,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tensors: Sequence[Tensor],
    sizes: Sizes,
) -> FusedProgram | None:
    """A program traced before whose assumptions on sizes hold, or a new one."""
    tracked = [
        thread.grad_enabled and t._type.dtype.is_floating_point and tape_value(t) is not None
        for t in tensors
    ]
    try:
        positional, named = _generalized(composite, args, kwargs, sizes)
        signature = constant_key((*positional, *named.items()))
    except TypeError:  # a size that is none: the function itself will say so
        return None
    state = (thread.grad_enabled, process.default_dtype, id(thread.autocast))
    key = (composite, state, signature, tuple(tracked))
    with _lock:
        known = _programs.setdefault(key, [])
        for program in known:
            if isinstance(program, NotFusable):
                return None
            if program.holds(sizes.bindings):
                return program
        if len(known) == _MOST_PROGRAMS:
            return None
        if not known:
            _signatures[composite] += 1
            values = (*args, *kwargs.values())
            _numbers[composite].add(tuple([v for v in values if isinstance(v, (int, float))]))
        if _signatures[composite] > _MOST_SIGNATURES:
            return None
        if composite.short and len(_numbers[composite]) > _MOST_NUMBERS:
            return None
        try:
            try:
                traced = trace_function(
                    composite.function, positional, named, tracked, sizes.bindings
                )
            except NotFusable as reason:
                if not reason.may_need_numbers:
                    raise
                numbers = _generalized(composite, args, kwargs, Sizes(None))
                traced = trace_function(composite.function, *numbers, tracked, {})
                traced = replace(traced, guards=exactly(sizes.bindings))
        except NotFusable as reason:
            known.append(NotFusable(str(reason)))  # without the frames, which hold tensors
            return None
        known.append(traced)
        return traced


def _generalized(
    composite: Composite, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: Sizes
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with types over symbols for tensors, and symbols for sizes."""

    for name, position in composite.kernels:
        kernel = kwargs.get(name, args[position] if position < len(args) else None)
        if isinstance(kernel, Tensor):
            sizes.keep_numbers(evaluate_shape(kernel._type.shape, {}))

    def general(value: Any) -> Any:
        return sizes.type(value._type) if isinstance(value, Tensor) else value

    def dimensions(value: Any) -> Any:
        if value is None:  # the default
            return None
        return sizes.dim(value) if isinstance(value, int) else sizes.shape(value)

    positional = [general(value) for value in args]
    named = {name: general(value) for name, value in kwargs.items()}
    for name, position in composite.dimensions:
        if name in named:
            named[name] = dimensions(named[name])
        elif position < len(positional):
            positional[position] = dimensions(positional[position])
    return positional, named


class FusedCall:
    """Call it with the tensors, in the order of the arguments."""

    def __init__(
        self,
        composite: Composite,
        program: FusedProgram,
        sizes: Sizes,
        tensors: Sequence[Tensor],
    ) -> None:
        self.name = composite.name
        self.program = program
        self.bindings = dict(sizes.bindings)
        self._captured = program.captured
        self._returned = program.returned
        self._single = program.structure.kind is None
        self._itself = program.itself
        arrays = [t._array for t in (*tensors, *program.captured)]
        self._forward, self._gpu_call = self._runner(program.forward, arrays)
        self._types = self._concrete(program.forward)
        self._single_result = len(self._types) == 1
        self._updated = tuple(program.forward.updates)
        self._written = tuple(i for i in self._updated if i < len(tensors))
        self.writes = bool(self._written)
        self._untracked = tuple(
            i for i, v in enumerate(program.forward.outputs) if v not in program.tracked_values
        )
        self._backwards: dict[Any, Run] = {}
        self._op = Op(
            name=composite.name,
            kind=OpKind.COMPOSITE,
            infer=_not_inferred,
            evaluate=_not_inferred,
            derivative=self._derivative,
            saves_inputs=program.kept_inputs,
            saves_outputs=program.kept_outputs,
        )

    def accepts(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the program may write where it would: into memory that no operand shares."""
        copied = self._gpu_call.copied if self._gpu_call is not None else ()
        for position in self._written:
            target = tensors[position]
            if position in copied or not _can_be_written(target._array):
                return False
            if target._requires_grad and thread.grad_enabled:  # which is an error
                return False
            for i, other in enumerate(tensors):
                if i != position and (
                    other._storage is target._storage or share_memory(other._array, target._array)
                ):
                    return False
        return True

    @property
    def on_gpu(self) -> bool:
        return self._gpu_call is not None

    def __call__(self, tensors: Sequence[Tensor]) -> Any:
        arrays = [t._array for t in tensors]
        if self._captured:
            arrays += [t._array for t in self._captured]
        found = self._forward(arrays)
        if self._single_result:
            results = [Tensor._from_array(found[0], self._types[0])]
        else:
            results = [Tensor._from_array(a, t) for a, t in zip(found, self._types, strict=True)]
        if self._updated:
            location = user_location()
            written = (*tensors, *self._captured)
            for position in self._updated:
                storage = written[position]._storage
                storage.version += 1
                storage.writer = location
        if self.program.recorded:
            record(self._op, tensors, {}, results)
            for position in self._untracked:
                set_tape_value(results[position], None)
        if self._itself is not None:
            return tensors[self._itself]
        if self._single:
            return results[0]
        return unflatten(self.program.structure, iter(results))

    @property
    def plain_call(self) -> EagerCall | None:
        """See ``fusing.program_call``."""
        if self._updated or self.program.recorded or self._captured:
            return None
        return self._gpu_call

    # programs ---------------------------------------------------------------------------
    def _runner(self, graph: Graph, arrays: Sequence[Any]) -> tuple[Run, EagerCall | None]:
        """The graph's program for arrays that lie as these do, and the call of it on a GPU."""
        graph = settle_sizes(graph, self.program.equal_sizes)
        if isinstance(arrays[0], np.ndarray):
            return cpu_eager.bind_graph(graph, self.bindings).run, None
        here = gpu(arrays[0].device)
        call = bind_graph(here, graph, self.bindings, arrays)
        return call.run, call

    def _concrete(self, graph: Graph) -> Types:
        return tuple(
            v.type.with_shape(evaluate_shape(v.type.shape, self.bindings)) for v in graph.outputs
        )

    # the derivative ---------------------------------------------------------------------
    def _derivative(
        self, builder: Builder, context: DerivativeContext, *gradients: Any
    ) -> Sequence[Any]:
        further = gradients[self._returned :]
        if (
            builder is tensor_builder
            and (not further or all(g is None for g in further))
            and not thread.grad_enabled
            and thread.trace is None
        ):
            return self._first_derivative(context, gradients)
        for position in self._untracked:
            if position in self.program.kept_outputs:
                _forget_history(context.outputs[position])
        return self._graph.gradients(builder, context, gradients)

    @cached_property
    def _graph(self) -> ConcreteGraph:
        return ConcreteGraph(self.program, self.bindings)

    def _first_derivative(
        self, context: DerivativeContext, gradients: Sequence[Tensor | None]
    ) -> Sequence[Tensor | None]:
        program = self.program
        assert program.backward is not None
        outputs = context.outputs
        arrays = [outputs[k]._array for k in program.saved_outputs]
        inputs = (*context.inputs, *program.captured) if program.captured else context.inputs
        arrays += [inputs[i]._array for i in program.read_inputs]
        for k in program.recorded:
            gradient = gradients[k]
            if gradient is None:
                gradient = tensor_builder.full_like(0.0, self._types[k])
            arrays.append(gradient._array)
        on_gpu = arrays[0].__class__ is DeviceArray
        strides = gpu_eager.layouts(arrays) if on_gpu else [_strides(a) for a in arrays]
        layout = threading.get_ident(), *strides  # what is bound belongs to a thread
        run = self._backwards.get(layout)
        if run is None:
            run = self._backwards[layout] = self._runner(program.backward, arrays)[0]
        found = iter(run(arrays))
        results: list[Tensor | None] = [None] * len(context.input_types)
        for i in program.tracked:
            results[i] = Tensor._from_array(next(found), context.input_types[i])
        return results


def _strides(array: np.ndarray) -> tuple[int, ...] | None:
    return None if array.flags.c_contiguous else array.strides


def _forget_history(saved: Any) -> None:
    """A saved tensor is no result of the call for autograd: it has no derivative."""
    set_tape_value(saved.value if isinstance(saved, Operand) else saved, None)


def _can_be_written(array: Any) -> bool:
    """Whether a program may write into an array where it is."""
    if isinstance(array, np.ndarray):
        flags = array.flags
        return flags.c_contiguous and flags.writeable and flags.aligned
    return array.c_contiguous or 0 not in array.strides


def _not_inferred(*_: Any) -> Types:
    raise AssertionError("a fused call is recorded with its result types given")
