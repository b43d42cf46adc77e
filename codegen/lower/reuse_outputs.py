"""Let intermediate values live where results will be.

In and out: a row program. A matrix product is written where the final value of its
elements will be stored, and what is kept of a row for a later pass is kept in the
row of a result, so that less memory passes through the caches.
"""

from __future__ import annotations

from dataclasses import replace

from flamec.codegen.lower.lanes import spill_type
from flamec.ir.kernel import (
    Contraction,
    Keep,
    Linear,
    Load,
    Pass,
    Place,
    Recall,
    RowProgram,
    Statement,
    Store,
)
from flamec.ir.layout import dense_strides


def reuse_outputs(program: RowProgram) -> RowProgram:
    """Both rewrites, where they are possible."""
    return keep_in_output(place_product(program))


def keep_in_output(program: RowProgram) -> RowProgram:
    """What is kept for later passes is stored in the place of a later result of its type.

    The result's parameter is not used before, and whatever was kept is recalled for the last
    time no later than the result is stored.
    """
    for keep in program.kept():
        target = _stored_already(program, keep) or _room_for(program, keep)
        if target is not None:
            program = _kept_at(program, keep, target)
    return program


def _stored_already(program: RowProgram, keep: Keep) -> Place | None:
    """Where the same value is stored in the same pass, if it stays there."""
    if program.kind != "rows":
        return None
    for block in program.passes:
        if keep not in block.element:
            continue
        for s in block.element:
            if isinstance(s, Store) and s.operand == keep.operand:
                exact = s.memory == spill_type(keep.lane) and s.place.at == _dense_place(program)
                if exact and not s.place.indices and _stores(program, s.place.parameter) == 1:
                    return s.place
    return None


def _stores(program: RowProgram, parameter: int) -> int:
    statements = (*program.statements(), *program.after)
    return sum(isinstance(s, Store) and s.place.parameter == parameter for s in statements)


def _room_for(program: RowProgram, keep: Keep) -> Place | None:
    if program.kind != "rows":
        return None
    recalls = [
        number
        for number, block in enumerate(program.passes)
        for s in block.element
        if isinstance(s, Recall) and s.slot == keep.slot
    ]
    for number, block in enumerate(program.passes):
        for s in block.element:
            if not isinstance(s, Store) or number < max(recalls):
                continue
            alike = s.memory == spill_type(keep.lane) and s.place.at == _dense_place(program)
            if alike and not s.place.indices and _uses(program, s.place.parameter) == 1:
                return s.place
    return None


def _uses(program: RowProgram, parameter: int) -> int:
    contraction = program.contraction
    taken = contraction is not None and contraction.result == parameter
    statements = (*program.statements(), *program.after)
    places = [s.place for s in statements if isinstance(s, (Load, Store))]
    return sum(place.parameter == parameter for place in places) + taken


def _kept_at(program: RowProgram, keep: Keep, place: Place) -> RowProgram:
    memory = spill_type(keep.lane)
    store = Store(memory, keep.lane, place, keep.operand)

    def changed(s: Statement) -> Statement:
        if s is keep:
            return store
        if isinstance(s, Recall) and s.slot == keep.slot:
            return Load(s.name, keep.lane, memory, place)
        return s

    passes = tuple(
        Pass(p.row, tuple(dict.fromkeys(map(changed, p.element)))) for p in program.passes
    )
    return replace(program, passes=passes)


def place_product(program: RowProgram) -> RowProgram:
    """Let the product be written where the result will be, instead of into a panel in cache.

    That is possible where a stored value of the same type lies exactly as the product does and
    is stored no earlier than the product is read for the last time. Where an operand lies so, too,
    the product stays in cache: the result may then take the place of the operand.
    """
    contraction = program.contraction
    if contraction is None or contraction.result >= 0:
        return program
    wanted = _dense_place(program)
    if any(_could_give_its_place(s, wanted, contraction) for s in program.statements()):
        return program
    reads = [
        number
        for number, block in enumerate(program.passes)
        for s in (*block.row, *block.element)
        if _reads_product(s)
    ]
    for number, block in enumerate(program.passes):
        for statement in block.element:
            if not isinstance(statement, Store) or number < max(reads, default=0):
                continue
            place = statement.place
            alike = statement.memory == contraction.memory and place.at == wanted
            if alike and not place.indices:
                return _with_product_in(program, place.parameter)
    return program


def _could_give_its_place(s: Statement, wanted: Linear, contraction: Contraction) -> bool:
    """Whether a statement reads one element where the product's is: not one of its factors."""
    if not isinstance(s, Load) or s.place.parameter < 0 or s.memory != contraction.memory:
        return False
    factors = (contraction.left.parameter, contraction.right.parameter)
    plain = not (s.place.indices or s.place.guards)
    return plain and s.place.at == wanted and s.place.parameter not in factors


def _dense_place(program: RowProgram) -> Linear:
    """Where the elements of a row-major array over all loops of the program lie."""
    loops = (*program.rows, *program.inner)
    strides = dense_strides(tuple(loop.size for loop in loops))
    return Linear(0, strides[: len(program.rows)], strides[len(program.rows) :])


def _reads_product(statement: object) -> bool:
    return isinstance(statement, Load) and statement.place.parameter == -1


def _with_product_in(program: RowProgram, parameter: int) -> RowProgram:
    passes = []
    for block in program.passes:
        passes.append(Pass(_moved(block.row, parameter), _moved(block.element, parameter)))
    assert program.contraction is not None
    contraction = replace(program.contraction, result=parameter)
    return replace(program, passes=tuple(passes), contraction=contraction)


def _moved(statements: tuple[Statement, ...], parameter: int) -> tuple[Statement, ...]:
    """Statements that find the product in another parameter."""
    return tuple(
        replace(s, place=replace(s.place, parameter=parameter))
        if isinstance(s, Load) and _reads_product(s)
        else s
        for s in statements
    )
