"""``@flamec.compile``, and what PyTorch has beside it in ``torch.compiler``.

In: a function, a method or a module, and options. Out: a ``CompiledFunction``, or the module that
calls one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType
from typing import Any, TypeVar, overload

from flamec.compile_options import own_options
from flamec.compiled_function import CompiledFunction
from flamec.config import default_options
from flamec.process_settings import refuse_what_varies
from flamec.state import is_compiling

__all__ = ["CompiledFunction", "compile", "is_compiling", "is_dynamo_compiling"]

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
