"""Templates to Triton modules, with the library functions that the text uses."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from flamec.codegen.templates import filled
from flamec.codegen.triton.text import TYPES, combine

_USED = re.compile(r"\b(flamec_\w+)\(|\b(fold_\w+)\b")
_CAST = re.compile(r"flamec_cast_([a-z]+\d*)_([a-z]+\d*)")
_FOLD = re.compile(r"fold_(at_|by_)?(\w+)_([a-z]+\d*)")


def render(template: str, holes: dict[str, Any]) -> str:
    """A template of this back end; lines that holes left empty are dropped."""
    return filled("flamec.codegen.triton", template, holes)


def module(kernel: str) -> str:
    """A module with one kernel and the functions that it calls."""
    functions = [_function(name) for name in _needed(kernel)]
    header = "import triton\nimport triton.language as tl\n"
    body = "\n\n".join([*functions, kernel])
    if "libdevice." in body:
        header += "from triton.language.extra import libdevice\n"
    return f"{header}\n\n{body}"


def _needed(text: str) -> list[str]:
    """The library functions that a text calls, callees first."""
    found: list[str] = []
    for match in _USED.finditer(text):
        name = match[1] or match[2]
        if name in found or f"def {name}(" in text:
            continue
        found += [n for n in (*_needed(_function(name)), name) if n not in found]
    return found


@lru_cache(maxsize=512)
def _function(name: str) -> str:
    cast = _CAST.fullmatch(name)
    if cast:
        return _jitted(f"def {name}(x):", [f"return {cast_text('x', cast[1], cast[2])}"])
    fold = _FOLD.fullmatch(name)
    if fold:
        return _fold(name, fold[2], fold[3], fold[1] or "")
    library = _library()
    if name not in library:
        raise LookupError(f"the Triton library has no function {name}")
    return library[name]


@lru_cache(maxsize=1)
def _library() -> dict[str, str]:
    """The functions of the library template by name."""
    text = render("library.py.j2", {})
    functions = ["@triton.jit\n" + part for part in text.split("@triton.jit\n")[1:]]
    return {part.split("def ", 1)[1].split("(", 1)[0]: part for part in functions}


def cast_text(x: str, lane: str, to: str) -> str:
    """A value converted to another lane type."""
    if lane == to:
        return x
    if to == "b":
        return f"({x} != 0)"
    if lane in ("f32", "f64") and to in ("i8", "i16", "u8"):
        return f"{x}.to(tl.int32).to({TYPES[to]})"
    return f"{x}.to({TYPES[to]})"


def _jitted(head: str, body: list[str]) -> str:
    return "\n".join(["@triton.jit", head, *(f"    {line}" for line in body)]) + "\n"


def _fold(name: str, op: str, lane: str, kind: str) -> str:
    """The function that joins two partial results of a fold or scan."""
    text_lane = "b" if lane == "b" else lane
    if kind == "by_":
        joined = combine(op, text_lane, "(a * g)", "b")
        return _jitted(f"def {name}(a, f, b, g):", [f"return {joined}, f * g"])
    if not kind:
        return _jitted(f"def {name}(a, b):", [f"return {combine(op, text_lane, 'a', 'b')}"])
    if op.startswith("cum"):
        replaces = combine(op, text_lane, "b", "a")
        body = [f"later = {replaces}", "return tl.where(later, b, a), tl.where(later, j, i)"]
    else:
        wins, loses = combine(op, text_lane, "a", "b"), combine(op, text_lane, "b", "a")
        body = [
            f"first = {wins} | (({loses} == 0) & (i < j))",
            "return tl.where(first, a, b), tl.where(first, i, j)",
        ]
    return _jitted(f"def {name}(a, i, b, j):", body)
