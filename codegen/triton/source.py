"""From a kernel's text to a ``KernelSource``: which arguments it takes and of which types.

In: text that mentions pointers ``p0`` (the program's parameters), ``k0`` (the kernel's), ``x0``
(values computed once), ``q0`` (partial results), tensor descriptors ``d0``, ``errors`` (a word for
error codes), ``counters`` (words that are zero), sizes ``n_B`` and ``sort_level`` (of a sort).
Out: what a launch needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from flamec.codegen.triton.rendering import module, render
from flamec.ir.plan import KernelSource
from flamec.ir.shape import Dim, is_multiple

ALIGNMENT = 16  # of the pointers and sizes that Triton is told of
ERRORS = "errors"
COUNTERS = "counters"
_ARGUMENT = re.compile(r"\b([pkxqd]\d+|n_\w+|errors|counters|sort_level)\b")


@dataclass(frozen=True)
class Described:
    """What a tensor descriptor describes: an array ``offset`` bytes behind where a pointer
    argument would point to. ``kind`` is the descriptor's type in Triton."""

    pointer: str
    kind: str
    offset: Dim
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]


@dataclass(frozen=True)
class EmittedLaunch:
    """A kernel, its grid, and the names of its arguments in order.

    ``persistent``: so many blocks for each processor at most; 0: as many as ``blocks`` says.
    ``counters``: how many words it counts its blocks in.
    """

    source: KernelSource
    blocks: Dim
    arguments: tuple[str, ...]
    described: Mapping[str, Described] = field(default_factory=dict)
    persistent: int = 0
    counters: Dim = 0


def emit(
    template: str,
    holes: dict[str, object],
    pointers: Mapping[str, str],
    blocks: Dim,
    warps: int,
    sizes: Mapping[str, Dim] | None = None,
    stages: int = 1,
    wide: bool = True,
    described: Mapping[str, Described] | None = None,
    persistent: int = 0,
    rounded: tuple[str, ...] = (),
    registers: int = 0,
) -> EmittedLaunch:
    """Fill a template. ``pointers`` gives the types of pointers by name, ``described`` the tensor
    descriptors (``rounded``: see ``KernelSource``), ``sizes`` what is known of sizes that are
    arguments; unless ``wide``, these are 32-bit numbers. ``registers``: how many a thread may have
    at most, if not as many as there are. ``persistent``: see ``EmittedLaunch``."""
    draft = render(template, {**holes, "arguments": ""})
    arguments = tuple(dict.fromkeys(sorted(_ARGUMENT.findall(draft), key=_order)))
    text = render(template, {**holes, "arguments": ", ".join(arguments)})
    known, arrays = sizes or {}, described or {}
    parameters, aligned = [], []
    for name in arguments:
        if name in pointers:
            parameters.append((name, pointers[name]))
            aligned.append(name)
        elif name in arrays:
            parameters.append((name, arrays[name].kind))
        elif name == ERRORS:
            parameters.append((name, "*i64"))
        else:
            parameters.append((name, "i64" if wide else "i32"))
            if is_multiple(known.get(name, 1), ALIGNMENT):
                aligned.append(name)
    options = {"num_warps": warps, "num_stages": stages}
    if registers:
        options["maxnreg"] = registers
    source = KernelSource(
        module(text), str(holes["name"]), tuple(parameters), {}, tuple(aligned), options, rounded
    )
    return EmittedLaunch(source, blocks, arguments, arrays, persistent)


def _order(name: str) -> tuple[int, int, str]:
    kind = "dpkxqecns".index(name[0])
    number = int(name[1:]) if name[1:].isdigit() else 0
    return kind, number, name
