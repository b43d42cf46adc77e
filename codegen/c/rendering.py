"""Templates to text, and what a piece of Kernel IR mentions."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flamec.codegen.c.text import dim
from flamec.ir.kernel import Load, Loop, RandomBits, Statement, Store
from flamec.ir.shape import SymbolicDim, symbols_of

if TYPE_CHECKING:
    import jinja2


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    loader = jinja2.PackageLoader("flamec.codegen.c", "templates")
    return jinja2.Environment(
        loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


def render(template: str, holes: dict[str, Any]) -> str:
    """A template filled; lines that holes left empty are dropped."""
    text = _environment().get_template(template).render(holes)
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def symbols_in(value: object) -> set[str]:
    """Names of all symbolic sizes anywhere inside statements or programs."""
    if isinstance(value, SymbolicDim):
        return symbols_of(value)
    if isinstance(value, tuple):
        return set().union(*map(symbols_in, value))
    if is_dataclass(value):
        return set().union(*(symbols_in(getattr(value, f.name)) for f in fields(value)))
    return set()


def parameters_in(statements: tuple[Statement, ...]) -> set[int]:
    """Numbers of the parameters that statements load from or store to."""
    found = {s.place.parameter for s in statements if isinstance(s, (Load, Store))}
    return found | {s.state.parameter for s in statements if isinstance(s, RandomBits)}


def decomposed(loops: tuple[Loop, ...], index: str) -> str:
    """C declarations of the indices of nested loops, from their common counter."""
    lines = []
    rest = index
    for loop in reversed(loops[1:]):
        lines.append(f"const int64_t {loop.name} = ({rest}) % ({dim(loop.size)});")
        rest = f"({rest}) / ({dim(loop.size)})"
    if loops:
        lines.append(f"const int64_t {loops[0].name} = {rest};")
    return "\n".join(lines)


def counting(loops: tuple[Loop, ...], first: str) -> tuple[str, str]:
    """The same for indices that are counted from row to row: their start, and a step.

    A division by a size that the compiler does not know takes as long as some 20 elements.
    """
    lines, rest, step = [], first, ""
    for loop in loops[:0:-1]:
        size = f"flamec_max(1, {dim(loop.size)})"
        lines.append(f"int64_t {loop.name} = ({rest}) % {size};")
        rest = f"({rest}) / {size}"
    lines.append(f"int64_t {loops[0].name} = {rest};")
    for loop in loops[1:]:
        carry = step or f"{loops[0].name}++;"
        step = f"if (++{loop.name} >= {dim(loop.size)}) {{ {loop.name} = 0; {carry} }}"
    return "\n".join(lines), step


def size_declarations(
    symbols: tuple[str, ...], used: frozenset[str] | set[str], call: str
) -> list[str]:
    """C variables for the symbolic sizes that are used."""
    return [
        f"const int64_t {name} = {call}->sizes[{i}];"
        for i, name in enumerate(symbols)
        if name in used
    ]
