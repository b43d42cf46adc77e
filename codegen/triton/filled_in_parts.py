"""Which arrays several kernels of a program fill, each a part of its own.

In: a lowered graph and where its values live. Out: numbers of buffers. Kernels that write such a
buffer, and read nothing of it, may run side by side.
"""

from __future__ import annotations

from collections import defaultdict

from flamec.codegen.buffers import BufferTable
from flamec.codegen.lower.graph import LoweredGraph
from flamec.codegen.lower.group import LoweredKernel
from flamec.ir.graph import Value
from flamec.ir.kernel import Load
from flamec.ir.tasks import Task


def filled_in_parts(lowered: LoweredGraph, table: BufferTable) -> list[int]:
    """The buffers of joined and interleaved arrays. One that is changed afterwards is none: what
    changes it follows what fills it."""
    writers: defaultdict[Value, list[Task]] = defaultdict(list)
    for group in lowered.groups:
        for task in group.tasks:
            for value in task.results:
                writers[value].append(task)
    lives = defaultdict(set)
    for kernel in lowered.kernels:
        for memory in kernel.buffers:
            lives[table.number(memory)].add(memory)
    found = []
    for value, tasks in writers.items():
        parts = len(tasks) > 1 and all(task.is_copy and not task.after for task in tasks)
        if not parts or not table.is_placed(value) or len(lives[table.number(value)]) > 1:
            continue
        if not any(_reads_what_it_writes(kernel, value) for kernel in lowered.kernels):
            found.append(table.number(value))
    return sorted(found)


def _reads_what_it_writes(lowered: LoweredKernel, value: Value) -> bool:
    if value not in lowered.buffers:
        return False
    number = lowered.buffers.index(value)
    if not lowered.kernel.parameters[number].written:
        return False
    for part in lowered.kernel.parts:
        for way in part.ways:
            if number not in way.arguments:
                continue
            parameter = way.arguments.index(number)
            statements = (*way.program.statements(), *way.program.after)
            if any(isinstance(s, Load) and s.place.parameter == parameter for s in statements):
                return True
    return False
