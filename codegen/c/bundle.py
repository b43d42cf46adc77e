"""A kernel with many parts or scalars as tables: C whose length follows how many are different.

In: a kernel and the C functions of its parts' programs. Out: a step. Parts of one program differ in
numbers that a table has. Scalars are computed block by block; blocks that do the same to other
buffers are one C function. So an optimizer's update of a thousand parameters compiles like one of
ten.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flamec.codegen.c.program_writer import EmittedProgram
from flamec.codegen.c.rendering import render, size_declarations, symbols_in
from flamec.codegen.c.statements import StatementWriter
from flamec.codegen.c.text import C_TYPES, dim
from flamec.ir.kernel import (
    CheckedIndex,
    Constant,
    Kernel,
    Load,
    RandomBits,
    Statement,
    Store,
    lane_of,
    name_of,
    operands_of,
)
from flamec.ir.shape import structural_key

FEW = 16  # parts and scalars that are written out one by one
LONGEST_BLOCK = 64  # statements
_NAME = re.compile(r"\b(?:scalar|p)\d+\b")


def is_bundle(kernel: Kernel, programs: Sequence[EmittedProgram]) -> bool:
    """Whether tables say everything: no part leaves partial results, no scalar is checked."""
    if len(kernel.parts) <= FEW or kernel.finish:
        return False
    plain = not any(emitted.folds or emitted.after for emitted in programs)
    return plain and not any(_needs_frame(s) for s in kernel.uniform)


def _needs_frame(s: Statement) -> bool:
    indexed = isinstance(s, (Load, Store)) and bool(s.place.indices)
    return indexed or isinstance(s, CheckedIndex)


@dataclass
class BundleWriter:
    """Writes one step. ``functions``: those of blocks by their text, which all steps share."""

    kernel: Kernel
    buffers: tuple[int, ...]
    programs: Sequence[EmittedProgram]
    symbols: tuple[str, ...]
    functions: dict[str, str]
    new_functions: list[str] = field(default_factory=list)

    def write(self, name: str, comment: str, run: str) -> str:
        """The step's function; ``new_functions`` belong before it."""
        lanes = {name_of(s): lane_of(s) for s in self.kernel.uniform if name_of(s)}
        blocks = _blocks(self.kernel.uniform)
        slots = self._slots(blocks)
        places: list[int] = []
        rows = []
        for block in blocks:
            function, at = self._block(block, slots, lanes)
            rows.append(f"{{{function}, {len(places)}}}")
            places += at
        forms = self._forms(slots)
        symbols = set().union(*(e.symbols for e in self.programs))
        if self.symbols:
            different = {structural_key(part.sizes): part.sizes for part in self.kernel.parts}
            symbols.update(*map(symbols_in, different.values()))
        return render(
            "bundle.c.j2",
            {
                "name": name,
                "comment": comment,
                "sizes": "\n".join(size_declarations(self.symbols, symbols, "call")),
                "buffers": _listed(self.buffers),
                "values": max(1, len(slots)),
                "places": _listed(places or [0]),
                "blocks": ", ".join(rows) or "{0, 0}",
                "block_count": len(rows),
                "parts": len(self.kernel.parts),
                "forms": forms,
                "run": run,
            },
        )

    def _slots(self, blocks: Sequence[Sequence[Statement]]) -> dict[str, int]:
        """A place for each value that is used outside of the block that computes it."""
        home = {name_of(s): i for i, block in enumerate(blocks) for s in block if name_of(s)}
        used = {name for part in self.kernel.parts for name in part.imports}
        for i, block in enumerate(blocks):
            used |= {name for s in block for name in operands_of(s) if home[name] != i}
        return {name: i for i, name in enumerate(n for n in home if n in used)}

    def _block(
        self, block: Sequence[Statement], slots: dict[str, int], lanes: dict[str, str]
    ) -> tuple[str, list[int]]:
        """The function of a block, and what its places are here."""
        own = [name_of(s) for s in block if name_of(s)]
        known = dict.fromkeys(own)
        given = dict.fromkeys(n for s in block for n in operands_of(s) if n not in known)
        pointers = dict.fromkeys(p for s in block for p in _parameters(s))
        called = {f"p{number}": f"p{i}" for i, number in enumerate(pointers)}
        called |= {name: f"w{i}" for i, name in enumerate((*given, *own))}
        taken: list[str] = []
        for number in pointers:
            memory = self.kernel.parameters[number].memory
            taken.append(f"{C_TYPES[memory]} *p{len(taken)} = arguments[at[{len(taken)}]];")
        places = list(pointers)
        for name in given:
            lane = lanes[name]
            value = f"value[at[{len(places)}]].{lane}"
            taken.append(f"const v_{lane} {called[name]} = vsplat_{lane}({value});")
            places.append(slots[name])
        gives = []
        for name in (n for n in own if n in slots):
            gives.append(f"value[at[{len(places)}]].{lanes[name]} = {called[name]}[0];")
            places.append(slots[name])
        writer = StatementWriter((), (), "0")
        body = "\n".join(line for s in block for line in writer.write(s, None))
        symbols = symbols_in(tuple(block)) if self.symbols else set()
        holes = {
            "name": "scalars",
            "sizes": "\n".join(size_declarations(self.symbols, symbols, "call")),
            "given": "\n".join(taken),
            "body": _NAME.sub(lambda word: called.get(word[0], word[0]), body),
            "gives": "\n".join(gives),
        }
        text = "\0".join(holes.values())
        if text not in self.functions:
            holes["name"] = self.functions[text] = f"scalars_{len(self.functions)}"
            self.new_functions.append(render("scalars.c.j2", holes))
        return self.functions[text], places

    def _forms(self, slots: dict[str, int]) -> list[dict[str, Any]]:
        """The parts of each program."""
        positions: dict[str, list[int]] = {}
        for i, emitted in enumerate(self.programs):
            positions.setdefault(emitted.name, []).append(i)
        forms: list[dict[str, Any]] = []
        for numbers in positions.values():
            emitted, first = self.programs[numbers[0]], self.kernel.parts[numbers[0]]
            parts = [self.kernel.parts[i] for i in numbers]
            rows = [
                (i, *part.arguments, *(slots[name] for name in part.imports))
                for i, part in zip(numbers, parts, strict=True)
            ]
            names = first.program.sizes
            own = [", ".join(map(dim, part.sizes)) or "0" for part in parts]
            sizes = [f"const int64_t {n} = n_{len(forms)}[k][{i}];" for i, n in enumerate(names)]
            forms.append(
                {
                    "width": len(rows[0]),
                    "rows": ", ".join(f"{{{_listed(row)}}}" for row in rows),
                    "count": len(numbers),
                    "pointers": len(first.arguments),
                    "imports": len(first.imports),
                    "scalars": max(1, len(first.imports)),
                    "numbers": max(1, len(first.sizes)),
                    "own": ", ".join(f"{{{text}}}" for text in own),
                    "sizes": "\n".join(sizes),
                    "jobs": emitted.jobs,
                    "grain": emitted.grain,
                    "function": emitted.name,
                }
            )
        return forms


def _blocks(statements: Sequence[Statement]) -> list[list[Statement]]:
    """Statements in short runs: each store alone, and what follows a load up to the next.

    So the statements of one parameter, or of one term of a long sum, are a block of their own.
    """
    blocks: list[list[Statement]] = []
    for s in statements:
        starts = isinstance(s, Store)
        if blocks and isinstance(s, (Load, Constant)):
            starts = not isinstance(blocks[-1][-1], (Load, Constant))
        if starts or not blocks or len(blocks[-1]) == LONGEST_BLOCK:
            blocks.append([])
        blocks[-1].append(s)
    return blocks


def _parameters(s: Statement) -> list[int]:
    if isinstance(s, (Load, Store)):
        return [s.place.parameter]
    return [s.state.parameter] if isinstance(s, RandomBits) else []


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
