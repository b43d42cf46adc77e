"""``torch.jit`` for programs that mark functions and ask where they run.

There is no second language here: what is marked runs as it is, eager and compiled (``compile``).
Whatever traces, saves or loads TorchScript is refused by name.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

__all__ = [
    "Final", "ScriptFunction", "ScriptModule", "annotate", "export", "ignore", "interface",
    "is_scripting", "is_tracing", "script", "script_if_tracing", "unused",
]  # fmt: skip

T = TypeVar("T")


class ScriptModule:
    """What ``script`` makes of a module in PyTorch; no module is one here."""


class ScriptFunction:
    """What ``script`` makes of a function in PyTorch; no function is one here."""


def script(
    obj: T,
    optimize: None = None,
    _frames_up: int = 0,
    _rcb: Any = None,
    example_inputs: Any = None,
) -> T:
    """The function, class or module as it is."""
    return obj


def script_if_tracing(fn: T) -> T:
    """The function as it is."""
    return fn


def ignore(drop: Any = False, **kwargs: Any) -> Any:
    """The function as it is; also with arguments, as ``@ignore(drop=True)``."""
    return drop if callable(drop) else lambda fn: fn


def unused(fn: T) -> T:
    """The function as it is."""
    return fn


def export(fn: T) -> T:
    """The function as it is."""
    return fn


def interface(obj: T) -> T:
    """The class as it is."""
    return obj


def annotate(the_type: Any, the_value: T) -> T:
    """The value."""
    return the_value


def is_scripting() -> bool:
    """Whether the code is compiled as TorchScript: never."""
    return False


def is_tracing() -> bool:
    """Whether ``torch.jit.trace`` runs the code: never."""
    return False


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"flamec.jit has no {name!r}: there is no TorchScript; flamec.compile compiles, and "
        "docs/DEPLOYMENT.md says how programs become files"
    )
