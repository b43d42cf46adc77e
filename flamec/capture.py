"""One trace of one call: the graph, where its inputs come from, what becomes of its results.

``capture`` runs the function on tracers and returns a ``Captured`` record that
``program.py`` turns into something callable. Nothing is compiled here.
"""

from __future__ import annotations

import weakref
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from flamec.autograd.hooks import record_hooks
from flamec.cached_functions import forget_tensors
from flamec.changed_arguments import ArgumentCopies, containers, copied, firsts
from flamec.changed_flags import leave_to_the_call, leaves_made
from flamec.common_memory import InputMemory
from flamec.conversions import ConversionWanted
from flamec.effects import EffectAhead, Effects
from flamec.errors import CompileError, Raises, Uncompiled, unknown_value, unrepeatable
from flamec.function_parts import Parts
from flamec.functions_of_sizes import functions_of_sizes
from flamec.guarded_layouts import AskedLayout, asked_layouts
from flamec.guarded_values import Guard
from flamec.guards import Recorder
from flamec.host_numbers import Place
from flamec.host_state import HostState
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate_while import UnboundedLoop
from flamec.ir.shape import Dim, SymbolicDim, evaluate_dim
from flamec.ir.shape_oracle import using_oracle
from flamec.ir.types import TensorType
from flamec.left_behind import effects_of, escaped_tensors, let_go, objects_made, stored_arguments
from flamec.math_of_expressions import math_of_expressions
from flamec.picked_elements import PlaceWanted
from flamec.restoring import left_tracers, restore
from flamec.roots import AliasDiscovered, overlaps_itself
from flamec.segments import Execution, SegmentCache, SizesDiffer
from flamec.shared_results import shared_results
from flamec.size_bounds import ANY_SIZE
from flamec.size_oracle import ShapeGuard, symbol_values
from flamec.sources import InputSource
from flamec.state import Modes, modes, one_trace, set_modes, thread
from flamec.state_tensors import HeldTensors, StateTensors
from flamec.structures import LEAF, Structure, flatten
from flamec.tensor import RuntimeNumber, Size, Storage, Tensor
from flamec.tensor_attributes import TensorAttributes
from flamec.trace import Trace
from flamec.traced_arguments import Dynamic, argument_labels, argument_tracer
from flamec.traced_results import GradEffect, Outputs, Result
from flamec.tracked_inputs import Leaves, check_gradients_outside, reached_inputs
from flamec.varying_state import Lifted, StateVaries
from flamec.written_histories import written_values

_WANTED = (AliasDiscovered, ConversionWanted, EffectAhead, PlaceWanted)
_BEGINS_AGAIN = (*_WANTED, SizesDiffer, StateVaries, Uncompiled)


@dataclass(eq=False)
class Captured:
    """A traced call. Invariant: graph inputs and ``sources`` correspond one to one.

    ``execution``: where the call was split, and what was run. ``effects``: what the Python code did
    that a program cannot repeat, in words (``happened``: some of it is no change of state);
    ``escapes``: what it stored outside, tensors and numbers of the trace whose results follow those
    of the function, and ``stored_arguments``: tracers of arguments, with these. ``undo`` gives
    Python's state the values from before the trace.
    ``host``: what a call does in Python. ``layouts``: inputs and what the trace asked of where
    their elements lie (``layout.ask``). ``arguments``: the leaves of the arguments, then of what is
    ``held`` in Python's state (``found`` by the trace, until the program is made).
    ``container_count``: how many containers follow, if the program uses any
    (``changed_arguments.py``); ``first_containers``: for each among the arguments the first that is
    the same. ``histories``: inputs that are written to, and outputs whose histories they have then
    (``written_histories.py``); outputs behind the first ``returned`` are there for that alone.
    ``retained``: outputs whose gradients are kept (``retain_grad``).
    ``is_tangled``: whether a container stands in the result several times, which a program copies.
    ``parts``: if this is the head of a function, that and the tail that a call ends with.
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
    found_sizes: Mapping[str, int] = field(default_factory=dict)
    tracked_inputs: tuple[int, ...] = ()
    tracked_outputs: tuple[int, ...] = ()
    histories: Mapping[int, int] = field(default_factory=dict)
    returned: int = 0
    aliases: list[tuple[int, Tensor]] = field(default_factory=list)
    layouts: list[AskedLayout] = field(default_factory=list)
    held: list[HeldTensors] = field(default_factory=list)
    found: list[Any] = field(default_factory=list)
    container_count: int = 0
    first_containers: tuple[int, ...] = ()
    is_tangled: bool = False
    number_arguments: frozenset[int] = frozenset()
    apart: frozenset[int] = frozenset()  # arguments that may share memory
    modes: Modes = field(default_factory=modes)
    execution: Execution | None = None
    effects: list[str] = field(default_factory=list)
    happened: bool = False
    escapes: list[Tensor] = field(default_factory=list)
    undo: Callable[[], None] | None = None
    retained: Mapping[Value, int] = field(default_factory=dict)
    stored_arguments: list[tuple[Any, Any]] = field(default_factory=list)
    parts: Parts | None = None

    def source_behind(self, number: int, value: Value) -> InputSource:
        """Where a value comes from that a call gives behind its arguments and containers."""
        position = len(self.arguments) + self.container_count + number
        return InputSource("argument", position, name=value.name or "")

    @property
    def given_symbols(self) -> tuple[str, ...]:
        """The symbols whose values the check finds; a split program finds the others."""
        return tuple([s for s in self.symbols if s not in self.found_sizes])

    @property
    def late_guards(self) -> list[ShapeGuard]:
        """The guards about sizes that a split program finds."""
        return [g for g in self.shape_guards if g.symbols & self.found_sizes.keys()]

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def equal_sizes(self) -> list[tuple[Dim, Dim]]:
        """Pairs of sizes that the guards say are equal."""
        return [(g.left, g.right) for g in self.shape_guards if g.relation == "==" and g.holds]


def capture(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic: Dynamic,
    name: str,
    segments: SegmentCache | None = None,
    repeats: str = "",
    lifted: Lifted | None = None,
    effects: Effects | None = None,
) -> Captured:
    """Trace ``function(*args, **kwargs)``.

    ``segments``: for the programs that give the function the values that it asks for. ``repeats``:
    how it will run again after an error, so that Python's state must be as it was: "traced", or
    "as it is" (Raises) unless something happened that must not happen twice. ``lifted``: what
    varies of Python's state; StateVaries if there is more. ``effects``: to note what its Python
    code does. Raises whatever the function raises, CompileError for arguments that cannot be
    compiled, SizesDiffer if a value was asked for under wrong assumptions on sizes, and
    DataDependentError where a tensor's value is needed that cannot be had.
    """
    leaves, structure = flatten((args, kwargs))
    given, base_storages = (function, leaves, structure, (args, kwargs)), _aliased_storages(leaves)
    met: list[Place] = []  # whose memory is shared
    reads_places = False
    while True:
        host = HostState(None, Lifted("never") if lifted is None else lifted)
        recorder, outside = Recorder(host, effects or Effects()), modes()
        try:
            with one_trace, using_oracle(None):
                try:
                    return _capture(
                        *given,
                        dynamic,
                        name,
                        base_storages,
                        segments,
                        repeats,
                        recorder,
                        met,
                        reads_places,
                    )
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):  # perhaps while the trace was ending
                        thread.trace = None
                        set_modes(outside)
                        recorder.leave()
                        host.rewind()
                    let_go(host, error, isinstance(error, _BEGINS_AGAIN))
                    raise
        except PlaceWanted:
            reads_places = True
        except ConversionWanted:
            continue
        except AliasDiscovered as alias:
            if alias.storage in base_storages:
                raise CompileError(
                    f"{name}: overlapping views of one memory could not be expressed; clone() one "
                    "of them before the call"
                ) from None
            base_storages = [*base_storages, alias.storage]
            met = host.tensors.met if host.tensors is not None else []
        finally:  # segments that were run keep expressions also if the trace came to nothing
            host.release()


def _aliased_storages(leaves: Sequence[Any]) -> list[Storage]:
    """The memory that several arguments share, or several elements of one, unless these are
    different tensors without a history: each is an input of its own while nothing is written.
    A tensor that is given several times is one input."""
    seen: dict[Storage, set[Tensor]] = {}
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf._trace is None:
            seen.setdefault(leaf._storage, set()).add(leaf)
    return [
        storage
        for storage, tensors in seen.items()
        if any(map(overlaps_itself, tensors))
        or (len(tensors) > 1 and any(t.requires_grad for t in tensors))
    ]


def _capture(
    function: Callable[..., Any],
    leaves: list[Any],
    structure: Structure,
    arguments: tuple[Any, Any],
    dynamic: Dynamic,
    name: str,
    base_storages: list[Storage],
    segments: SegmentCache | None,
    repeats: str,
    recorder: Recorder,
    met: Sequence[Place],
    reads_places: bool,
) -> Captured:
    trace, host = Trace(base_storages), recorder.host
    trace.picked.begins_again, trace.picked.reads_places = True, reads_places
    trace.host, host.trace = host, trace
    trace.memory = InputMemory()
    flags = ChainMap(trace.requires_grad_reads, trace.gradients.flags)
    undo = partial(restore, recorder.guards.values(), flags)

    def give_up() -> None:
        undo()
        recorder.caches.forget()
        host.given_up = True

    def withdraw() -> None:
        give_up()
        forget_tensors(trace.escaped(set()))

    given, leaves = len(leaves), list(leaves)
    if segments is not None:
        trace.execution = Execution(trace, leaves, segments, name, dynamic.found)
    argument_types: dict[int, TensorType] = {}
    proxies: list[Any] = []
    labels = list(argument_labels(function, structure))
    before = modes()
    for leaf, _axis in dynamic.sizes:
        if leaves[leaf]._storage in base_storages:
            dynamic = replace(dynamic, sizes={}, bounds={}, pairs={})
            break
    for symbol, example in dynamic.sizes.values():
        bounds = dynamic.bounds.get(symbol, ANY_SIZE)
        trace.oracle.declare(dynamic.size(symbol), symbol, example, bounds)
    for one, other in dynamic.equal:
        trace.oracle.decide(one, "==", other)
    sizes = host.lifted.sizes, dynamic.pairs
    host.sizes.exact, host.sizes.vary = dynamic.exact, dynamic.number_sizes
    host.tensors = StateTensors(trace, leaves, argument_types, *sizes)
    trace.oracle.one_program = dynamic.one_program
    thread.trace = trace
    try:
        with using_oracle(trace.oracle):
            for position, leaf in enumerate(leaves[:given]):
                proxies.append(
                    argument_tracer(trace, recorder, leaf, position, dynamic, labels[position])
                )
                if isinstance(leaf, Tensor):
                    argument_types[position] = proxies[-1]._type
            if trace.execution is not None:
                trace.execution.bind(argument_types)
            proxy_args, proxy_kwargs = copied(structure, iter(proxies), arguments)
            for place in met:
                host.take(place)
            host.lists.arguments = containers(structure, arguments)
            first_containers = firsts(host.lists.arguments)
            recorder.root(function, name)
            recorder.numbers_vary = bool(dynamic.numbers or host.lifted.has_numbers)
            attributes = trace.attributes = TensorAttributes(recorder, proxies, leaves)
            copies = ArgumentCopies(structure, (proxy_args, proxy_kwargs), host)
            with recorder, math_of_expressions(), functions_of_sizes():
                result = [function(*proxy_args, **proxy_kwargs)]
                record_hooks(trace, recorder)
                recorder.finish()
                trace.picked.finish()
            attributes.note()
            host.arrays.refuse_changes(name, recorder.guards.values(), trace.sources)
            host.happened = bool(recorder.effects.found)
            host.change_lists(host.lists.not_only_given())
            if host.lifted.raises != "never" and not recorder.effects.found:
                at_once = host.lifted.raises == "at once"
                host.require_constant(recorder.guards.values(), numbers=at_once)
            if not recorder.effects.found:
                host.require_known(recorder.caches.results())
            if recorder.number_was_asked:
                raise unknown_value("the type of a number")
            for mode, old, new in zip(Modes._fields, before, modes(), strict=True):
                if old != new:
                    raise unrepeatable(f"leaving {mode.replace('_', ' ')} in another state")
            proxies += host.tensors.proxies
            copies.first = len(leaves)
            shared = shared_results(result, copies.is_known)
            copies.shared = shared.outside | (shared.inside if host.happened else frozenset())
            host.refills, count = copies.refills(), copies.count
            result[0], own = copies.referring(result[0]), copies.shared
            del proxy_args, proxy_kwargs, copies
            held = host.tensors.held
            host.collect(result[0], recorder.guards.values(), own)
            if host.steps and recorder.caches.grew():
                host.effects.append("a function remembers what it computed (functools.lru_cache)")
            outputs = Outputs(trace, proxies)
            captured = _finish(
                trace, host, result, outputs, leaves, structure, argument_types, name
            )
    except BaseException as error:
        host.rewind()
        if isinstance(error, AliasDiscovered):
            error.storage = trace.apart.get(error.storage, error.storage)
        if recorder.number_was_asked and isinstance(error, Exception):
            give_up()
            raise unknown_value("the type of a number") from error
        left = recorder.effects.left()
        if isinstance(error, (AliasDiscovered, PlaceWanted, Uncompiled)) and left:
            give_up()  # for to begin again would be to do that twice
            hint = "; pass a clone()" if isinstance(error, AliasDiscovered) else ""
            raise CompileError(f"{name}: {error}, and before that {left[0]}{hint}") from None
        begins_again = isinstance(error, _BEGINS_AGAIN)
        ours = isinstance(error, (CompileError, UnboundedLoop))  # of the trace, not of the function
        raises = isinstance(error, Exception) and not ours
        if repeats == "as it is" and raises and not (begins_again or left):
            give_up()
            raise Raises(error) from None
        if repeats == "traced" or begins_again or left_tracers(recorder.guards.values()):
            give_up()
        raise
    finally:
        recorder.leave()
        thread.trace = trace.attributes = None
        set_modes(before)
    leave_to_the_call(trace, host, leaves)
    recorder.exempted |= trace.exempted
    captured.guards = recorder.result()
    captured.first_containers, captured.is_tangled = first_containers, bool(shared.inside)
    captured.number_arguments, captured.held = dynamic.numbers, held
    captured.found = leaves[given:]
    shared = set(trace.apart.values())
    captured.apart = frozenset(
        i for i, t in enumerate(leaves) if isinstance(t, Tensor) and t._storage in shared
    )
    if captured.host.refills or any(r.kind == "container" for r in captured.results):
        captured.container_count = count
    captured.modes = before
    captured.undo = withdraw
    trace.release()
    captured.stored_arguments = stored_arguments(proxies, leaves, host)
    captured.happened = bool(recorder.effects.found)
    captured.effects = [*recorder.effects.found, *host.effects, *effects_of(captured)]
    if host.lifted.raises == "at last" and not captured.effects:
        try:
            host.require_constant(recorder.guards.values())
        except StateVaries:
            undo()
            raise
    host.firsts.keep(captured.sources, captured.effects)
    attributes.hand_over()
    return captured


def _finish(
    trace: Trace,
    host: HostState,
    result: list[Any],
    outputs: Outputs,
    leaves: list[Any],
    structure: Structure,
    argument_types: dict[int, TensorType],
    name: str,
) -> Captured:
    """The record of a traced call; ``result`` is taken out of its list."""
    result_leaves, result_structure = flatten(result.pop())
    result_structure = _with_plain_keys(result_structure)
    results = [outputs.classify(leaf) for leaf in result_leaves]
    host.effects += objects_made(results, host.is_old)
    gradients = [
        (weakref.ref(target), outputs.argument_position(target), outputs.classify(gradient))
        for target, gradient in trace.gradients.written.items()
    ]
    kept = [target for target in trace.gradients.written if target._trace is None]
    del result_leaves
    host.finish(outputs)
    host.steps += leaves_made(outputs, trace.gradients.written)
    if outputs.has_views_of_lost_leaves:
        raise Uncompiled("it returns or stores a view of a leaf that it made")
    leaving = {outputs.values[result.position] for _, result in outputs.leaves()}
    written = written_values(trace, outputs.is_freed) if thread.grad_enabled else {}
    made = Leaves({v for v in trace.leaf_tensors if v.node is not None}, leaving)
    outputs.forget()
    escapes = escaped_tensors(trace, name)
    if escapes:
        results += [outputs.classify(tensor) for tensor in escapes]
        result_structure = Structure(tuple, (), (result_structure, *[LEAF] * len(escapes)))
        outputs.forget()
    grads = []
    for reference, where, gradient in gradients:
        goal = reference() if where is None else where
        if goal is not None:  # else made in the function, ends with it
            grads.append(GradEffect(goal, gradient))
        del goal
    del kept
    returned = len(outputs.values)
    histories = {i: outputs.output(value) for i, value in written.items()}
    graph = trace.build(outputs.values, name)
    stored = [o for step in host.steps for o in step.operands if isinstance(o, Result)]
    tracked = [r for r in (*results, *stored) if r.tracked and not r.freed]
    tracked_outputs = {*(r.position for r in tracked if r.kind == "fresh"), *histories.values()}
    differentiable = thread.grad_enabled and bool(tracked or histories)
    tracked_inputs = reached_inputs(trace, graph, tracked_outputs) if differentiable else ()
    check_gradients_outside(trace, graph, tracked_outputs if differentiable else (), made)
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
        found_sizes={} if trace.execution is None else trace.execution.found_sizes,
        tracked_inputs=tracked_inputs,
        tracked_outputs=tuple(sorted(tracked_outputs)) if differentiable else (),
        histories=histories,
        returned=returned,
        aliases=list(trace.aliases),
        execution=trace.execution,
        escapes=escapes,
        retained=outputs.retained,
        layouts=asked_layouts(trace),
    )


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


def actual_sizes(captured: Captured, leaves: Sequence[Any]) -> dict[str, int]:
    """The values of the symbols in the traced call, for its argument leaves."""
    return symbol_values(captured.argument_types, leaves) | captured.host.sizes.values()


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
