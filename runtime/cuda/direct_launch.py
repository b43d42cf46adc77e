"""Launches of kernels whose arguments are given addresses: eager mode's.

In: a program's steps and what the addresses of its inputs and outputs set. Out: a function of those
addresses that writes all of them and launches, with as few calls in between as can be; where there
is one kernel, as nearly always, all of them at once.
Invariant: the other parameters are what they were when it was made, so it is made anew when
temporaries have moved.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from flamec.runtime import recording
from flamec.runtime.cuda.driver import thread_state
from flamec.runtime.cuda.module import KernelLaunch
from flamec.runtime.cuda.pointers import Place, SetAddress
from flamec.runtime.cuda.stream import Stream, current_streams

LaunchAt = Callable[[Sequence[int]], None]


def direct_launch(
    steps: Sequence[Any],
    given: Sequence[tuple[Sequence[Place], Sequence[SetAddress]]],
    device: int,
    moved: Callable[[Stream], bool] | None,
    otherwise: LaunchAt,
) -> LaunchAt | None:
    """The program as launches, if it is kernels to which addresses are given as they are.

    The result takes the addresses of inputs and outputs, multiples of 16. ``moved``: whether
    temporaries lie elsewhere now; then, and while a profile is made, it is left to ``otherwise``.
    """
    if not steps or not all(isinstance(s, KernelLaunch) and s.plain is not None for s in steps):
        return None
    if len(steps) > 1:
        return _several(steps, given, device, moved, otherwise)
    kernel = steps[0]
    found = _parameters(kernel, given)
    if kernel.plain is None or not found:
        return None
    submit, (function, x, y, z, a, b, c, shared), behind = kernel.plain
    values, fail = kernel.values, kernel.fail
    others: list[int] = []
    for slot in range(max(found)):
        if slot not in found:
            found[slot] = len(given) + len(others)
            others.append(int(values[slot]))
    order = [found[slot] for slot in range(len(found))]
    write = struct.Struct(f"={len(order)}Q").pack_into
    in_order = order == list(range(len(given)))
    pick: Any = itemgetter(*order, 0)  # the last for a tuple where there is one parameter only
    active, of_thread = thread_state, current_streams

    def launch(addresses: Sequence[int]) -> None:
        stream = of_thread.of_device[device]
        if recording.recorder is not None or (moved is not None and moved(stream)):
            otherwise(addresses)
            return
        if in_order:
            write(values, 0, *addresses)
        else:
            write(values, 0, *pick([*addresses, *others])[:-1])
        context = stream.context
        if active.active is not context or not context.alone:
            context.activate()
        (status,) = submit(function, x, y, z, a, b, c, shared, stream.raw, behind, 0)
        if status != 0:
            fail(status)

    return launch


def _several(
    kernels: Sequence[KernelLaunch],
    given: Sequence[tuple[Sequence[Place], Sequence[SetAddress]]],
    device: int,
    moved: Callable[[Stream], bool] | None,
    otherwise: LaunchAt,
) -> LaunchAt | None:
    if any(setters for _, setters in given):
        return None
    if any(offset & mask for places, _ in given for _, _, offset, mask, _ in places):
        return None
    slots = [[(values, slot, by) for values, slot, by, _, _ in places] for places, _ in given]
    launches = [(*k.plain, k.fail) for k in kernels if k.plain is not None]
    active, of_thread = thread_state, current_streams

    def launch(addresses: Sequence[int]) -> None:
        stream = of_thread.of_device[device]
        if recording.recorder is not None or (moved is not None and moved(stream)):
            otherwise(addresses)
            return
        for places, address in zip(slots, addresses, strict=True):
            for values, slot, offset in places:
                values[slot] = address + offset
        context = stream.context
        if active.active is not context or not context.alone:
            context.activate()
        raw = stream.raw
        for submit, before, behind, fail in launches:
            (status,) = submit(*before, raw, behind, 0)
            if status != 0:
                fail(status)

    return launch


def _parameters(
    kernel: KernelLaunch, given: Sequence[tuple[Sequence[Place], Sequence[SetAddress]]]
) -> dict[int, int]:
    """Which address each parameter is; empty if one is no parameter of this kernel as it is."""
    found: dict[int, int] = {}
    for number, (pointers, setters) in enumerate(given):
        if setters:
            return {}
        for values, slot, offset, _, _ in pointers:
            if values is not kernel.values or offset:
                return {}
            found[slot] = number
    return found
