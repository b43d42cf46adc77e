"""``@flamec.compile``, and what PyTorch has beside it in ``torch.compiler``.

In: a function, a method or a module, and options. Out: a ``CompiledFunction``, or the module that
calls one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import NoneType
from typing import Any, TypeVar, overload

from flamec.compile_options import own_options
from flamec.compiled_function import CompiledFunction, every_compiled_function
from flamec.config import default_options
from flamec.process_settings import refuse_what_varies
from flamec.state import is_compiling, thread

__all__ = [
    "CompiledFunction",
    "allow_in_graph",
    "compile",
    "cudagraph_mark_step_begin",
    "disable",
    "is_compiling",
    "is_dynamo_compiling",
    "reset",
]

F = TypeVar("F", bound=Callable[..., Any])
is_dynamo_compiling = is_compiling  # PyTorch's older name


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
    ``mode="max-autotune"`` is ``autotune="max"``; ``disable=False``, the other modes and
    ``backend="inductor"`` ask for nothing that is not so anyway.
    """
    if not isinstance(dynamic, (bool, NoneType)):
        raise TypeError(
            f"flamec.compile: dynamic is True, False or None, not {dynamic!r}; single axes of "
            "arguments are declared by flamec.mark_dynamic(tensor, axis)"
        )
    options = own_options(options)
    if function is None:
        return lambda f: compile(f, dynamic=dynamic, inputs=inputs, **options)
    settings = default_options(**options) if options else None
    if settings is not None and not settings.deterministic:
        refuse_what_varies()
    if hasattr(function, "named_parameters"):
        from flamec.nn.compiled import CompiledModule

        return CompiledModule(function, CompiledFunction(function, settings, dynamic, inputs))
    if not callable(function):
        raise TypeError(f"flamec.compile needs a callable, not {type(function).__name__}")
    return CompiledFunction(function, settings, dynamic, inputs)


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """``fn`` whose Python code a compiled function runs at each call, as it does what has effects;
    with ``fullgraph=True`` calling it is an error.

    What it computes with tensors is still part of the program. A module is given back, with its
    ``forward`` so. ``recursive`` is True: functions that ``fn`` calls are run, too. ``reason`` is
    told in the warning or the error.
    """
    if not recursive:
        raise ValueError("compiler.disable: what a function calls is run with it (recursive=True)")
    if fn is None:
        return functools.partial(disable, reason=reason)
    if hasattr(fn, "named_parameters"):
        fn.forward = disable(fn.forward, reason=reason)
        return fn
    if not callable(fn):
        raise TypeError(f"compiler.disable needs a callable, not {type(fn).__name__}")
    called = f"{getattr(fn, '__qualname__', type(fn).__name__)} is called, which is disabled"
    effect = called if reason is None else f"{called} ({reason})"

    @functools.wraps(fn)
    def function(*args: Any, **kwargs: Any) -> Any:
        trace: Any = thread.trace
        while trace is not None and trace.host is None:
            trace = getattr(trace, "outer", None)
        if trace is not None:
            trace.host.happenings.happen(effect)
        return fn(*args, **kwargs)

    return function


def allow_in_graph(fn: F) -> F:
    """``fn``: every function that computes with tensors may be part of a program."""
    return fn


def cudagraph_mark_step_begin() -> None:
    """Say that an iteration begins; what earlier calls returned is never written over anyway."""


def reset() -> None:
    """Forget the programs of all compiled functions; what is cached on disk stays."""
    for compiled in list(every_compiled_function):
        compiled.reset()
