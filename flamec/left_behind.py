"""What a finished trace has left in Python: its tensors and numbers that were stored outside it.

In: a trace whose function has returned. Out: those that are still alive, and in words the effects
that a program cannot repeat.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from traceback import clear_frames
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.cached_functions import forget_tensors
from flamec.errors import CompileError
from flamec.guarded_values import is_constant
from flamec.references import replace_references
from flamec.segments import Decision
from flamec.tensor import RuntimeNumber, Tensor
from flamec.varying_state import StateVaries

if TYPE_CHECKING:
    from flamec.capture import Captured
    from flamec.host_state import HostState
    from flamec.trace import Trace
    from flamec.traced_results import Result

_UNCHANGEABLE = (
    *(type, Enum, range, slice, np.dtype, np.generic, ModuleType),
    *(FunctionType, BuiltinFunctionType, MethodType),
)


def free_cycles(is_left: Callable[[], Any], host: HostState) -> None:
    """Free what of a trace only cycles hold, if something ``is_left``.

    What a trace makes is young, because the collector rests while it runs. A cycle with an object
    that was there before takes a full collection, which looks at everything in the process; it is
    left to the first calls, as it matters only where it would be the function's only effect.
    """
    if is_left():
        gc.collect(1)
    if is_left() and host.lifted.raises != "at last":
        gc.collect()


def stored_arguments(
    proxies: list[Any], leaves: Sequence[Any], host: HostState
) -> list[tuple[Any, Any]]:
    """The tracers of arguments that somebody still knows, with their arguments."""
    pairs = [
        (weakref.ref(proxy), leaf)
        for proxy, leaf in zip(proxies, leaves, strict=True)
        if isinstance(proxy, Tensor)
    ]
    proxies.clear()
    free_cycles(lambda: any(ref() is not None for ref, _ in pairs), host)
    return [(ref, leaf) for ref, leaf in pairs if ref() is not None]


def effects_of(captured: Captured) -> list[str]:
    """What the trace shows of effects that a program cannot repeat."""
    found = []
    for tensor in captured.escapes:
        value = tensor._cached[2] if tensor._cached else None
        where = value.node.location if value is not None and value.node is not None else None
        what = "number" if isinstance(tensor, RuntimeNumber) else "tensor"
        found.append(
            f"a {what} computed in the compiled function (at {where}) was stored outside it, in an "
            "attribute, list or global"
        )
    if captured.stored_arguments:
        found.append("an argument of the compiled function was stored outside it")
    steps = captured.execution.steps if captured.execution is not None else []
    found += [
        f"{step.what} gave Python a value (at {step.location}) that is another one at each call"
        for step in steps
        if isinstance(step, Decision) and not step.recurs
    ]
    return found


def escaped_tensors(trace: Trace, name: str) -> list[Tensor]:
    """The tensors of the trace that the function stored outside, or returned and stored."""
    trace.leaf_tensors.clear()
    trace.autocast_casts.clear()
    trace.gradients.written.clear()
    trace.picked.clear()
    host = trace.host
    assert host is not None
    host.escaped()  # lets go of the tracers of places
    for growing, reference in host.lists.left():
        if not host.happened:
            raise StateVaries(read=growing.places)
        replace_references(reference(), growing.original, name)
    known = {id(t) for t in trace.numbers.values()}
    free_cycles(lambda: trace.escaped(known) or host.escaped(), host)
    escaped = [*trace.escaped(known), *host.escaped()]
    unreal = {id(ref()) for ref in trace.stand_ins} - {id(None)}
    for tensor in escaped:
        if id(tensor) in unreal:
            raise CompileError(
                f"{name}: a tensor computed in a hook or a custom backward function was stored "
                "outside it, in an attribute, list or global. It stands for a gradient that is "
                "not known yet; return it, or read it from .grad after the call."
            )
    return escaped


def objects_made(results: Iterable[Result], is_old: Callable[[int], bool]) -> Iterator[str]:
    """In words the results that may be objects which the function makes anew at each call."""
    for result in results:
        value = result.value if result.kind == "constant" else None
        if not (is_constant(value) or isinstance(value, _UNCHANGEABLE) or is_old(id(value))):
            yield f"it returns an object of type {type(value).__name__}, which it may have made"


def let_go(host: HostState, error: BaseException, is_ours: bool) -> None:
    """Of a trace that ``error`` ended, and that is given up, let nothing in Python keep tensors.

    The frames of an error that is ours, which no user sees, are nearly always the last to do so.
    """
    if not host.given_up or host.trace is None:
        return
    if is_ours:
        clear_frames(error.__traceback__)
    host.trace.release()
    forget_tensors(host.trace.escaped(set()))
