"""Kernels as text, for dumps and golden files.

In: a ``Kernel``. Out: lines that name everything in it but the lane types of operands. Buffers are
``p0``, ``p1``, … in the order of the kernel's, or a program's, parameters.
"""

from __future__ import annotations

from flamec.ir.kernel import (
    Attention,
    Call,
    CheckedIndex,
    Compute,
    Constant,
    Fold,
    Keep,
    Kernel,
    Linear,
    Load,
    MatrixOperand,
    Place,
    Position,
    Prologue,
    RandomBits,
    Recall,
    ResultSteps,
    RowProgram,
    Sort,
    Statement,
    Steps,
    Store,
)
from flamec.ir.shape import Dim, format_dim, structurally_equal


def print_kernel(kernel: Kernel) -> str:
    """A kernel as text, for dumps and golden files."""
    lines = [f"kernel {kernel.name} ({kernel.kind}): {', '.join(kernel.operations)}"]
    lines.extend(f"  # {location}" for location in kernel.locations)
    for number, parameter in enumerate(kernel.parameters):
        lines.append(f"  {'out' if parameter.written else 'in '} p{number}: {parameter.memory}")
    lines.extend(f"  {print_statement(s)}" for s in kernel.uniform)
    for part in (way for p in kernel.parts for way in p.ways):
        arguments = ", ".join(f"p{a}" for a in part.arguments)
        given = zip(part.program.sizes, part.sizes, strict=True)
        sizes = (f"{n}={format_dim(d)}" for n, d in given)
        names = ", ".join((arguments, *part.imports, *sizes))
        like = ", ".join(f"{name} is about {size}" for name, size in part.typical)
        lines.append(f"  run({names}){f', where {like} or so' if like else ''}:")
        lines.extend("    " + line for line in print_program(part.program))
    lines.extend(f"  {print_statement(s)}" for s in kernel.finish)
    if kernel.attention is not None:
        lines.extend(f"  {line}" for line in _print_attention(kernel.attention))
    if kernel.sort is not None:
        lines.append(f"  {_print_sort(kernel.sort)}")
    return "\n".join(lines) + "\n"


def _print_sort(s: Sort) -> str:
    lines = " x ".join(map(format_dim, (s.outer, s.size, s.inner)))
    start = f"{'last' if s.descending else 'first'} {format_dim(s.count)} of p{s.source} ({lines})"
    return f"{start} in order gives p{s.values}, p{s.places}"


def _print_attention(a: Attention) -> list[str]:
    sizes = ", ".join(format_dim(d) for d in (a.batch, a.rows, a.columns, a.depth, a.width))
    bounds = [f"{name} {format_dim(d)}" for name, d in _bounds(a)]
    mask = [f"mask {_matrix(a.mask)}"] if a.mask else []
    head = f"attention{' backward' if a.is_backward else ''} ({a.memory}: {sizes})"
    given = (a.query, a.key, a.value)
    lines = [", ".join([head, f"scale {a.scale}", *bounds, *mask])]
    lines.append(f"of {', '.join(map(_matrix, given))}")
    if a.is_backward:
        lines.append(f"with {_matrix(a.output)}, p{a.logarithm}, p{a.delta}")
        return [*lines, f"gives {', '.join(map(_matrix, a.gradients))}"]
    return [*lines, f"gives {_matrix(a.output)}, p{a.logarithm}"]


def _bounds(a: Attention) -> list[tuple[str, Dim]]:
    return [(name, d) for name, d in (("from", a.lower), ("to", a.upper)) if d is not None]


def _matrix(m: MatrixOperand) -> str:
    batch = [f"{format_dim(stride)} for {format_dim(size)}" for size, stride in m.batch]
    strides = ", ".join([*batch, format_dim(m.free), format_dim(m.contracted)])
    start = "" if structurally_equal(m.offset, 0) else f" + {format_dim(m.offset)}"
    return f"p{m.parameter}{start} ({strides})"


def print_program(program: RowProgram) -> list[str]:
    """A row program as lines; its parameters are numbered on their own."""
    lines: list[str] = []
    if program.contraction:
        c = program.contraction
        sizes = ", ".join(format_dim(d) for d in (c.batch, c.rows, c.columns, c.depth))
        target = f"p{c.result}{_stored(c.stored)}" if c.result >= 0 else "panel"
        names = []
        for operand, name in ((c.left, "left"), (c.right, "right")):
            names.append(name if operand.prologue else f"p{operand.parameter}{_uneven(operand)}")
            lines.extend(_print_prologue(operand.prologue, name))
        lines.append(f"{target} = {' @ '.join(names)} ({c.memory}: {sizes})")
        for b in c.left.borders:
            at = f"{b.row_step} * row {b.row} + {b.step} * step {b.along}"
            lines.append(f"  0 unless {b.low} <= {at} < {b.high}")
    rows = ", ".join(f"{l.name} < {format_dim(l.size)}" for l in program.rows)
    inner = ", ".join(f"{l.name} < {format_dim(l.size)}" for l in program.inner)
    lines.append(f"for {rows or 'one row'} ({program.kind}):")
    for block in program.passes:
        lines.extend(f"  {print_statement(s)}" for s in block.row)
        if block.element:
            lines.append(f"  for {inner or 'one element'}:")
            lines.extend(f"    {print_statement(s)}" for s in block.element)
    if program.after:
        lines.append(f"for {inner}:")
        lines.extend(f"  {print_statement(s)}" for s in program.after)
    return lines


def _uneven(operand: MatrixOperand) -> str:
    """How an uneven matrix lies in memory: its free dimension, then the contracted one."""
    steps = operand.uneven
    return "" if steps is None else _two_steps(steps.free, steps.contracted)


def _stored(steps: ResultSteps | None) -> str:
    return "" if steps is None else _two_steps(steps.down, steps.across)


def _two_steps(*steps: Steps) -> str:
    parts = [
        ", ".join(f"{format_dim(stride)} for {format_dim(size)}" for size, stride in loops)
        for loops in steps
    ]
    return f"[{'; '.join(parts)}]"


def _print_prologue(prologue: Prologue | None, name: str) -> list[str]:
    if prologue is None:
        return []
    loops = [
        ", ".join(f"{l.name} < {format_dim(l.size)}" for l in part) or "one element"
        for part in (prologue.rows, prologue.inner)
    ]
    lines = [f"{name} ({prologue.memory}) for {loops[0]}:"]
    lines += [f"  {print_statement(s)}" for s in prologue.row]
    lines.append(f"  for {loops[1]}: give {prologue.name}")
    return lines + [f"    {print_statement(s)}" for s in prologue.element]


def print_statement(s: Statement) -> str:
    match s:
        case Load():
            guard = f" else {s.fill}" if s.fill else ""
            return f"{s.name}: {s.lane} = {_place(s.place)}{guard}"
        case Position():
            return f"{s.name}: {s.lane} = position {_linear(s.at)}"
        case CheckedIndex(lane="b"):
            return f"{s.name}: b = {s.index} (must hold)"
        case CheckedIndex():
            return f"{s.name}: i64 = {s.index} (below {format_dim(s.size)})"
        case Constant():
            value = s.value if isinstance(s.value, (bool, float)) else format_dim(s.value)
            return f"{s.name}: {s.lane} = {value}"
        case Compute():
            rounds = f" rounded to {s.rounds}" if s.rounds else ""
            return f"{s.name}: {s.lane} = {s.op}({', '.join(s.operands)}){rounds}"
        case Call():
            given = ", ".join((*s.operands, *map(str, s.numbers)))
            return f"{s.name}: {s.lane} = {s.function}({given})"
        case RandomBits():
            return f"{s.name}: i32 = random_bits({_linear(s.at)}, state {_place(s.state)})"
        case Fold():
            into = f" into p{s.target}" if s.target >= 0 else ""
            read = f"{s.operand}, {s.factor}" if s.factor else s.operand
            return f"{s.name}: {s.lane} = fold {s.scope} {s.op}({read}){into}"
        case Store():
            where = s.where and f" where {s.where}"
            return f"{_place(s.place)} = {s.combine and s.combine + ' '}{s.operand}{where}"
        case Keep():
            return f"keep{s.slot} = {s.operand}"
        case Recall():
            return f"{s.name}: {s.lane} = keep{s.slot}"


def _place(place: Place) -> str:
    computed = "".join(
        f" + {i.name}*{format_dim(i.stride)} (below {format_dim(i.size)})" for i in place.indices
    )
    guards = "".join(f" if 0 <= {_linear(g)} < {format_dim(n)}" for g, n in place.guards)
    return f"p{place.parameter}[{_linear(place.at)}{computed}]{guards}"


def _linear(at: Linear) -> str:
    terms = [f"r{i}*{format_dim(s)}" for i, s in enumerate(at.rows) if not _zero(s)]
    terms += [f"e{i}*{format_dim(s)}" for i, s in enumerate(at.inner) if not _zero(s)]
    if not _zero(at.offset) or not terms:
        terms.append(format_dim(at.offset))
    return " + ".join(terms)


def _zero(dim: Dim) -> bool:
    return structurally_equal(dim, 0)
