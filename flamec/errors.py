"""Errors that users see, and where in the user's program they arose."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import flamec.ir
from flamec.ir.graph import Location, Node
from flamec.ir.ops.selection import RequirementError

_PACKAGE_FOLDERS: list[str] = []


class _FrameworkFiles(dict[str, bool]):
    """Whether a source file belongs to flamec itself, by its name; found out once for each."""

    def __missing__(self, filename: str) -> bool:
        inside = filename.startswith((*_PACKAGE_FOLDERS, "<flamec"))
        found = self[filename] = inside and not filename.startswith(_COMMAND_LINE)
        return found


_framework_files = _FrameworkFiles()


def is_framework_file(filename: str) -> bool:
    """Whether a source file belongs to flamec itself."""
    return _framework_files[filename]


def register_package_folder(folder: str) -> None:
    """Declare a folder whose frames are the framework's, not the user's."""
    _PACKAGE_FOLDERS.append(folder.rstrip(os.sep) + os.sep)
    _framework_files.clear()


for _path in flamec.__path__:
    register_package_folder(str(Path(_path)))
for _path in flamec.ir.__path__:  # beside which the others lie, not in flamec's in a checkout
    for _name in ("ir", "codegen", "runtime"):
        register_package_folder(str(Path(_path).parent / _name))
# The command line is a user of the framework: what it trains is traced like anyone's program.
_COMMAND_LINE = tuple(str(Path(path) / "cli") + os.sep for path in flamec.__path__)


CONTEXTLIB = contextlib.__file__


def user_frame() -> FrameType | None:
    """The innermost frame outside flamec; what runs flamec's context managers is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not _framework_files[filename] and filename != CONTEXTLIB:
            return frame
        frame = frame.f_back
    return None


_put_off: ContextVar[list[Callable[[], None]] | None] = ContextVar("put_off", default=None)


@contextmanager
def warnings_put_off() -> Iterator[Callable[[], None]]:
    """In the block ``warn_user`` only notes; what the block gets tells what was noted."""
    noted: list[Callable[[], None]] = []
    token = _put_off.set(noted)

    def tell() -> None:
        outer = _put_off.get()
        if outer is not None:
            outer.extend(noted)
            return
        for warn in noted:
            warn()

    try:
        yield tell
    finally:
        _put_off.reset(token)


def _warn_at(
    message: str, category: type[Warning], file: str, line: int, variables: dict[str, Any]
) -> None:
    registry = variables.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, file, line, variables.get("__name__"), registry)


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's program that is being executed."""
    frame = user_frame()
    if frame is None:
        warnings.warn(message, category, stacklevel=2)
        return
    place = frame.f_code.co_filename, frame.f_lineno, frame.f_globals
    warn = partial(_warn_at, message, category, *place)
    noted = _put_off.get()
    if noted is None:
        warn()
    else:
        noted.append(warn)


_locations: dict[tuple[str, int, str], Location] = {}  # to find one takes a fifth of making it
_MOST_LOCATIONS = 1 << 16


def user_location() -> Location | None:
    """The line of the user's program that is being executed."""
    frame = user_frame()
    if frame is None:
        return None
    code = frame.f_code
    key = code.co_filename, frame.f_lineno, code.co_qualname
    known = _locations.get(key)
    if known is None:
        if len(_locations) >= _MOST_LOCATIONS:
            _locations.clear()
        known = _locations[key] = Location(*key)
    return known


class OperationError(RuntimeError, ValueError):
    """An operation was given shapes or values that it does not accept."""


class OperationTypeError(RuntimeError, TypeError):
    """An operation was given dtypes or kinds of arguments that it does not accept."""


class OutOfRangeError(IndexError, RuntimeError):
    """An index lies outside the dimension that it is meant for."""


class DivisionByZeroError(OperationError, ZeroDivisionError):
    """An integer was divided by zero."""


class OperationAssertionError(OperationError, AssertionError):
    """An operation was given shapes for which PyTorch raises AssertionError."""


class CompileError(RuntimeError):
    """A function could not be compiled."""


class StageError(CompileError):
    """A stage of the compiler failed.

    ``stage``: its name, that of a pass, say; ``cause``: the exception; ``reproduction``: the
    file that shows the failure again, or None.
    """

    def __init__(
        self, message: str, stage: str, cause: Exception, reproduction: Path | None
    ) -> None:
        super().__init__(message)
        self.stage = stage
        self.cause = cause
        self.reproduction = reproduction


class Uncompiled(BaseException):  # code that handles errors must not handle it
    """A call must run without a program: it does once what no program can do at each call."""


class Raises(Uncompiled):
    """The traced function raised ``error``, and Python's state is as it was before the trace: as
    the function is, it does all that is before the error, too."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"it raises {type(error).__name__}")
        self.error = error


class DataDependentError(CompileError):
    """A compiled function used a tensor's value in Python; it has none while tracing."""


class LinAlgError(OperationError):
    """A matrix has no inverse, no factor, or an iteration did not converge."""


def operation_location() -> Location | None:
    """``user_location`` with what was called there, for operations that look at values."""
    place, name = user_location(), _called_function()
    return place if place is None or name is None else replace(place, operation=name)


def _called_function() -> str | None:
    """The function of ``flamec`` or ``nn.functional`` that the user's line, or a module, called."""
    frame, found = user_frame(), None
    inner: FrameType | None = sys._getframe(1)
    while inner is not None and inner is not frame:
        for space in (flamec, getattr(getattr(flamec, "nn", None), "functional", None)):
            function = getattr(space, inner.f_code.co_name, None)
            own = None if function is None else inspect.unwrap(function)
            if getattr(own, "__code__", None) is inner.f_code:
                found = inner.f_code.co_name
        inner = inner.f_back
    return found


def operation_error(name: str, error: Exception, location: object = None) -> Exception:
    """The error to raise for ``error`` inside the operation ``name``, with the user's line:
    ``location``, or the one that is being executed.
    """
    called = location.operation if isinstance(location, Location) else ""
    location = location or user_location()
    where = f" (at {location})" if location else ""
    text = str(error)
    if isinstance(error, IndexError):
        text, name = text.removeprefix(f"{name}: "), called or _called_function() or name
    prefix = f"{name}: "
    if text.startswith(name) or isinstance(error, RequirementError):
        prefix = ""
    message = f"{prefix}{text}{where}"
    if isinstance(error, IndexError):
        return OutOfRangeError(message)
    if isinstance(error, ZeroDivisionError):
        return DivisionByZeroError(message)
    if isinstance(error, TypeError):
        return OperationTypeError(message)
    if isinstance(error, np.linalg.LinAlgError):
        return LinAlgError(f"{text}{where}")
    return OperationError(message)


def node_error(node: Node, error: Exception) -> Exception:
    """The error to raise for ``error`` in what a traced node computes."""
    return operation_error(node.op.name, error, node.location)


def unknown_value(what: str, in_batch: bool = False, body_of: str = "") -> DataDependentError:
    """The error for using a tensor's value in Python where there is none; ``in_batch``: vmap's;
    ``body_of``: in a function of this loop or branch.
    """
    if in_batch:
        return DataDependentError(
            f"{what} needs the value of a tensor, which stands for all examples of a batch in a "
            f"function of vmap (at {user_location()}). Write the choice with flamec.where, keep "
            "the quantity a tensor, or move this line out of the function."
        )
    if body_of:
        return DataDependentError(
            f"{what} needs the value of a tensor, which is not known in a function of {body_of}: "
            f"it is run once for all steps and choices (at {user_location()}). Write the choice "
            "with flamec.cond or flamec.where, the loop with flamec.while_loop, keep the quantity "
            "a tensor, or move this line out of the function."
        )
    return DataDependentError(
        f"{what} needs the value of a tensor, which is not known here while the function is "
        f"compiled (at {user_location()}). Write the choice with flamec.cond or flamec.where, "
        "the loop with flamec.while_loop, keep the quantity a tensor, or move this line out of "
        "the compiled function."
    )


def unrepeatable(what: str) -> CompileError:
    """The error for changing a tensor object in a way that a program cannot repeat."""
    return CompileError(
        f"{what} cannot be compiled (at {user_location()}); do it outside the compiled function"
    )


def unknown_outer_gradient(shape: tuple[object, ...] | None = None) -> Uncompiled:
    """Why no program can use a gradient that only the end of a compiled call knows."""
    of = "" if shape is None else f" (of a tensor of shape {list(shape)}, at {user_location()})"
    return Uncompiled(
        "backward reaches a tensor that was computed before the call, and then the function "
        "changes what that was computed from or uses its gradient, known only after the call"
        f"{of}; step the optimizer outside, compute the tensor inside, or detach it"
    )
