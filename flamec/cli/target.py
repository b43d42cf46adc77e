"""``FILE.py:FUNCTION`` or ``MODULE:FUNCTION``: import the file and find the function.

In: the text from the command line. Out: a ``Target`` with a ``CompiledFunction``; a function
without a decorator is compiled. What the file prints while it is imported goes to
standard error, so that the output of a command stays readable by programs.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from flamec.cli.failure import CommandFailed, describe
from flamec.compiled_function import CompiledFunction
from flamec.compiler import compile
from flamec.config import CompileOptions
from flamec.nn.compiled import CompiledModule
from flamec.nn.module import Module

HELP = (
    "The function: FILE.py:NAME, FILE.py:Class.method, FILE.py:object.attribute, or the same "
    "with an importable module in place of FILE.py."
)

_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Target:
    """A function of the user's file. ``text`` is what stood on the command line."""

    text: str
    module: ModuleType
    name: str
    function: CompiledFunction

    def fresh(self, options: CompileOptions | None = None) -> CompiledFunction:
        """The same function, never called before, with ``options`` or its own."""
        function = self.function
        return CompiledFunction(
            function.function,
            options or function.options,
            function.dynamic,
            function.example_inputs,
        )


def load_target(text: str, dynamic: bool | None = None) -> Target:
    """Import the file and find the function.

    Raises typer.BadParameter if there is no such file or function, CommandFailed if the
    file cannot be imported. ``dynamic`` overrides that of the decorator.
    """
    file_name, _, name = text.rpartition(":")
    if _MODULE.fullmatch(file_name) and not file_name.endswith(".py"):
        module = _import_module(file_name)
        path = Path(str(module.__file__))
    else:
        if not file_name or not file_name.endswith(".py"):
            file_name, name = text, ""
        path = Path(file_name)
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {file_name!r} (expected FILE.py:FUNCTION)")
        module = _import_file(path)
    name = name or _only_function(module, path)
    found = _resolve(module, name, path)
    function = as_compiled(found)
    if function is None:
        kind = type(found).__name__
        raise typer.BadParameter(f"{name} in {path.name} is not a function but a {kind}")
    if dynamic is not None:
        function = CompiledFunction(
            function.function, function.options, dynamic, function.example_inputs
        )
    return Target(text, module, name, function)


def as_compiled(found: Any) -> CompiledFunction | None:
    """``found`` as a compiled function; None if it cannot be called."""
    if isinstance(found, CompiledFunction):
        return found
    if isinstance(found, Module):
        found = compile(found)
    if isinstance(found, CompiledModule):
        compiled: CompiledFunction = found.compiled
        return compiled
    return CompiledFunction(found) if callable(found) else None


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run the user's code: prints go to standard error, an exception becomes CommandFailed."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except (CommandFailed, typer.BadParameter, KeyboardInterrupt):
            raise
        except SystemExit as error:
            raise CommandFailed(f"{what} ended the program (SystemExit: {error})") from error
        except Exception as error:
            raise CommandFailed(f"{what} failed:\n{describe(error)}") from error


def _import_module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:  # a package on the way to it
        found = None
    if found is None or found.origin is None:
        raise typer.BadParameter(f"there is no module {name!r} (expected FILE.py:FUNCTION)")
    with user_code(f"importing {name}"):
        return importlib.import_module(name)


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem if importlib.util.find_spec(path.stem) is None else f"_target_{path.stem}"
    specification = importlib.util.spec_from_file_location(name, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    with user_code(f"importing {path.name}"):
        specification.loader.exec_module(module)
    return module


def _only_function(module: ModuleType, path: Path) -> str:
    """The name of the one compiled function, where no name was given."""
    names = [
        n for n, v in vars(module).items() if isinstance(v, (CompiledFunction, CompiledModule))
    ]
    if len(names) == 1:
        return names[0]
    choice = ", ".join(f"{path.name}:{n}" for n in names or _functions(module))
    raise typer.BadParameter(
        f"say which function of {path.name} is meant" + (f": {choice}" if choice else "")
    )


def _functions(module: ModuleType) -> list[str]:
    own = (
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and callable(value)
    )
    return [n for n in own if not n.startswith(("_", "flamec_"))]


def _resolve(module: ModuleType, name: str, path: Path) -> Any:
    found: Any = module
    so_far = ""
    for part in name.split("."):
        owner = found
        if inspect.isclass(owner):
            owner = _instance(owner, so_far, path)
        try:
            found = getattr(owner, part)
        except AttributeError:
            raise typer.BadParameter(_not_found(module, owner, name, path)) from None
        so_far = f"{so_far}.{part}".lstrip(".")
    return _instance(found, so_far, path) if inspect.isclass(found) else found


def _instance(cls: type, name: str, path: Path) -> Any:
    """An object of a class that was named, made without arguments."""
    try:
        inspect.signature(cls).bind()
    except TypeError as error:
        raise typer.BadParameter(
            f"{name} in {path.name} is a class that needs arguments ({error}); make an object of "
            "it at module level and name that, as in FILE.py:object.method"
        ) from None
    with user_code(f"making an object of {name}"):
        return cls()


def _not_found(module: ModuleType, owner: Any, name: str, path: Path) -> str:
    names = _functions(module) if owner is module else [n for n in dir(owner) if n[0] != "_"]
    close = difflib.get_close_matches(name.rpartition(".")[2], names, 3)
    text = f"{path.name} has no function {name!r}"
    if close:
        return f"{text}; did you mean {' or '.join(close)}?"
    return f"{text}; it has {', '.join(names)}" if names and owner is module else text
