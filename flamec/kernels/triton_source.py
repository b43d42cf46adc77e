"""The text of a user's Triton kernel: a module that Triton can compile without the user's file.

In: a Python function, decorated with ``triton.jit`` or not. Out: its text with the functions and
numbers that it uses, and its parameters. Triton is not imported. Invariant: everything that the
kernel uses from outside is in the text, so that equal texts are equal kernels.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

_HEADER = {"triton": "import triton", "tl": "import triton.language as tl"}
_LIBDEVICE = "from triton.language.extra import libdevice"


@dataclass(frozen=True)
class TritonFunction:
    """``parameters``: names in order; ``constants``: those that are annotated ``tl.constexpr``."""

    name: str
    text: str
    parameters: tuple[str, ...]
    constants: frozenset[str]
    defaults: dict[str, Any]


def triton_function(function: Any) -> TritonFunction:
    """See the module's docstring. TypeError names what cannot be put into the text."""
    plain = _plain(function)
    collected = _Collector(plain.__name__)
    definition = collected.function(plain)
    arguments = definition.args
    if arguments.vararg or arguments.kwarg:
        raise TypeError(f"{plain.__name__}: a Triton kernel has a fixed list of parameters")
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    constants = frozenset(a.arg for a in every if a.annotation is not None)
    signature = inspect.signature(plain)
    defaults = {
        p.name: p.default for p in signature.parameters.values() if p.default is not p.empty
    }
    names = tuple(a.arg for a in every)
    return TritonFunction(plain.__name__, collected.text(), names, constants, defaults)


def _plain(function: Any) -> Callable[..., Any]:
    """The Python function inside of what ``triton.jit`` gives, or the function itself."""
    inner = getattr(function, "fn", function)
    if not inspect.isfunction(inner):
        raise TypeError(f"a Triton kernel is a Python function, not {type(function).__name__}")
    return inner


class _Collector:
    """Texts of functions and constants by name, callees first."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.imports: dict[str, str] = dict(_HEADER)
        self.constants: dict[str, str] = {}
        self.functions: dict[str, str] = {}

    def text(self) -> str:
        parts = ["\n".join(self.imports.values())]
        if self.constants:
            parts.append("\n".join(self.constants.values()))
        parts += self.functions.values()
        return "\n\n\n".join(parts) + "\n"

    def function(self, function: Callable[..., Any]) -> ast.FunctionDef:
        """Add a function after what it uses; its definition."""
        definition = _definition(function)
        _plain_annotations(definition)
        outside = inspect.getclosurevars(function)
        known = {**outside.globals, **outside.nonlocals}
        name = function.__name__
        for used in _free_names(definition):
            if used == name:
                continue
            if used in known:
                self._add(used, known[used])
            elif used == "libdevice":
                self.imports[used] = _LIBDEVICE
            elif used not in _HEADER and not hasattr(builtins, used):
                raise TypeError(f"{self.kernel}: the name {used!r} is not defined")
        definition.decorator_list, definition.returns = [], None
        text = f"@triton.jit\n{ast.unparse(definition)}"
        if self.functions.get(name, text) != text:
            raise TypeError(f"{self.kernel} uses two functions with the name {name!r}")
        self.functions[name] = text
        return definition

    def _add(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and value.__name__.startswith("triton"):
            self.imports[name] = f"import {value.__name__} as {name}"
            return
        constant = value.value if type(value).__name__ == "constexpr" else value
        if isinstance(constant, (bool, int, float, str)):
            self.constants[name] = f"{name} = tl.constexpr({constant!r})"
            return
        owner = getattr(getattr(value, "fn", value), "__module__", None) or ""
        if owner.startswith("triton") and hasattr(value, "__name__"):
            self.imports[name] = f"from {owner} import {value.__name__} as {name}"
        elif inspect.isfunction(getattr(value, "fn", value)):
            inner = _plain(value)
            if inner.__name__ != name:
                raise TypeError(
                    f"{self.kernel}: the function {inner.__name__} is used as {name!r}; use its "
                    "own name"
                )
            self.function(inner)
        else:
            raise TypeError(
                f"{self.kernel}: {name!r} is a {type(value).__name__}; a Triton kernel can use "
                "numbers, text, functions and modules of triton from outside"
            )


def _definition(function: Callable[..., Any]) -> ast.FunctionDef:
    try:
        text = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise TypeError(f"{function.__name__}: its source cannot be found ({error})") from error
    definition = ast.parse(text).body[0]
    if not isinstance(definition, ast.FunctionDef):
        raise TypeError(f"{function.__name__}: a Triton kernel is written with def")
    return definition


def _plain_annotations(definition: ast.FunctionDef) -> None:
    """``tl.constexpr`` for each parameter that says so, even in quotes; nothing for the others."""
    for argument in ast.walk(definition):
        if isinstance(argument, ast.arg) and argument.annotation is not None:
            constant = "constexpr" in ast.unparse(argument.annotation)
            expression = ast.parse("tl.constexpr", mode="eval").body
            argument.annotation = expression if constant else None


def _free_names(definition: ast.FunctionDef) -> list[str]:
    """Names that the body and the annotations read and do not assign."""
    own = {a.arg for a in ast.walk(definition) if isinstance(a, ast.arg)}
    names = [n for n in ast.walk(definition) if isinstance(n, ast.Name)]
    own |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
    decorators = {n for d in definition.decorator_list for n in ast.walk(d)}
    used = [n.id for n in names if isinstance(n.ctx, ast.Load) and n not in decorators]
    return [n for n in dict.fromkeys(used) if n not in own]
