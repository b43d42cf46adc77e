"""What the current thread is doing: tracing, recording for autograd, casting automatically.

One small mutable record a thread; everything that dispatch must know before
it can run an operation. The default dtype is the process's, as in PyTorch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar

from flamec.ir.types import Device, DType, bfloat16, float16, float32
from flamec.runtime.fork_locks import held_in_forks

if TYPE_CHECKING:
    from flamec.autograd.backward_pass import BackwardPass
    from flamec.profiler.recorder import Recorder
    from flamec.trace import Trace
    from flamec.watching import Observer

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class AutocastState:
    """What mixed precision does now. Equal states are one object: see ``autocast_state``.

    ``enabled``: the types of devices on which functions cast their operands; ``dtypes``: the
    lower precision of each type of device; ``cache_enabled``: whether casts of parameters are kept.
    """

    enabled: frozenset[str]
    dtypes: tuple[tuple[str, DType], ...]
    cache_enabled: bool

    def dtype(self, device_type: str) -> DType:
        """The lower precision on a type of device; KeyError for an unknown one."""
        return dict(self.dtypes)[device_type]

    def with_enabled(self, device_type: str, enabled: bool) -> AutocastState:
        rest = self.enabled - {device_type}
        return autocast_state(
            rest | {device_type} if enabled else rest, self.dtypes, self.cache_enabled
        )

    def with_dtype(self, device_type: str, dtype: DType) -> AutocastState:
        dtypes = tuple((d, dtype if d == device_type else t) for d, t in self.dtypes)
        return autocast_state(self.enabled, dtypes, self.cache_enabled)

    def with_cache(self, cache_enabled: bool) -> AutocastState:
        return autocast_state(self.enabled, self.dtypes, cache_enabled)


@cache
def autocast_state(
    enabled: frozenset[str], dtypes: tuple[tuple[str, DType], ...], cache_enabled: bool
) -> AutocastState:
    """The one object for this state, so that a guard compares by identity."""
    return AutocastState(enabled, dtypes, cache_enabled)


class ThreadState(threading.local):
    """``trace``: the trace in progress, or None. ``grad_enabled``: record for autograd.

    ``saved_hooks``: what the tape does with tensors that it saves (``autograd/saved_tensors.py``).
    ``saved_hooks_refused``: the message of the error that setting them is, or None.
    ``backward``: the backward pass in progress, or None.
    ``outer_devices``: the defaults around each ``with device`` that was entered.
    ``cuda_device``: the number of the GPU that ``"cuda"`` names. ``default_device``: where
    factory functions make tensors that are given no device; None is the CPU, unless set.
    ``autocast``: what mixed precision does; ``autocast_regions``: what it did before each
    region that was entered; ``autocast_casts``: the parameters cast in the outermost region
    (see ``functional/autocasting.py``).
    ``memory_budget``: of the function that is traced. ``loops_counted``: see ``loops_counted()``.
    ``watch``, ``observer``: what looks at calls while a function is traced (``watching.py``).
    """

    trace: Trace | None = None
    memory_budget: float = 1.0
    loops_counted: bool = False
    watch: Callable[..., None] | None = None
    observer: Observer | None = None
    grad_enabled: bool = True
    saved_hooks: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None
    saved_hooks_refused: str | None = None
    backward: BackwardPass | None = None
    cuda_device: int = 0
    default_device: Device | None = None
    autocast: AutocastState = autocast_state(
        frozenset(), (("cpu", bfloat16), ("cuda", float16)), True
    )

    def __init__(self) -> None:
        self.autocast_regions: list[AutocastState] = []
        self.outer_devices: list[Device | None] = []
        self.autocast_casts: dict[Any, Any] = {}


@dataclass(frozen=True, eq=False)
class Float32Precision:
    """How a GPU multiplies float32 in matrix products and in convolutions, in the words of
    ``CodegenOptions``. Equal ones are one object."""

    products: str
    convolutions: str


@cache
def float32_precision(products: str, convolutions: str) -> Float32Precision:
    """The one object for a choice."""
    return Float32Precision(products, convolutions)


class ProcessState:
    """``default_dtype``: the dtype of float literals and factory functions.
    ``anomaly``: None, or in anomaly mode whether NaNs are errors (``autograd/anomaly_mode.py``).
    ``hook_changes``: how often hooks of tensors were registered or taken off.
    ``step_hook_changes``: the same of hooks of optimizers' steps.
    ``recorder``: what is told of operations and modules while a profile is made (``profiler/``).
    ``float32_precision``: how a GPU multiplies float32 (``float32_precision.py``).
    ``deterministic``, ``deterministic_warns``: see ``use_deterministic_algorithms``.
    """

    default_dtype: DType = float32
    anomaly: bool | None = None
    hook_changes: int = 0
    step_hook_changes: int = 0
    recorder: Recorder | None = None
    float32_precision: Float32Precision = float32_precision("tf32x3", "tf32")
    deterministic: bool = False
    deterministic_warns: bool = False


class Modes(NamedTuple):
    """What code may set for its thread or the process, and what a trace leaves as it was."""

    grad_mode: bool
    autocast: AutocastState
    default_device: Device | None
    default_dtype: DType


thread = ThreadState()
process = ProcessState()
# held while a function is traced: its places hold stand-ins, and classes are instrumented, for all
# threads, so programs write to places between traces alone
one_trace = held_in_forks(threading.RLock())


def modes() -> Modes:
    """What is set for this thread and the process."""
    return Modes(thread.grad_enabled, thread.autocast, thread.default_device, process.default_dtype)


def set_modes(modes: Modes) -> None:
    """Set everything anew."""
    thread.grad_enabled, thread.autocast, thread.default_device, dtype = modes
    if process.default_dtype is not dtype:
        process.default_dtype = dtype


class set_grad_enabled:
    """Set gradient recording at once; as a context manager, for the block only."""

    def __init__(self, mode: bool) -> None:
        self.previous = thread.grad_enabled
        self.mode = bool(mode)
        thread.grad_enabled = self.mode

    def __enter__(self) -> None:
        thread.grad_enabled = self.mode

    def __exit__(self, *_: object) -> None:
        thread.grad_enabled = self.previous


class _GradMode:
    """A context manager and decorator that sets gradient recording."""

    mode: bool

    def __init__(self, function: Any = None) -> None:
        self._previous: list[bool] = []

    def __new__(cls, function: Any = None) -> Any:
        self = super().__new__(cls)
        if callable(function):  # used as a decorator without parentheses
            self.__init__()  # type: ignore[misc]  # its own
            return self(function)
        return self

    def __enter__(self) -> None:
        self._previous.append(thread.grad_enabled)
        thread.grad_enabled = self.mode

    def __exit__(self, *_: object) -> None:
        thread.grad_enabled = self._previous.pop()

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        mode = type(self)

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            with mode():
                return function(*args, **kwargs)

        return wrapper


class no_grad(_GradMode):
    """Within the block (or decorated function) nothing is recorded for autograd."""

    mode = False


class enable_grad(_GradMode):
    """Within the block (or decorated function) operations are recorded again."""

    mode = True


class inference_mode(no_grad):
    """As ``no_grad``; accepts PyTorch's optional ``mode`` argument."""

    def __init__(self, mode: Any = True) -> None:
        super().__init__()
        self.mode = not (mode is True or callable(mode))

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        return no_grad()(function) if not self.mode else function


def is_grad_enabled() -> bool:
    """Whether operations are recorded for autograd in this thread."""
    return thread.grad_enabled


def set_default_dtype(dtype: DType) -> None:
    """The dtype of Python floats and factory functions; TypeError unless floating point."""
    if not isinstance(dtype, DType) or not dtype.is_floating_point:
        raise TypeError(f"only floating-point dtypes can be the default dtype, not {dtype!r}")
    process.default_dtype = dtype


def get_default_dtype() -> DType:
    """The dtype of Python floats and factory functions."""
    return process.default_dtype


def is_compiling() -> bool:
    """Whether a function is traced, to be compiled."""
    return thread.trace is not None


def loops_counted(value: bool) -> AbstractContextManager[None]:
    """Trace the block with ``while_loop``s that count their steps (``counted_loops``)."""
    return _with_setting("loops_counted", value)


def memory_budget(value: float) -> AbstractContextManager[None]:
    """Trace the block for this memory budget."""
    return _with_setting("memory_budget", value)


@contextmanager
def _with_setting(name: str, value: Any) -> Iterator[None]:
    """In the block this thread has another value of a setting."""
    previous = getattr(thread, name)
    setattr(thread, name, value)
    try:
        yield
    finally:
        setattr(thread, name, previous)


@contextmanager
def trace_paused() -> Iterator[None]:
    """Run the block eagerly, outside the trace in progress.

    For work that happens once and whose result is captured, such as creating
    an optimizer's state.
    """
    previous, thread.trace = thread.trace, None
    try:
        yield
    finally:
        thread.trace = previous
