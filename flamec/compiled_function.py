"""A compiled function: check, run the matching variant, or trace a new one.

A ``CompiledFunction`` keeps a bounded list of ``Program`` variants, most recently
used first. ``stats`` counts what happened; ``programs`` shows the variants.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any
from weakref import WeakSet

from flamec.bound_methods import BoundMethods, name_of
from flamec.call_path import CHANGED
from flamec.capture import Captured, actual_sizes, capture
from flamec.changed_arguments import containers
from flamec.collection_pause import collector_rests
from flamec.companion_sizes import fewer_companions
from flamec.compilation_stats import GuardFailure, Stats
from flamec.config import CompileOptions, default_options
from flamec.counted_loops import needs_counts
from flamec.differentiable import DifferentiableProgram
from flamec.effects import EffectAhead, Effects
from flamec.errors import (
    CompileError,
    DataDependentError,
    Raises,
    Uncompiled,
    is_framework_file,
    user_location,
    warnings_put_off,
)
from flamec.escapes import OnceProgram, trust
from flamec.float32_precision import chosen_precision
from flamec.guard_code import TrustedCheck
from flamec.ir.graph import Graph, Value
from flamec.ir.passes.differentiate_while import UnboundedLoop
from flamec.ir.passes.plan_memory import MemoryUse, memory_use
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.places_as_numbers import places_as_numbers
from flamec.preparation import prepare
from flamec.prepared import Prepared
from flamec.program import Program
from flamec.runtime.fork_locks import held_in_forks
from flamec.segments import FoundSize, SegmentCache, SizesDiffer
from flamec.size_oracle import needed_as_numbers
from flamec.sized_runner import planned
from flamec.split_program import DIVERGED, Attempt, SplitProgram
from flamec.state import loops_counted, memory_budget, process, thread
from flamec.structures import flatten
from flamec.tails import Tails
from flamec.traced_arguments import Dynamic
from flamec.uncompiled_calls import UncompiledCalls
from flamec.varying_arguments import VaryingArguments, call_key, exact_sizes, guards_hold
from flamec.varying_state import Lifted, StateVaries

Variant = Program | DifferentiableProgram | SplitProgram
MAX_PREPARED = 64  # compiled graphs that a function keeps
_MOST_ROUNDS = 16  # of traces that each find state in another object, made unseen
every_compiled_function: WeakSet[CompiledFunction] = WeakSet()
_MOST_FIRST_EFFECTS = 4  # different ones that calls may have once, as a log of another kind begins


class CompiledFunction:
    """A function that runs as compiled programs; made by ``flamec.compile``."""

    def __init__(
        self,
        function: Callable[..., Any],
        options: CompileOptions | None = None,
        dynamic: bool | None = None,
        inputs: Callable[[], Any] | None = None,
    ) -> None:
        functools.update_wrapper(self, function)
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self.function = function
        self.dynamic = dynamic
        self.example_inputs = inputs
        self.stats = Stats()
        self.programs: list[Variant] = []
        self._options = options
        self._lock = held_in_forks(threading.RLock())
        self._arguments = VaryingArguments()
        self._changed_state: dict[Any, set[str]] = {}  # how calls of a key did so, as the first may
        self._python_runs: set[Any] = set()
        self._questions: set[Any] = set()  # such calls may ask what kind of object a number is
        self._uncompiled = UncompiledCalls()
        self._lifted = Lifted()
        self._tails = Tails(function)
        self._sizes_differ = False  # those that values decide, from call to call
        self._counting = False  # steps of loops without a bound, for gradients
        self._prepared: OrderedDict[Any, Prepared] = OrderedDict()
        self._segments = SegmentCache(self._make)
        self._warned: set[str] = set()
        self.effects: list[str] = []  # of the last call whose Python code had to be run
        self._bound: BoundMethods[CompiledFunction] = BoundMethods()
        every_compiled_function.add(self)

    @property
    def options(self) -> CompileOptions:
        if self._options is None:
            self._options = default_options()
        return self._options

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        return self._bound.of(
            instance, lambda: self._made_for(self.function.__get__(instance, owner))
        )

    def __reduce__(self) -> Any:
        """A name for pickle and a copy if the function is found there, else what it is made of:
        a copy of a module has its own."""
        made = CompiledFunction, (self.function, self._options, self.dynamic, self.example_inputs)
        return name_of(self) or made

    def _made_for(self, function: Callable[..., Any]) -> CompiledFunction:
        return CompiledFunction(function, self._options, self.dynamic, self.example_inputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if thread.trace is not None:
            return self.function(*args, **kwargs)  # part of an outer compiled function
        self.stats.calls += 1
        programs = self.programs
        try:
            for program in programs:
                found = program.check.arguments(args, kwargs)
                if found:
                    if program.__class__ is SplitProgram:
                        break
                    leaves, sizes = found
                    result = program.run(leaves, sizes)
                    if result is CHANGED:
                        continue  # of its captured tensors: _compile checks them anew
                    if program is not programs[0]:
                        self._move_to_front(program)
                    parts = program.captured.parts
                    return result if parts is None else parts.finish(result)
            return self._compile(args, kwargs)
        except Uncompiled as found:  # nothing has happened yet
            reason = found
        return self._run_uncompiled(args, kwargs, reason)

    def _move_to_front(self, program: Variant) -> None:
        with self._lock:
            if program in self.programs:
                self.programs = [program, *(p for p in self.programs if p is not program)]

    # compiling ------------------------------------------------------------------
    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a program that holds after all, or a new one."""
        if process.anomaly is not None:
            return self.function(*args, **kwargs)
        attempt = Attempt()
        while True:
            with collector_rests():
                program, found = self._find(args, kwargs, attempt)
            given = (*found, attempt) if isinstance(program, (SplitProgram, OnceProgram)) else found
            try:
                result = program.run(*given)
            except Uncompiled as reason:
                if isinstance(program, OnceProgram):  # whose effects have happened
                    raise CompileError(f"{self.name}: {reason}") from None
                raise
            if result is CHANGED:  # by another thread, between check and call
                attempt = Attempt()
            elif result is not DIVERGED:
                parts = program.captured.parts
                return result if parts is None else parts.finish(result)

    def _run_uncompiled(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], reason: Uncompiled
    ) -> Any:
        """Call the function as it is. It is no news at the first call, which may set things up."""
        if isinstance(reason, Raises):
            self.function(*args, **kwargs)
            raise reason.error  # of the trace alone
        if self.options.fullgraph:
            raise CompileError(f"{self.name}: {reason}, which no program can do") from None
        key = call_key(*flatten((args, kwargs)))
        self.stats.python_runs += 1
        self.effects = [str(reason)]
        self._uncompiled.note(key, str(reason))
        if key in self._changed_state:
            self._warn(
                "uncompiled",
                f"{self.name}: {reason}. So {self.name} runs uncompiled in such calls.",
            )
        self._changed_state.setdefault(key, set())
        return self.function(*args, **kwargs)

    def _find(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], attempt: Attempt
    ) -> tuple[Variant | OnceProgram, Any]:
        """A program whose complete check accepts the arguments, made if there is none."""
        with self._lock:
            for program in self.programs:
                found = program not in attempt.diverged and program.check(args, kwargs)
                if found:
                    self._move_to_front(program)
                    return program, found
            self._uncompiled.leave(*flatten((args, kwargs)))
            started = time.perf_counter()
            if self.programs:
                self.stats.guard_failures.append(
                    GuardFailure(self._difference(args, kwargs, attempt), user_location())
                )
            self._sizes_differ |= any(
                isinstance(step, FoundSize) or step.is_size for step in attempt.diverged.values()
            )
            captured = self.trace(args, kwargs, must_compile=False)
            while self._tails.rejects(captured) and captured.undo and not captured.happened:
                captured.undo()
                captured = self.trace(args, kwargs, must_compile=False)
            if captured.execution is not None:
                attempt.restart(captured.execution)
            effects = captured.effects
            captured.undo = None  # it knows what the function changed
            program = self._program_of(captured)
            found = False if effects else program.check(args, kwargs)
            if found:
                self._keep(program)
            else:
                if not effects:
                    reason = program.check.first_failure(args, kwargs)
                    effects = [f"it changed the state that it depends on: {reason}"]
                program, found = self._once(program, captured, effects, args, kwargs)
            captured.found.clear()
            self.stats.compile_seconds += time.perf_counter() - started
            if process.recorder is not None:
                process.recorder.compilation(self.name, started)
            return program, found

    def _difference(self, args: tuple[Any, ...], kwargs: dict[str, Any], attempt: Attempt) -> str:
        """Why the program used last is not the one for a call."""
        last = self.programs[0]
        if last in attempt.diverged:
            return f"another value than: {attempt.diverged[last]}"
        return last.check.first_failure(args, kwargs)

    def _once(
        self,
        program: Variant,
        captured: Captured,
        effects: list[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[OnceProgram, Any]:
        """The program of a call whose Python code has effects, and what to run it with."""
        self.effects = effects
        why = f"{self.name}: {effects[0]}"
        if self.options.fullgraph:
            raise CompileError(
                f"{why}. That would happen only while tracing, and fullgraph=True allows "
                "nothing that is not part of the program: return what should be kept "
                f"(at {user_location()})"
            )
        leaves, structure = flatten((args, kwargs))
        key = call_key(leaves, structure)
        self.stats.python_runs += 1
        parts = self._tails.parts
        known = self._changed_state.get(key)
        goes_on = captured.happened or (
            known is not None and (effects[0] in known or len(known) >= _MOST_FIRST_EFFECTS)
        )
        if self._tails.after_effects(captured):
            if self._tails.parts is not parts:  # all is new
                self.programs = []
                self._python_runs.clear()
                self._changed_state.clear()
                goes_on = False
        elif goes_on:
            self._warn(
                "python",
                f"{why}. So the Python code of {self.name} is run at each call; what it computes "
                "is compiled. Without that, calls would be faster.",
            )
        if goes_on:
            self._python_runs.add(key)
        self._changed_state.setdefault(key, set()).add(effects[0])
        trust(program)
        sizes = actual_sizes(captured, [*leaves, *captured.found])
        held = containers(structure, (args, kwargs)) if captured.container_count else ()
        return OnceProgram(program, captured, self.name), (
            (*leaves, *captured.found, *held),
            tuple(sizes[s] for s in captured.given_symbols),
        )

    def compile_variant(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Variant:
        """Trace and compile for these arguments, without running the program."""
        captured = self.trace(args, kwargs)
        captured.found.clear()
        return self._program_of(captured)

    def _program_of(self, captured: Captured) -> Variant:
        if captured.execution is not None and captured.execution.steps:
            return SplitProgram(captured, self._make_own, self._whole_program)
        captured.execution = None  # it knows the call's arguments
        return self._whole_program(captured)

    def _whole_program(
        self, captured: Captured, given: Collection[Value] = ()
    ) -> Program | DifferentiableProgram:
        make = self._make if captured.effects else self._make_own  # those are for one call each
        if captured.tracked_outputs:
            return DifferentiableProgram(captured, make, self.options.memory_budget, given)
        captured = places_as_numbers(captured)
        check = TrustedCheck() if captured.effects else None
        graph = settle_sizes(captured.graph, captured.equal_sizes)
        return Program(captured, make(graph, captured.symbols), check=check)

    def _make_own(self, graph: Graph, symbols: tuple[str, ...]) -> Prepared:
        """The graph made runnable for one program alone.

        A program leaves the addresses of captured tensors with it from call to call, so two
        programs with equal graphs and other tensors need two.
        """
        prepared = prepare(graph, symbols, self.options)
        self.stats.count_kernels(prepared)
        prepared.listeners.append(lambda program: self.stats.count_loaded(program))
        return prepared

    def _make(self, graph: Graph, symbols: tuple[str, ...]) -> Prepared:
        """The graph made runnable, once for equal graphs: for what sets all addresses each time."""
        key = graph.fingerprint(), symbols, chosen_precision(graph)
        known = self._prepared.get(key)
        if known is not None:
            self._prepared.move_to_end(key)
            return known
        prepared = self._prepared[key] = self._make_own(graph, symbols)
        if len(self._prepared) > MAX_PREPARED:
            self._prepared.popitem(last=False)
        return prepared

    def trace(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], must_compile: bool = True
    ) -> Captured:
        """Run the function on tracers; sizes and numbers that varied before become inputs."""
        leaves, structure = flatten((args, kwargs))
        key = call_key(leaves, structure)
        dynamic = self._arguments.dynamic(key, leaves, self.dynamic)
        dynamic.number_sizes = self.dynamic is not False
        differ = self._sizes_differ or bool(dynamic.sizes)  # of other operands, other counts
        if self.dynamic or (differ and self.dynamic is None):
            dynamic = replace(dynamic, found="example")
        runs_python = key in self._python_runs
        if runs_python:  # Python code sees plain numbers, and nothing happens twice
            dynamic = Dynamic()
        self._lifted.begin([p.captured.guards for p in self.programs], runs_python, self.dynamic)
        nothing = Lifted("at last")
        lifted = nothing if runs_python and key in self._questions else self._lifted
        self.stats.traces += 1
        segments = None if self.options.fullgraph else self._segments
        constant, rounds = False, 0  # numbers among the arguments, because of an error
        last = "" if must_compile else "as it is"  # how it runs when no trace is left to try
        while True:
            numbers = bool(dynamic.numbers or lifted)
            inexact = dynamic.sizes != exact_sizes(dynamic, leaves) or dynamic.found == "example"
            inexact |= numbers and not dynamic.exact
            again = inexact or numbers or bool(dynamic.sizes)
            repeats = "traced" if again else last
            function = self.function if must_compile else self._tails.traced
            effects = Effects(stops=again and lifted.raises != "at last")
            traced = (
                function,
                args,
                kwargs,
                dynamic,
                self.name,
                segments,
                repeats,
                lifted,
                effects,
            )
            try:
                budget, counted = self.options.memory_budget, loops_counted(self._counting)
                with memory_budget(budget), counted, warnings_put_off() as tell_warnings:
                    captured = capture(*traced)
            except Uncompiled as found:
                if (self.options.fullgraph or must_compile) and not isinstance(found, Raises):
                    raise CompileError(f"{self.name}: {found}, which no program can do") from None
                raise
            except StateVaries as found:
                self.stats.traces += 1
                self._python_runs.discard(key)
                lifted.add(found.guards)
                lifted.add_lists(found.grown)
                lifted.make_constant(found.read)
                rounds += 1
                lifted.raises = "at once" if rounds < _MOST_ROUNDS else "never"
                continue
            except EffectAhead:
                self.stats.traces += 1
                self._counting |= not effects.is_counted
                dynamic, lifted = Dynamic(), nothing
                continue
            except SizesDiffer:
                pass
            except UnboundedLoop:
                if segments is None or self._counting:
                    raise
                self._counting = True
                continue
            except Exception as error:  # perhaps for these sizes or numbers only
                if again and effects.left():
                    self._questions.add(key)
                    self._warn(
                        "twice",
                        f"{self.name}: {effects.left()[0]}, in this call twice, due to {error}",
                    )
                if dynamic.companions:
                    dynamic = fewer_companions(dynamic)
                    continue
                if isinstance(error, CompileError) and dynamic.numbers:
                    self._arguments.keep_numbers(key)
                    dynamic = replace(dynamic, numbers=frozenset())
                    continue
                if lifted:
                    lifted = lifted.with_fewer()
                    continue
                if not inexact or isinstance(error, DataDependentError):
                    if dynamic.numbers:
                        dynamic, constant = replace(dynamic, numbers=frozenset()), True
                    elif dynamic.sizes and not isinstance(error, CompileError):
                        dynamic = replace(dynamic, sizes={})  # to name sizes as they are
                    else:
                        raise
                    continue
            else:
                captured.parts = self._tails.parts_of(function)
                known = dynamic
                counts = segments is not None and not self._counting and needs_counts(captured)
                if counts:
                    self._counting = True
                elif guards_hold(captured, leaves):
                    dynamic = self._arguments.settled(key, known, captured)
                    if dynamic is known:
                        if lifted is nothing and effects.asks:
                            self._questions.add(key)
                        elif lifted not in (nothing, self._lifted):
                            self._lifted.keep(lifted)
                        if constant:
                            self._arguments.keep_numbers(key)
                        tell_warnings()
                        return captured
                assert captured.undo is not None
                captured.undo()
                if counts or dynamic is not known:
                    continue
            found = "exact" if dynamic.found == "example" else dynamic.found
            own = exact_sizes(dynamic, leaves)
            dynamic = replace(dynamic, sizes=own, found=found, exact=True)

    def _keep(self, program: Variant) -> None:
        self.programs = [program, *self.programs]
        limit = self.options.max_variants
        if len(self.programs) > limit:
            self.programs = self.programs[:limit]
            self.stats.evictions += 1
            reasons = "; ".join(str(f) for f in self.stats.guard_failures[-3:])
            self._warn(
                "variants",
                f"{self.name} was compiled for {limit + 1} different assumptions; the "
                f"least recently used program is dropped from now on. Last reasons: {reasons}"
                f"{needed_as_numbers(g for p in self.programs for g in p.captured.shape_guards)}",
            )

    def _warn(self, kind: str, message: str) -> None:
        """Warn once of each kind, at the line of the call."""
        if kind not in self._warned:
            self._warned.add(kind)
            depth = 2
            frame = sys._getframe(1)
            while frame.f_back is not None and is_framework_file(frame.f_code.co_filename):
                frame, depth = frame.f_back, depth + 1
            warnings.warn(message, RuntimeWarning, stacklevel=depth)

    def memory_use(self) -> MemoryUse:
        """Predicted bytes of a call, by the program that was used last, for the sizes that it was
        traced with: inputs, outputs, arena. Of several parts the one that takes most.

        RuntimeError before the first call, and for a program without a plan (backend="evaluate").
        """
        program = self.programs[0] if self.programs else None
        hints = program.captured.trace.oracle.hints if program else {}
        parts = [(planned(p, hints), p.threads) for _, p in program.parts] if program else []
        uses = [memory_use(*found, threads) for found, threads in parts if found]
        if not uses:
            raise RuntimeError(f"{self.name} has no compiled program whose memory is planned")
        return max(uses, key=lambda use: use.total)

    def reset(self) -> None:
        """Forget all programs and counters."""
        with self._lock:
            self.programs = []
            self.stats = Stats()
            self._prepared.clear()
            self._segments = SegmentCache(self._make)
            self._tails = Tails(self.function)
            for memory in (
                self._arguments,
                self._changed_state,
                self._python_runs,
                self._questions,
                self._uncompiled,
                self._lifted,
            ):
                memory.clear()

    def __repr__(self) -> str:
        return f"<compiled {getattr(self.function, '__qualname__', self.function)!s}>"
