"""How many bits the indices of a part of a kernel need.

In: a part, whose sizes may be symbolic. Out: whether 32 bits may be too few for a place in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from flamec.codegen.triton.part_key import actual, own_sizes
from flamec.ir.kernel import Load, Loop, Part, Place, Prologue, RowProgram, Store
from flamec.ir.shape import Dim, substitute


def is_wide(part: Part, narrow: bool) -> bool:
    """Whether an index of a part may need 64 bits. ``narrow``: not because of symbolic sizes."""
    program, own = actual(part), own_sizes(part)
    rows: list[Dim] = [loop.size for loop in program.rows]
    inner: list[Dim] = [loop.size for loop in program.inner]
    if not all(isinstance(size, int) for size in (*rows, *inner)):
        return not narrow
    total = 1
    for size in (*rows, *inner):
        assert isinstance(size, int)
        total *= max(1, size)
    reach = [total]
    for place, others in _places(program):
        strides = [*place.at.rows, *place.at.inner]
        ends: list[Dim] = [place.at.offset]
        sizes = [*rows, *((loop.size for loop in others) if others else inner)]
        ends += [substitute(s, own) * n for s, n in zip(strides, sizes, strict=False)]
        ends += [substitute(i.stride, own) * substitute(i.size, own) for i in place.indices]
        if not all(isinstance(end, int) for end in ends):
            return not narrow
        reach.append(sum(abs(end) for end in ends if isinstance(end, int)))
    c = program.contraction
    if c is not None:
        for operand, free in ((c.left, c.rows), (c.right, c.columns)):
            if operand.prologue is not None and not _is_near(operand.prologue):
                return not narrow or _is_static(operand.prologue)
            ends = [operand.offset, operand.free * free, operand.contracted * c.depth]
            ends += [size * stride for size, stride in operand.batch]
            if not all(isinstance(end, int) for end in ends):
                return not narrow
            reach.append(sum(abs(end) for end in ends if isinstance(end, int)))
    return max(reach) >= 1 << 30


def _is_static(prologue: Prologue) -> bool:
    return all(isinstance(loop.size, int) for loop in (*prologue.rows, *prologue.inner))


def _is_near(prologue: Prologue) -> bool:
    """Whether the indices of an operand that is computed are known to fit in 32 bits."""
    loops = (*prologue.rows, *prologue.inner)
    for s in prologue.loads():
        strides = (*s.place.at.rows, *s.place.at.inner)
        ends = [s.place.at.offset, *(l.size * d for l, d in zip(loops, strides, strict=True))]
        if not all(isinstance(end, int) for end in ends):
            return False
        if sum(abs(end) for end in ends if isinstance(end, int)) >= 1 << 30:
            return False
    return True


def _places(program: RowProgram) -> Iterator[tuple[Place, tuple[Loop, ...]]]:
    """Places, with the loops of their pass if these are not the program's."""
    passes = [((*block.row, *block.element), block.inner) for block in program.passes]
    for statements, others in (*passes, (program.after, ())):
        for s in statements:
            if isinstance(s, (Load, Store)):
                yield s.place, others
                yield from ((Place(0, guard), others) for guard, _ in s.place.guards)
