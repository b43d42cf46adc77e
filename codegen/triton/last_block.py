"""Two launches as one: the block that comes last does what follows.

In: a launch whose blocks leave partial results, and the launch that needs them all, or, for each
group of blocks, one block that needs those of the group. Out: one launch. A block counts itself
when its partial results are in memory, and the one that finds itself the last of its group goes on;
partial results are joined in the order of blocks, whichever comes last. Invariant: counters are
zero before and after a launch. Release and acquire at a counter order the partial results (PTX ISA,
"Memory Consistency Model", section "Causality Order").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flamec.codegen.triton.side_by_side import device_function, named
from flamec.codegen.triton.source import COUNTERS, ERRORS, EmittedLaunch, emit
from flamec.codegen.triton.text import dim, size_name
from flamec.ir.shape import Dim, structurally_equal, substitute


def finished_by_last(
    first: EmittedLaunch,
    second: EmittedLaunch,
    groups: Dim,
    blocks: Dim,
    sizes: Mapping[str, Dim],
    wide: bool,
    doc: str,
) -> EmittedLaunch:
    """One launch for both. Block n of ``first`` is in group n % ``groups``, which has ``blocks``
    blocks; block n of ``second`` follows group n. Arguments of one name are the same in both;
    ``sizes`` are what is known of those that are sizes."""
    source = first.source
    kinds = dict(source.parameters)
    kinds = {**dict(second.source.parameters), **kinds}
    calls = []
    for position, launch in enumerate((first, second)):
        name = f"{source.function}_{('rows', 'end')[position]}"
        calls.append((named(device_function(launch), name), name, ", ".join(launch.arguments)))
    holes: dict[str, object] = {
        "name": source.function,
        "doc": f"{doc}; the block that comes last joins what all leave",
        "functions": [text for text, _, _ in calls],
        "calls": [(name, arguments) for _, name, arguments in calls],
        "groups": dim(groups),
        "several": not structurally_equal(groups, 1),
        "blocks": dim(blocks),
        "counted": not structurally_equal(blocks, 1),
        "wide": wide,
    }
    special = (ERRORS, COUNTERS)
    pointers = {n: kind for n, kind in kinds.items() if kind[0] == "*" and n not in special}
    launch = emit(
        "last_block.py.j2",
        holes,
        pointers | {COUNTERS: "*i32"},
        first.blocks,
        int(source.options["num_warps"]),
        {size_name(n): size for n, size in sizes.items()},
        stages=int(source.options["num_stages"]),
        wide=wide,
    )
    words = substitute(groups, sizes) if COUNTERS in launch.arguments else 0
    return replace(launch, counters=words)
