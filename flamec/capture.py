"""One trace of one call: the graph, where its inputs come from, what becomes of its results.

``capture`` runs the function on tracers and returns a ``Captured`` record that
``program.py`` turns into something callable. Nothing is compiled here.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from flamec.autograd.hooks import record_hooks
from flamec.changed_arguments import ArgumentCopies, CallersContainer
from flamec.errors import CompileError, unknown_value, unrepeatable
from flamec.guarded_layouts import AskedLayout, asked_layouts
from flamec.guarded_values import Guard, is_constant
from flamec.guards import Recorder
from flamec.host_numbers import expression_of
from flamec.host_state import HostState, Lifted, StateVaries
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate import reachable_nodes
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim, has_symbols, using_oracle
from flamec.ir.types import TensorType
from flamec.left_behind import effects_of, escaped_tensors, stored_arguments
from flamec.math_of_expressions import math_of_expressions
from flamec.restoring import restore
from flamec.roots import AliasDiscovered, Root, overlaps_itself
from flamec.segments import Execution, SegmentCache, SizesDiffer, symbol_values
from flamec.size_bounds import ANY_SIZE, SizeBounds
from flamec.size_oracle import ShapeGuard
from flamec.sources import InputSource
from flamec.state import Modes, modes, set_modes, thread
from flamec.structures import LEAF, Structure, flatten, unflatten
from flamec.tensor import RuntimeNumber, Size, Storage, Tensor, ViewStep
from flamec.trace import Trace
from flamec.traced_arguments import argument_labels

_one_trace = threading.RLock()  # classes are instrumented for all threads


@dataclass(frozen=True, eq=False)
class Result:
    """One leaf of what the function returned (or stored in a ``.grad``).

    ``kind``: ``"fresh"`` (graph output ``position``), ``"argument"`` (the argument leaf
    itself), ``"container"`` (the container at ``position`` behind these leaves), ``"tensor"`` (that
    very tensor), ``"base"`` (the base of a captured or, by
    position, an argument's storage), ``"constant"`` (a Python value), ``"size"`` (a symbolic
    size), ``"number"`` (graph output ``position`` as a Python number), ``"host"`` (the expression
    ``value``, number ``position`` of those). ``steps`` are view steps to apply to it.
    """

    kind: str
    position: int = -1
    value: Any = None
    steps: tuple[ViewStep, ...] = ()
    tracked: bool = False
    freed: bool = False


@dataclass(frozen=True, eq=False)
class GradEffect:
    """``target.grad = result`` after the call; ``target`` is a tensor or an argument position."""

    target: Tensor | int
    result: Result


@dataclass(eq=False)
class Captured:
    """A traced call. Invariant: graph inputs and ``sources`` correspond one to one.

    ``execution``: where the call was split, and what was run. ``effects``: what the Python code did
    that a program cannot repeat, in words; ``escapes``: what it stored outside, tensors and numbers
    of the trace whose results follow those of the function, and ``stored_arguments``: tracers
    of arguments, with these. ``undo`` gives Python's state the values from before the trace.
    ``host``: what a call does in Python. ``layouts``: inputs and what the trace asked of where
    their elements lie (``layout.ask``). ``container_count``: how many containers follow the leaves
    of the arguments, if the program uses any (``changed_arguments.py``).
    """

    graph: Graph
    sources: list[InputSource]
    arguments: list[Any]
    structure: Structure
    argument_types: dict[int, TensorType]
    results: list[Result]
    result_structure: Structure
    grads: list[GradEffect]
    symbols: tuple[str, ...]
    shape_guards: list[ShapeGuard]
    guards: list[Guard]
    trace: Trace
    host: HostState
    tracked_inputs: tuple[int, ...] = ()
    tracked_outputs: tuple[int, ...] = ()
    aliases: list[tuple[int, Tensor]] = field(default_factory=list)
    layouts: list[AskedLayout] = field(default_factory=list)
    container_count: int = 0
    number_arguments: frozenset[int] = frozenset()
    modes: Modes = field(default_factory=modes)
    execution: Execution | None = None
    effects: list[str] = field(default_factory=list)
    escapes: list[Tensor] = field(default_factory=list)
    undo: Callable[[], None] | None = None
    stored_arguments: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def equal_sizes(self) -> list[tuple[Dim, Dim]]:
        """Pairs of sizes that the guards say are equal."""
        return [(g.left, g.right) for g in self.shape_guards if g.relation == "==" and g.holds]


@dataclass
class Dynamic:
    """Which parts of the arguments vary: sizes by (leaf position, axis), and numbers.

    ``sizes[(leaf, axis)]`` is (symbol name, example size); ``bounds``: what is declared of
    sizes, by symbol; a size that is declared a multiple of a number is that times its symbol.
    """

    sizes: Mapping[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    numbers: frozenset[int] = frozenset()
    bounds: Mapping[str, SizeBounds] = field(default_factory=dict)

    def size(self, symbol: str) -> Dim:
        """The size that a symbol stands for."""
        return SymbolicDim.symbol(symbol) * self.bounds.get(symbol, ANY_SIZE).multiple_of


def capture(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic: Dynamic,
    name: str,
    segments: SegmentCache | None = None,
    repeats: bool = False,
    lifted: Lifted | None = None,
) -> Captured:
    """Trace ``function(*args, **kwargs)``.

    ``segments``: for the programs that give the function the values that it asks for. ``repeats``:
    an error leaves Python's state as it was, because the function will be traced again. ``lifted``:
    numbers of Python's state that vary; StateVaries if there are others. Raises
    whatever the function raises, CompileError for arguments that cannot be compiled, SizesDiffer if
    a value was asked for under wrong assumptions on sizes, and DataDependentError where a
    tensor's value is needed that cannot be had.
    """
    leaves, structure = flatten((args, kwargs))
    given, base_storages = (function, leaves, structure, (args, kwargs)), _aliased_storages(leaves)
    while True:
        host = HostState(None, Lifted("never") if lifted is None else lifted)
        recorder, outside = Recorder(host), modes()
        try:
            with _one_trace, using_oracle(None):
                try:
                    return _capture(
                        *given, dynamic, name, base_storages, segments, repeats, recorder
                    )
                except KeyboardInterrupt:  # which may have come while the trace was ending
                    thread.trace = None
                    set_modes(outside)
                    recorder.leave()
                    host.rewind()
                    raise
        except AliasDiscovered as alias:
            if alias.storage in base_storages:
                raise CompileError(
                    f"{name}: overlapping views of one memory could not be expressed; clone() one "
                    "of them before the call"
                ) from None
            base_storages = [*base_storages, alias.storage]


def _aliased_storages(leaves: Sequence[Any]) -> list[Storage]:
    """The memory that several arguments share, or several elements of one."""
    seen: set[Storage] = set()
    shared: list[Storage] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf._trace is None:
            again = leaf._storage in seen or overlaps_itself(leaf)
            if again and leaf._storage not in shared:
                shared.append(leaf._storage)
            seen.add(leaf._storage)
    return shared


def _capture(
    function: Callable[..., Any],
    leaves: list[Any],
    structure: Structure,
    arguments: tuple[Any, Any],
    dynamic: Dynamic,
    name: str,
    base_storages: list[Storage],
    segments: SegmentCache | None,
    repeats: bool,
    recorder: Recorder,
) -> Captured:
    trace, host = Trace(base_storages), recorder.host
    trace.host, host.trace = host, trace
    if segments is not None:
        trace.execution = Execution(trace, leaves, segments, name)
    argument_types: dict[int, TensorType] = {}
    proxies: list[Any] = []
    labels = list(argument_labels(function, structure))
    before = modes()
    for leaf, _axis in dynamic.sizes:
        if leaves[leaf]._storage in base_storages:
            dynamic = Dynamic({}, dynamic.numbers)
            break
    for symbol, example in dynamic.sizes.values():
        bounds = dynamic.bounds.get(symbol, ANY_SIZE)
        trace.oracle.declare(dynamic.size(symbol), symbol, example, bounds)
    thread.trace = trace
    try:
        with using_oracle(trace.oracle):
            for position, leaf in enumerate(leaves):
                proxies.append(_proxy(trace, recorder, leaf, position, dynamic, labels[position]))
                if isinstance(leaf, Tensor):
                    argument_types[position] = proxies[-1]._type
            if trace.execution is not None:
                trace.execution.bind(argument_types)
            proxy_args, proxy_kwargs = unflatten(structure, iter(proxies))
            copies = ArgumentCopies(structure, (proxy_args, proxy_kwargs), arguments, len(leaves))
            recorder.root(function, name)
            recorder.numbers_vary = bool(dynamic.numbers or host.lifted)
            with recorder, math_of_expressions():
                result = [function(*proxy_args, **proxy_kwargs)]
                record_hooks(trace)
            if host.lifted.raises == "at once" and not recorder.effects:
                host.require_constant(recorder.guards.values())
            if recorder.number_was_asked:
                raise unknown_value("the type of a number")
            for mode, old, new in zip(Modes._fields, before, modes(), strict=True):
                if old != new:
                    raise unrepeatable(f"leaving {mode.replace('_', ' ')} in another state")
            host.refills, count = copies.refills(name), copies.count
            result[0] = copies.referring(result[0])
            del proxy_args, proxy_kwargs, copies
            captured = _finish(
                trace, host, result, proxies, leaves, structure, argument_types, name
            )
    except BaseException as error:
        if recorder.number_was_asked and isinstance(error, Exception):
            host.rewind()
            restore(recorder.guards.values())
            raise unknown_value("the type of a number") from error
        host.rewind()
        if repeats or isinstance(error, (AliasDiscovered, SizesDiffer, StateVaries)):
            restore(recorder.guards.values())
        raise
    finally:
        recorder.leave()
        thread.trace = None
        set_modes(before)
    recorder.exempted |= trace.exempted
    captured.guards = recorder.result()
    captured.number_arguments = dynamic.numbers
    if captured.host.refills or any(r.kind == "container" for r in captured.results):
        captured.container_count = count
    captured.modes = before
    captured.undo = partial(restore, recorder.guards.values())
    trace.release()
    captured.stored_arguments = stored_arguments(proxies, leaves)
    captured.effects = [*recorder.effects, *host.effects, *effects_of(captured)]
    if host.lifted.raises == "at last" and not captured.effects:
        try:
            host.require_constant(recorder.guards.values())
        except StateVaries:
            restore(recorder.guards.values())
            raise
    host.keep_first_numbers(captured.sources, captured.effects)
    host.release()
    return captured


def _proxy(
    trace: Trace, recorder: Recorder, leaf: Any, position: int, dynamic: Dynamic, label: str
) -> Any:
    if isinstance(leaf, Tensor):
        if leaf._trace is not None:
            raise CompileError(f"argument {label} is a tensor of another compiled function")
        shape: list[Dim] = list(leaf._type.shape)
        for axis in range(len(shape)):
            if (position, axis) in dynamic.sizes:
                shape[axis] = dynamic.size(dynamic.sizes[position, axis][0])
        return trace.argument(leaf, position, leaf._type.with_shape(tuple(shape)), label)
    if position in dynamic.numbers:
        return trace.number_argument(position, leaf, label)
    if isinstance(leaf, (np.ndarray, np.generic)):
        raise CompileError(
            f"argument {label} of a compiled function is a NumPy {type(leaf).__name__}; pass "
            "flamec.from_numpy(array) (or a Python number) instead"
        )
    if isinstance(leaf, Iterator):
        raise CompileError(
            f"argument {label} of a compiled function is a {type(leaf).__name__}: an iterator "
            "would be used up by tracing; pass a list or tuple instead"
        )
    if not is_constant(leaf):
        recorder.visit(leaf, label)
    return leaf


def _finish(
    trace: Trace,
    host: HostState,
    result: list[Any],
    proxies: list[Any],
    leaves: list[Any],
    structure: Structure,
    argument_types: dict[int, TensorType],
    name: str,
) -> Captured:
    """The record of a traced call; ``result`` is taken out of its list."""
    outputs = _Outputs(trace, proxies)
    result_leaves, result_structure = flatten(result.pop())
    result_structure = _with_plain_keys(result_structure)
    outputs.count_storages(result_leaves)
    results = [outputs.classify(leaf) for leaf in result_leaves]
    gradients = [
        (weakref.ref(target), outputs.argument_position(target), outputs.classify(gradient))
        for target, gradient in trace.gradients.written.items()
    ]
    kept = [target for target in trace.gradients.written if target._trace is None]
    del result_leaves
    host.finish(outputs)
    escapes = escaped_tensors(trace, name)
    if escapes:
        outputs.count_storages(escapes)
        results += [outputs.classify(tensor) for tensor in escapes]
        result_structure = Structure(tuple, (), (result_structure, *[LEAF] * len(escapes)))
    grads = []
    for reference, where, gradient in gradients:
        goal = reference() if where is None else where
        if goal is not None:  # else made in the function, ends with it
            grads.append(GradEffect(goal, gradient))
        del goal
    del kept
    graph = trace.build(outputs.values, name)
    written = [o for step in host.steps for o in step.operands if isinstance(o, Result)]
    tracked = [r for r in (*results, *written) if r.tracked and not r.freed]
    tracked_outputs = {r.position for r in tracked if r.kind == "fresh"}
    differentiable = thread.grad_enabled and bool(tracked)
    return Captured(
        graph=graph,
        sources=trace.sources,
        arguments=leaves,
        structure=structure,
        argument_types=argument_types,
        results=results,
        result_structure=result_structure,
        grads=grads,
        symbols=tuple(trace.oracle.hints),
        shape_guards=list(trace.oracle.guards.values()),
        guards=[],
        trace=trace,
        host=host,
        tracked_inputs=_reached_inputs(trace, graph, tracked_outputs) if differentiable else (),
        tracked_outputs=tuple(sorted(tracked_outputs)) if differentiable else (),
        aliases=list(trace.aliases),
        execution=trace.execution,
        escapes=escapes,
        layouts=asked_layouts(trace),
    )


def _reached_inputs(trace: Trace, graph: Graph, outputs: Iterable[int]) -> tuple[int, ...]:
    """The inputs that gradients of the outputs reach; others get no gradient, not one of 0."""
    roots = [graph.outputs[i] for i in outputs]
    nodes = reachable_nodes(roots, lambda value: value not in trace.tracked)
    reached = {*roots, *(v for node in nodes for v in node.inputs)} & trace.tracked
    return tuple(i for i, value in enumerate(graph.inputs) if value in reached)


def _with_plain_keys(structure: Structure) -> Structure:
    """The structure of a result without numbers and sizes of the trace as keys: hashing has
    read them."""
    keys = tuple(map(_plain_key, structure.keys))
    children = tuple(map(_with_plain_keys, structure.children))
    return Structure(structure.kind, keys, children)


def _plain_key(key: Any) -> Any:
    if isinstance(key, RuntimeNumber):
        return key.read()
    return int(key) if isinstance(key, SymbolicDim) else key


class _Outputs:
    """Assigns graph outputs to the tensors that leave the function."""

    def __init__(self, trace: Trace, proxies: Sequence[Any]) -> None:
        self.trace = trace
        self.proxies = proxies
        self.values: list[Value] = []
        self._positions: dict[Value, int] = {}
        self._shared: dict[Storage, set[tuple[Any, ...]]] = {}

    def argument_position(self, tensor: Tensor) -> int | None:
        for position, proxy in enumerate(self.proxies):
            if proxy is tensor:
                return position
        return None

    def count_storages(self, leaves: Sequence[Any]) -> None:
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf._trace is not None:
                self._shared.setdefault(leaf._storage, set()).add((id(leaf),))

    def classify(self, leaf: Any) -> Result:
        if isinstance(leaf, SymbolicDim) or (isinstance(leaf, Size) and has_symbols(leaf)):
            return Result("size", value=leaf)
        if isinstance(leaf, CallersContainer):
            return Result("container", leaf.position)
        if not isinstance(leaf, Tensor):
            return Result("constant", value=leaf)
        position = self.argument_position(leaf)
        if position is not None:
            self.trace.root_of(leaf).returned = True
            return Result("argument", position)
        if leaf._trace is None:
            return Result("tensor", value=leaf)
        trace = self.trace
        if isinstance(leaf, RuntimeNumber):  # the caller expects a Python number
            return self._number(leaf)
        tracked = trace.is_tracked(leaf)
        root = trace.root_of(leaf)
        if root.input_position is not None:
            root.returned = True
            return self._view_of_input(leaf, root)
        if len(self._shared.get(leaf._storage, ())) > 1:
            steps = leaf._steps[len(root.steps) :]
            return Result("fresh", self._output(root.value), None, steps, tracked)
        value = trace.value_of(leaf)
        freed = value.node is not None and id(value.node) in trace.freed
        return Result("fresh", self._output(value), None, (), tracked, freed)

    def _number(self, leaf: RuntimeNumber) -> Result:
        expression = expression_of(leaf)
        if expression is not None:
            returned = expression.state.returned
            returned.append(expression)
            return Result("host", len(returned) - 1, expression)
        value = self.trace.value_of(leaf)
        source = self.trace.sources[value.index] if value.node is None else None
        if source is not None and source.kind == "number" and source.position >= 0:
            return Result("argument", source.position)
        return Result("number", self._output(value))

    def _view_of_input(self, leaf: Tensor, root: Root) -> Result:
        assert root.input_position is not None
        source = self.trace.sources[root.input_position]
        steps = leaf._steps[len(root.steps) :]
        if source.kind == "argument":
            return Result("argument", source.position, None, steps)
        if source.kind == "captured":
            return Result("tensor", value=source.tensor, steps=steps)
        return Result("base", source.position, source.storage, leaf._steps)

    def _output(self, value: Value) -> int:
        if value not in self._positions:
            self._positions[value] = len(self.values)
            self.values.append(value)
        return self._positions[value]


def actual_sizes(captured: Captured, leaves: Sequence[Any]) -> dict[str, int]:
    """The values of the symbols for given argument leaves."""
    return symbol_values(captured.argument_types, leaves)


def evaluate_size(size: Dim | Size, sizes: Mapping[str, int]) -> int | Size:
    """A size, or a shape, of the results for these values of the symbols."""
    if isinstance(size, Size):
        return Size(evaluate_dim(dim, sizes) for dim in size)
    return evaluate_dim(size, sizes)


def captured_sources(captured: Captured) -> list[tuple[int, InputSource]]:
    """The graph inputs, by position, that are captured tensors or bases of captured storages."""
    return [
        (position, source)
        for position, source in enumerate(captured.sources)
        if source.position < 0 and source.kind in ("captured", "base")
    ]
