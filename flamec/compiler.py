"""``@flamec.compile``: check, run the matching variant, or trace a new one.

A ``CompiledFunction`` keeps a bounded list of ``Program`` variants, most recently
used first. ``stats`` counts what happened; ``programs`` shows the variants.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from flamec.backends import prepare
from flamec.call_path import CHANGED
from flamec.capture import Captured, Dynamic, actual_sizes, capture
from flamec.config import CompileOptions, default_options
from flamec.differentiable import DifferentiableProgram
from flamec.errors import CompileError, DataDependentError, user_location
from flamec.ir.graph import Location
from flamec.ir.passes.settle_sizes import settle_sizes
from flamec.prepared import Prepared
from flamec.program import Program
from flamec.state import process, thread
from flamec.structures import flatten
from flamec.tensor import Tensor

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class GuardFailure:
    """Why an existing variant could not be used: the assumption, and where the call was made."""

    reason: str
    location: Location | None

    def __str__(self) -> str:
        return f"{self.reason} (call at {self.location})" if self.location else self.reason


@dataclass
class Stats:
    """Counters of one compiled function.

    ``kernels_compiled`` and ``kernels_from_cache`` count steps of execution plans;
    ``compile_seconds`` is the time spent tracing, compiling and loading, all variants together.
    """

    calls: int = 0
    traces: int = 0
    kernels_compiled: int = 0
    kernels_from_cache: int = 0
    guard_failures: list[GuardFailure] = field(default_factory=list)
    evictions: int = 0
    compile_seconds: float = 0.0


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
        self.programs: list[Program | DifferentiableProgram] = []
        self._options = options
        self._lock = threading.RLock()
        self._first_sizes: dict[Any, dict[tuple[int, int], int]] = {}
        self._varying: dict[Any, set[tuple[int, int]]] = {}
        self._numbers: dict[Any, dict[int, Any]] = {}
        self._varying_numbers: dict[Any, set[int]] = {}
        self._static_numbers: set[Any] = set()
        self._warned = False
        self._bound_methods: weakref.WeakKeyDictionary[Any, CompiledFunction] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def options(self) -> CompileOptions:
        if self._options is None:
            self._options = default_options()
        return self._options

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = self._bound_methods.get(instance)
        if bound is None:
            method = self.function.__get__(instance, owner)  # type: ignore[attr-defined]
            bound = CompiledFunction(method, self._options, self.dynamic, self.example_inputs)
            self._bound_methods[instance] = bound
        return bound

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if thread.trace is not None:
            return self.function(*args, **kwargs)  # part of an outer compiled function
        self.stats.calls += 1
        programs = self.programs
        for program in programs:
            found = program.check.arguments(args, kwargs)
            if found:
                leaves, sizes = found
                result = program.run(leaves, sizes)
                if result is CHANGED:
                    continue  # of its captured tensors: _compile checks them anew
                if program is not programs[0]:
                    self._move_to_front(program)
                return result
        return self._compile(args, kwargs)

    def _move_to_front(self, program: Program | DifferentiableProgram) -> None:
        with self._lock:
            if program in self.programs:
                self.programs = [program, *(p for p in self.programs if p is not program)]

    # compiling ------------------------------------------------------------------
    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a program that holds after all, or a new one."""
        if process.anomaly is not None:
            return self.function(*args, **kwargs)
        while True:
            program, found = self._find(args, kwargs)
            result = program.run(*found)
            if result is not CHANGED:  # by another thread, between check and call
                return result

    def _find(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Program | DifferentiableProgram, Any]:
        """A program whose complete check accepts the arguments, made if there is none."""
        with self._lock:
            for program in self.programs:
                found = program.check(args, kwargs)
                if found:
                    self._move_to_front(program)
                    return program, found
            started = time.perf_counter()
            if self.programs:
                reason = self.programs[0].check.first_failure(args, kwargs)
                self.stats.guard_failures.append(GuardFailure(reason, user_location()))
            program = self.compile_variant(args, kwargs)
            found = program.check(args, kwargs)
            if not found:
                reason = program.check.first_failure(args, kwargs)
                raise CompileError(
                    f"{self.name}: tracing changed the state that the program depends on, so "
                    f"it would be traced anew at each call: {reason} (at {user_location()})"
                )
            self._keep(program)
            self.stats.compile_seconds += time.perf_counter() - started
            return program, found

    def compile_variant(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Program | DifferentiableProgram:
        """Trace and compile for these arguments, without running the program."""
        captured = self.trace(args, kwargs)
        program: Program | DifferentiableProgram
        if captured.tracked_outputs:
            program = DifferentiableProgram(captured, self.options, self._count)
        else:
            program = Program(captured, self._count(self.prepare(captured)))
        return program

    def prepare(self, captured: Captured) -> Prepared:
        graph = settle_sizes(captured.graph, captured.equal_sizes)
        return prepare(graph, captured.symbols, self.options)

    def trace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Captured:
        """Run the function on tracers; sizes and numbers that varied before become inputs."""
        leaves, structure = flatten((args, kwargs))
        key = (structure, tuple(_leaf_kind(leaf) for leaf in leaves))
        dynamic = self._dynamic(key, leaves)
        self.stats.traces += 1
        name = self.name
        try:
            captured = capture(self.function, args, kwargs, dynamic, name)
        except DataDependentError:
            if not dynamic.numbers:
                raise
            self._static_numbers.add(key)
            dynamic = Dynamic(dynamic.sizes)
            captured = capture(self.function, args, kwargs, dynamic, name)
        sizes = actual_sizes(captured, leaves)
        if not all(
            g.check({**captured.trace.oracle.hints, **sizes}) for g in captured.shape_guards
        ):
            exact = {k: (s, sizes.get(s, e)) for k, (s, e) in dynamic.sizes.items()}
            captured = capture(self.function, args, kwargs, Dynamic(exact, dynamic.numbers), name)
        return captured

    def _dynamic(self, key: Any, leaves: list[Any]) -> Dynamic:
        """What differs from earlier calls with the same structure."""
        sizes: dict[tuple[int, int], int] = {
            (position, axis): size
            for position, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
            for axis, size in enumerate(leaf._type.shape)
            if isinstance(size, int)
        }
        marked = {
            (position, axis)
            for position, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
            for axis in leaf.__dict__.get("_dynamic_axes", ())
        }
        first = self._first_sizes.setdefault(key, sizes)
        varying = self._varying.setdefault(key, set())
        if self.dynamic is not False:
            varying |= {k for k, size in sizes.items() if first[k] != size}
        if self.dynamic:
            varying |= {k for k, size in sizes.items() if size > 1}
        varying |= marked
        names: dict[tuple[int, int], str] = {}
        symbols: dict[tuple[int, int], tuple[str, int]] = {}
        for place in sorted(varying):
            pair = (first[place], sizes[place])
            name = names.setdefault(pair, f"s{len(names)}")
            example = next((s for s in pair if s > 1), 2 + len(names))
            symbols[place] = (name, example)
        numbers = {
            position: leaf
            for position, leaf in enumerate(leaves)
            if isinstance(leaf, (int, float)) and not isinstance(leaf, bool)
        }
        first_numbers = self._numbers.setdefault(key, numbers)
        varied = self._varying_numbers.setdefault(key, set())
        varied |= {p for p, v in numbers.items() if first_numbers[p] != v}
        return Dynamic(symbols, frozenset(() if key in self._static_numbers else varied))

    def _count(self, prepared: Prepared) -> Prepared:
        self.stats.kernels_compiled += prepared.kernels_compiled
        self.stats.kernels_from_cache += prepared.kernels_from_cache
        return prepared

    def _keep(self, program: Program | DifferentiableProgram) -> None:
        self.programs = [program, *self.programs]
        limit = self.options.max_variants
        if len(self.programs) > limit:
            self.programs = self.programs[:limit]
            self.stats.evictions += 1
            if not self._warned:
                self._warned = True
                reasons = "; ".join(str(f) for f in self.stats.guard_failures[-3:])
                warnings.warn(
                    f"{self.name} was compiled for {limit + 1} different assumptions; the "
                    f"least recently used program is dropped from now on. Last reasons: {reasons}",
                    RuntimeWarning,
                    stacklevel=4,
                )

    def reset(self) -> None:
        """Forget all programs and counters."""
        with self._lock:
            self.programs = []
            self.stats = Stats()
            for memory in (
                self._first_sizes,
                self._varying,
                self._numbers,
                self._varying_numbers,
                self._static_numbers,
            ):
                memory.clear()

    def __repr__(self) -> str:
        return f"<compiled {getattr(self.function, '__qualname__', self.function)!s}>"


def _leaf_kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (leaf.dtype.name, leaf.ndim)
    return type(leaf).__name__


_MODES: dict[str | None, dict[str, Any]] = {
    None: {},
    "default": {},
    "reduce-overhead": {},
    "max-autotune": {"autotune": "max"},
    "max-autotune-no-cudagraphs": {"autotune": "max"},
}


def _own_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``torch.compile`` as ours; ValueError for what has no counterpart."""
    mode = options.pop("mode", None)
    if mode not in _MODES:
        raise ValueError(f"flamec.compile: unknown mode {mode!r}; known: {[*_MODES]}")
    options.pop("fullgraph", None)
    for name in ("options", "disable"):
        if options.pop(name, None):
            raise ValueError(f"flamec.compile has no counterpart of torch.compile's {name}=")
    if options.get("backend", "") in ("inductor", None):
        del options["backend"]
    return {**_MODES[mode], **options}


@overload
def compile(function: F) -> F: ...
@overload
def compile(
    function: None = None,
    *,
    dynamic: bool | None = None,
    inputs: Callable[[], Any] | None = None,
    **options: Any,
) -> Callable[[F], F]: ...


def compile(
    function: Any = None,
    *,
    dynamic: bool | None = None,
    inputs: Callable[[], Any] | None = None,
    **options: Any,
) -> Any:
    """Compile a function, a method, or a module.

    Usable as ``@flamec.compile``, ``@flamec.compile(dynamic=True)`` or
    ``compiled = flamec.compile(model)``. ``dynamic``: None makes a size symbolic
    once it has changed, True from the first call, False never. ``inputs``: a function
    that returns example arguments (a tuple, or a dict of keyword arguments) for
    the command line tools. Further options are fields of ``CompileOptions``. Of PyTorch's own,
    ``mode="max-autotune"`` is ``autotune="max"``; ``fullgraph``, ``disable=False``, the other modes
    and ``backend="inductor"`` ask for nothing that is not so anyway.
    """
    options = _own_options(options)
    if function is None:
        return lambda f: compile(f, dynamic=dynamic, inputs=inputs, **options)
    settings = default_options(**options) if options else None
    if hasattr(function, "named_parameters"):
        from flamec.nn.compiled import CompiledModule

        return CompiledModule(function, CompiledFunction(function, settings, dynamic, inputs))
    if not callable(function):
        raise TypeError(f"flamec.compile needs a callable, not {type(function).__name__}")
    return CompiledFunction(function, settings, dynamic, inputs)


def mark_dynamic(tensor: Tensor, *axes: int) -> None:
    """Make sizes of an argument symbolic from the first call; IndexError for a bad axis."""
    for axis in axes:
        if not -tensor.ndim <= axis < tensor.ndim:
            raise IndexError(f"mark_dynamic: axis {axis} of a tensor with {tensor.ndim} dimensions")
    wanted = {axis % tensor.ndim for axis in axes}
    tensor.__dict__["_dynamic_axes"] = wanted | tensor.__dict__.get("_dynamic_axes", set())
