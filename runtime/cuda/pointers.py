"""Pointers among the arguments of launches: how a program gives them the addresses of its buffers.

In: a launch, an argument's slot and an offset from the buffer's address. Out: ``Pointer``, which
sets the argument. Invariant: an address that the kernel was not compiled for is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flamec.runtime.cuda.module import KernelLaunch

ALIGNMENT = 16  # what a kernel may assume of pointers that its source calls aligned

SetAddress = Callable[[int], None]


class Pointer:
    """Sets a pointer argument of a launch, given the address of its buffer.

    ``mask``: of bits that are 0 in the addresses that the kernel was compiled for.
    """

    __slots__ = ("_buffer", "_launch", "mask", "offset", "slot", "values")

    def __init__(
        self, launch: KernelLaunch, slot: int, offset: int, mask: int, buffer: str
    ) -> None:
        self.values, self.slot, self.offset, self.mask = launch.values, slot, offset, mask
        self._launch, self._buffer = launch, buffer

    def __call__(self, address: int) -> None:
        place = address + self.offset
        if place & self.mask:
            raise ValueError(
                f"kernel {self._launch.kernel.binary.name} was compiled for addresses that are "
                f"multiples of {ALIGNMENT}; buffer {self._buffer} is at {place:#x}"
            )
        self.values[self.slot] = place


def array_setter(
    launch: KernelLaunch,
    position: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
) -> SetAddress:
    """What tells a kernel where an array lies; its description is made once, then moved."""
    empty = min(shape) < 1
    move: SetAddress | None = None

    def set_address(address: int) -> None:
        nonlocal move
        if empty:
            launch.set_empty_array(position)
        elif move is not None:
            move(address + offset)
        else:
            launch.set_array(position, address + offset, shape, strides)
            move = launch.mover(position)

    return set_address


def moved(set_address: SetAddress, offset: int) -> SetAddress:
    """For an argument that is so many bytes behind the address that is given."""
    return lambda address: set_address(address + offset)


Place = tuple[Any, int, int, int, Pointer]  # a pointer's parts and the pointer


def sorted_setters(setters: Sequence[SetAddress]) -> tuple[list[Place], list[SetAddress]]:
    """Pointers, for a caller that sets them itself, and the others."""
    pointers = [s for s in setters if isinstance(s, Pointer)]
    places = [(p.values, p.slot, p.offset, p.mask, p) for p in pointers]
    return places, [s for s in setters if not isinstance(s, Pointer)]
