"""Templates to text, and what a piece of Kernel IR mentions."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from flamec.codegen.c.text import dim
from flamec.codegen.templates import filled
from flamec.ir.kernel import Load, Loop, RandomBits, Statement, Store
from flamec.ir.shape import Dim, SymbolicDim, structurally_equal, symbols_of


def render(template: str, holes: dict[str, Any]) -> str:
    """A template of this back end; lines that holes left empty are dropped."""
    return filled("flamec.codegen.c", template, holes)


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


class RowPlaces:
    """Where rows begin in arrays whose strides are symbols: C variables.

    ``innermost`` is the loop over rows that is counted from row to row. Multiplications by sizes
    that the compiler does not know are many, and what they need takes registers from the rest.
    """

    def __init__(self, innermost: str) -> None:
        self.innermost = innermost
        self._found: dict[str, tuple[str, Dim]] = {}

    def name(self, text: str, step: Dim) -> str:
        """The variable with this value; ``step``: by what it grows along the innermost loop."""
        return self._found.setdefault(text, (f"at{len(self._found)}", step))[0]

    def declared(self, const: bool) -> list[str]:
        kind = "const int64_t" if const else "int64_t"
        return [f"{kind} {name} = {text};" for text, (name, _) in self._found.items()]

    def computed(self) -> str:
        return "".join(f" {name} = {text};" for text, (name, _) in self._found.items())

    def moved(self) -> str:
        """To the next row of the innermost loop."""
        return "".join(
            f" {name} += {dim(step)};"
            for name, step in self._found.values()
            if not structurally_equal(step, 0)
        )


def indices_of_rows(
    loops: tuple[Loop, ...], row: str, first: str, places: RowPlaces | None
) -> dict[str, str]:
    """The holes of a template for the indices of loops over rows, and ``places``.

    ``row``, ``first``: C text of the number of a row, and of the first one. Where sizes are known
    indices are computed from the number; otherwise they are counted from row to row.
    """
    places = places or RowPlaces("")
    if len(loops) < 2:
        indices = "\n".join([decomposed(loops, row), *places.declared(const=True)])
        return {"row_indices": indices, "row_start": "", "row_step": ""}
    start, step = counting(loops, first, places)
    return {"row_indices": "", "row_start": start, "row_step": step}


def counting(loops: tuple[Loop, ...], first: str, places: RowPlaces) -> tuple[str, str]:
    """The same for indices that are counted from row to row: their start, and a step.

    A division by a size that the compiler does not know takes as long as some 20 elements.
    """
    lines, rest, step = [], first, ""
    for loop in loops[:0:-1]:
        size = f"flamec_max(1, {dim(loop.size)})"
        lines.append(f"int64_t {loop.name} = ({rest}) % {size};")
        rest = f"({rest}) / {size}"
    lines.append(f"int64_t {loops[0].name} = {rest};")
    lines += places.declared(const=False)
    for loop in loops[1:]:
        carry = step or f"{loops[0].name}++;"
        last = loop is loops[-1]
        carry += places.computed() if last else ""
        step = f"if (++{loop.name} >= {dim(loop.size)}) {{ {loop.name} = 0; {carry} }}"
        if last and places.moved():
            step += f" else {{{places.moved()} }}"
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
