"""Launches that do not depend on each other, as one: blocks are divided among their functions.

In: consecutive launches of a kernel, each with the buffers that it reads and writes. Out: fewer
launches that do the same. The functions become device functions of one kernel, equal ones once;
a block finds by its number which of them it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flamec.codegen.triton.rendering import module, render
from flamec.codegen.triton.source import COUNTERS, EmittedLaunch
from flamec.codegen.triton.text import dim, size_name
from flamec.ir.plan import Argument, KernelSource
from flamec.ir.shape import Dim, SymbolicDim, maximum, structurally_equal, symbols_of

MOST_TOGETHER = 16  # functions of a kernel: each costs compile time
_BLOCK = "tl.program_id(0)"


@dataclass(frozen=True)
class PlannedLaunch:
    """A launch with its arguments, and the buffers that it reads and writes.

    ``alone``: other launches of the kernel may depend on it, or it on them. ``part``: it is one of
    the kernel's parts, which write different elements where they write to one buffer.
    ``any_warps``: it is the same with any number of warps. ``last``: it writes to what parts before
    it read.
    """

    launch: EmittedLaunch
    arguments: tuple[Argument, ...]
    reads: frozenset[int] = frozenset()
    writes: frozenset[int] = frozenset()
    alone: bool = True
    part: bool = False
    any_warps: bool = False
    last: bool = False


def together(
    launches: Sequence[PlannedLaunch], name: str, doc: str, counters: Callable[[Dim], int]
) -> list[PlannedLaunch]:
    """The launches, neighbours put together where the order of their work does not matter, and one
    of a block that is last is done by the block that comes last. ``counters`` gives a buffer of
    zeros."""
    groups: list[list[PlannedLaunch]] = []
    for launch in _equal_ones_first(launches):
        if groups and (_may_join(groups[-1], launch) or _may_follow(groups[-1], launch)):
            groups[-1].append(launch)
        else:
            groups.append([launch])
    return [_merged(g, name, doc, counters) if len(g) > 1 else g[0] for g in groups]


def _equal_ones_first(launches: Sequence[PlannedLaunch]) -> list[PlannedLaunch]:
    """The launches in an order in which most of the kernels they become are equal, too.

    As many as fit into one kernel go together if they run the same function on blocks of the same
    number; what is left of each kind comes behind. Only neighbours that do not depend on each
    other change their order.
    """
    ordered: list[PlannedLaunch] = []
    for run in _independent(launches):
        alike: dict[object, list[PlannedLaunch]] = {}
        for launch in run:
            source = launch.launch.source
            options = tuple(sorted(source.options.items()))
            key = device_function(launch.launch), launch.launch.blocks, len(source.aligned), options
            alike.setdefault(key, []).append(launch)
        whole = {key: len(same) // MOST_TOGETHER * MOST_TOGETHER for key, same in alike.items()}
        for key, same in alike.items():
            ordered += same[: whole[key]]
        for key, same in alike.items():
            ordered += same[whole[key] :]
    return ordered


def _independent(launches: Sequence[PlannedLaunch]) -> list[list[PlannedLaunch]]:
    """Runs of neighbours in which no launch writes what another reads or writes."""
    runs: list[list[PlannedLaunch]] = []
    read: set[int] = set()
    written: set[int] = set()
    for launch in launches:
        clash = not (
            launch.writes.isdisjoint(read)
            and launch.writes.isdisjoint(written)
            and launch.reads.isdisjoint(written)
        )
        if launch.alone or not runs or runs[-1][-1].alone or clash:
            runs.append([])
            read, written = set(), set()
        runs[-1].append(launch)
        read |= launch.reads
        written |= launch.writes
    return runs


def _may_join(group: Sequence[PlannedLaunch], launch: PlannedLaunch) -> bool:
    alone = launch.alone or group[0].alone
    if alone or launch.last or group[-1].last or len(group) == MOST_TOGETHER:
        return False
    if not _agree((*group, launch)):
        return False
    return not any(_depends(launch, other) for other in group)


def _may_follow(group: Sequence[PlannedLaunch], launch: PlannedLaunch) -> bool:
    """Whether the block of the group that comes last may do the launch's work."""
    if not launch.last or launch.alone or group[0].alone or group[-1].last:
        return False
    if not structurally_equal(launch.launch.blocks, 1) or not _agree((*group, launch)):
        return False
    return not any(launch.reads & o.writes or launch.writes & o.writes for o in group)


def _agree(launches: Sequence[PlannedLaunch]) -> bool:
    """Whether launches have the same options, or may."""
    free = {"num_warps"} if all(planned.any_warps for planned in launches) else set()
    found = [planned.launch.source.options for planned in launches]
    fixed = [{k: v for k, v in options.items() if k not in free} for options in found]
    return all(options == fixed[0] for options in fixed)


def _depends(launch: PlannedLaunch, other: PlannedLaunch) -> bool:
    """Whether the order of two launches may matter."""
    if launch.writes & other.reads or launch.reads & other.writes:
        return True
    return bool(launch.writes & other.writes) and not (launch.part and other.part)


def can_share_blocks(launch: EmittedLaunch) -> bool:
    """Whether a launch asks for nothing but its block's number."""
    special = "tl.num_programs" in launch.source.text or COUNTERS in launch.arguments
    return not (special or launch.described or launch.persistent)


def _merged(
    group: Sequence[PlannedLaunch], name: str, doc: str, counters: Callable[[Dim], int]
) -> PlannedLaunch:
    functions: dict[str, str] = {}  # text of a function under a common name -> its name
    calls: list[tuple[str, str, Dim]] = []  # function, arguments, the first block behind it
    parameters, aligned, arguments = [], [], []
    end: Dim = 0
    follows = group[-1].last  # in a block of the others', or in one of its own if they have none
    for position, planned in enumerate(group):
        source = planned.launch.source
        body = device_function(planned.launch)
        function = functions.setdefault(body, f"{name}_part{len(functions)}")
        called = {n: f"a{position}_{i}" for i, n in enumerate(planned.launch.arguments)}
        end = end + (0 if planned.last else planned.launch.blocks)
        calls.append((function, ", ".join(called.values()), end))
        parameters += [(called[n], kind) for n, kind in source.parameters]
        aligned += [called[n] for n in source.aligned]
        arguments += list(planned.arguments)
    sizes = sorted({s for _, _, end in calls for s in symbols_of(end)})
    names = [n for n, _ in parameters] + [size_name(s) for s in sizes]
    parameters += [(size_name(s), "i64") for s in sizes]
    arguments += [Argument(value=SymbolicDim.symbol(s)) for s in sizes]
    if follows:
        names.append(COUNTERS)
        parameters.append((COUNTERS, "*i32"))
        arguments.append(Argument(buffer=counters(1)))
    text = render(
        "side_by_side.py.j2",
        {
            "name": name,
            "doc": doc,
            "arguments": ", ".join(names),
            "functions": [named(body, function) for body, function in functions.items()],
            "calls": [(f, passed, dim(end)) for f, passed, end in calls[: -1 if follows else None]],
            "last": calls[-1] if follows else None,
            "may_be_none": follows and not isinstance(end, int),
        },
    )
    first = max((p.launch for p in group), key=lambda p: p.source.options["num_warps"])
    source = KernelSource(
        module(text), name, tuple(parameters), {}, tuple(aligned), first.source.options
    )
    blocks = maximum(end, 1) if follows else end
    merged = replace(first, source=source, blocks=blocks, arguments=tuple(names))
    reads = frozenset().union(*(p.reads for p in group))
    writes = frozenset().union(*(p.writes for p in group))
    return PlannedLaunch(merged, tuple(arguments), reads, writes)


def device_function(launch: EmittedLaunch) -> str:
    """A kernel's function without its names: its own, its arguments', its block's number, which
    is another argument, the last one."""
    text = launch.source.text
    text = text[text.rindex("@triton.jit\n") :].rstrip() + "\n"
    text = text.replace(_BLOCK, "block_number")
    numbers = {name: f"argument{i}" for i, name in enumerate(launch.arguments)}
    text = re.sub(r"\b\w+\b", lambda word: numbers.get(word[0], word[0]), text)
    head = f"def {launch.source.function}({', '.join(numbers.values())}):"
    assert head in text, f"{launch.source.function} does not begin as expected"
    return text.replace(head, f"def FUNCTION({', '.join([*numbers.values(), 'block_number'])}):")


def named(body: str, name: str) -> str:
    """What ``device_function`` gives, under a name."""
    return body.replace("def FUNCTION(", f"def {name}(", 1)
