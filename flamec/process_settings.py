"""Settings of the process under PyTorch's names: determinism, and the threads of CPU programs."""

from __future__ import annotations

import warnings

from flamec import cpu_backend
from flamec.errors import user_location
from flamec.state import process

__all__ = [
    "are_deterministic_algorithms_enabled", "get_deterministic_debug_mode",
    "get_num_interop_threads", "get_num_threads",
    "is_deterministic_algorithms_warn_only_enabled", "set_deterministic_debug_mode",
    "set_flush_denormal", "set_num_interop_threads", "set_num_threads",
    "use_deterministic_algorithms",
]  # fmt: skip

_MODES = ("default", "warn", "error")


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Refuse what does not give the same bits each time.

    That is only ``compile(deterministic=False)``: with ``mode`` it raises a RuntimeError, or warns
    with ``warn_only``; functions made before stay as they are. All else is deterministic anyway.
    """
    process.deterministic = bool(mode)
    process.deterministic_warns = bool(warn_only)


def are_deterministic_algorithms_enabled() -> bool:
    """What ``use_deterministic_algorithms`` was told; at first False, as in PyTorch."""
    return process.deterministic


def is_deterministic_algorithms_warn_only_enabled() -> bool:
    """Whether ``use_deterministic_algorithms`` was told to warn."""
    return process.deterministic and process.deterministic_warns


def set_deterministic_debug_mode(debug_mode: int | str) -> None:
    """``use_deterministic_algorithms`` by a word or number: ``"default"`` (0), ``"warn"`` (1) or
    ``"error"`` (2). TypeError for another type, RuntimeError for another value."""
    if not isinstance(debug_mode, (int, str)):
        raise TypeError(f"debug_mode must be str or int, but got {type(debug_mode)}")
    number = _MODES.index(debug_mode) if debug_mode in _MODES else debug_mode
    if number not in (0, 1, 2):
        raise RuntimeError(
            "invalid value of debug_mode, expected one of `default` (0), `warn` (1), `error` (2), "
            f"but got {debug_mode}"
        )
    use_deterministic_algorithms(number != 0, warn_only=number == 1)


def get_deterministic_debug_mode() -> int:
    """What was set: 0, 1 or 2."""
    if not process.deterministic:
        return 0
    return 1 if process.deterministic_warns else 2


def refuse_what_varies() -> None:
    """Called for ``compile(deterministic=False)``: RuntimeError, or a warning, if that is asked."""
    if not process.deterministic:
        return
    message = (
        "compile(deterministic=False) gives results that vary, but "
        f"use_deterministic_algorithms(True) was called (at {user_location()})"
    )
    if not process.deterministic_warns:
        raise RuntimeError(message)
    warnings.warn(message, UserWarning, stacklevel=3)


def get_num_threads() -> int:
    """How many threads a loop or product of a program on the CPU may use."""
    return cpu_backend.thread_count()


def set_num_threads(num_threads: int) -> None:
    """Let loops and products of programs on the CPU use so many threads, from the next call on.

    Functions compiled with ``threads=`` keep theirs. Results do not depend on the number.
    RuntimeError unless it is a positive int.
    """
    if not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1:
        raise RuntimeError(f"set_num_threads expects a positive integer, not {num_threads!r}")
    cpu_backend.set_thread_count(num_threads)


def set_flush_denormal(mode: bool) -> bool:
    """Whether very small numbers could be set to be flushed to zero: they cannot, so they are kept,
    as without it."""
    return False


def get_num_interop_threads() -> int:
    """How many operations may run side by side: 1, as those of a program follow each other."""
    return 1


def set_num_interop_threads(num_threads: int) -> None:
    """Accepted for PyTorch's programs; it changes nothing. RuntimeError unless a positive int."""
    if not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1:
        raise RuntimeError(f"set_num_interop_threads expects a positive integer: {num_threads!r}")
