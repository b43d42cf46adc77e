"""Compute values of a row again instead of keeping them.

In: a program whose passes keep element values for later passes. Out: an equal program without.
A block that holds whole rows keeps values in registers; one that loops over them would need
memory for it, and what is loaded and computed again costs less.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.ir.kernel import (
    Call,
    CheckedIndex,
    Compute,
    Fold,
    Keep,
    Load,
    Pass,
    Place,
    RandomBits,
    Recall,
    RowProgram,
    Statement,
    Store,
)


def without_keeps(program: RowProgram) -> RowProgram:
    """The program with each recalled value computed in the pass that needs it."""
    if not program.kept():
        return program
    passes: list[Pass] = []
    defined: dict[str, Statement] = {}  # by every name of an element value
    kept: dict[int, str] = {}
    row_names = {n for block in program.passes for s in block.row for n in names_of(s)}
    for number, block in enumerate(program.passes):
        element: list[Statement] = []
        copies: dict[str, str] = {}
        aliases: dict[str, str] = {}
        for s in block.element:
            if isinstance(s, Keep):
                kept[s.slot] = aliases.get(s.operand, s.operand)
            elif isinstance(s, Recall):
                aliases[s.name] = _copied(kept[s.slot], f"_{number}", defined, copies, element)
            else:
                element.append(renamed(s, aliases))
        for s in element:
            defined.update(dict.fromkeys(names_of(s), s))
        for name in row_names:
            defined.pop(name, None)
        row = tuple(renamed(s, aliases) for s in block.row)
        passes.append(Pass(row, tuple(element)))
    return replace(program, passes=tuple(passes))


def _copied(
    name: str,
    suffix: str,
    defined: dict[str, Statement],
    copies: dict[str, str],
    element: list[Statement],
) -> str:
    """The name of a value computed once more; what it needs goes before it."""
    if name in copies:
        return copies[name]
    s = defined.get(name)
    if s is None or (isinstance(s, Fold) and s.scope != "scan"):
        return name  # known to all passes
    operands = {o: _copied(o, suffix, defined, copies, element) for o in operands_of(s)}
    names = {n: n + suffix for n in names_of(s)}
    element.append(renamed(s, {**operands, **names}))
    copies.update(names)
    return copies[name]


def names_of(s: Statement) -> tuple[str, ...]:
    """What a statement defines."""
    if isinstance(s, (Store, Keep)):
        return ()
    return (s.name, *s.names) if isinstance(s, Fold) else (s.name,)


def operands_of(s: Statement) -> tuple[str, ...]:
    """The names that a statement reads, without those that it stores."""
    match s:
        case Load():
            return (*(i.name for i in s.place.indices), *([s.fill] if s.fill else []))
        case Compute() | Call():
            return s.operands
        case Fold():
            return (s.operand, *(name for name in (s.position, s.factor) if name))
        case RandomBits():
            return tuple(i.name for i in s.state.indices)
        case CheckedIndex():
            return (s.index,)
    return ()


def renamed(s: Statement, names: dict[str, str]) -> Statement:
    """A statement with some names replaced."""

    def get(name: str) -> str:
        return names.get(name, name)

    def moved(place: Place) -> Place:
        return replace(place, indices=tuple(replace(i, name=get(i.name)) for i in place.indices))

    match s:
        case Load():
            return replace(s, name=get(s.name), place=moved(s.place), fill=get(s.fill))
        case Compute() | Call():
            operands = tuple(map(get, s.operands))
            return replace(s, name=get(s.name), operands=operands)
        case Fold():
            others = tuple(map(get, s.names))
            return replace(
                s,
                name=get(s.name),
                operand=get(s.operand),
                position=get(s.position),
                names=others,
                factor=get(s.factor),
            )
        case Store():
            return replace(s, operand=get(s.operand), place=moved(s.place), where=get(s.where))
        case Keep():
            return replace(s, operand=get(s.operand))
        case RandomBits():
            return replace(s, name=get(s.name), state=moved(s.state))
        case Recall():
            return replace(s, name=get(s.name))
        case CheckedIndex():
            return replace(s, name=get(s.name), index=get(s.index))
        case _:
            return replace(s, name=get(s.name))
