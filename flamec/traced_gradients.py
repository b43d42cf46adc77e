"""What a trace knows of ``.grad``: what tensors had when the call began, and what it wrote.

In: the arguments of the call with the tensors that stand for them, then reads and writes.
Invariant: an argument and the tensor that stands for it have one gradient, whichever of the two
the function names; what was read of tensors made outside is guarded: that there is a gradient,
or, if the function may know it from elsewhere too, which tensor it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from flamec.errors import unknown_outer_gradient
from flamec.tensor import Tensor


class TracedGradients:
    """``written``: the gradients that the function set. ``reads``: what captured tensors had,
    ``argument_reads``: what arguments had, by position. ``named``: the arguments that the
    function knows as captured tensors, too."""

    def __init__(self) -> None:
        self.written: dict[Tensor, Tensor | None] = {}
        self.reads: dict[Tensor, Tensor | None] = {}
        self.argument_reads: dict[int, Tensor | None] = {}
        self.named: dict[int, Tensor] = {}
        self.flags: dict[Tensor, bool] = {}  # which arguments required gradients at first
        self._outer: set[Tensor] = set()  # whose gradients are known only after the call
        self._has_outer = False  # also if other calls alone reach leaves there
        self._asked: list[weakref.ref[Tensor]] = []  # whose gradients the function used since
        self._stand_ins: dict[Tensor, tuple[int, Tensor]] = {}
        self._arguments: dict[Tensor, tuple[int, Tensor]] = {}

    def argument(self, tensor: Tensor, position: int, stand_in: Tensor) -> None:
        """``stand_in`` is the tensor of the trace for the argument ``tensor``."""
        self._stand_ins[tensor] = position, stand_in
        self._arguments[stand_in] = position, tensor

    def stand_in(self, tensor: Tensor) -> Tensor | None:
        """What stands for ``tensor``, if it is an argument of the call."""
        found = self._stand_ins.get(tensor)
        return None if found is None else found[1]

    def argument_at(self, position: int) -> Tensor:
        """What stands for the argument ``position``."""
        return next(s for p, s in self._stand_ins.values() if p == position)

    def original(self, tensor: Tensor) -> Tensor:
        """The argument that ``tensor`` stands for, or the tensor itself."""
        found = self._arguments.get(tensor)
        return tensor if found is None else found[1]

    def both(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """An argument and what stands for it; or the tensor itself. Their flags will be changed."""
        original = self.original(tensor)
        found = self.stand_in(original)
        if found is None:
            return (tensor,)
        self.flags.setdefault(original, original._requires_grad)
        return original, found

    def begin_outer(self, leaves: Iterable[Tensor]) -> list[weakref.ref[Tensor]]:
        """From here on these have gradients that only the end of the call knows; the list that
        gets all tensors whose gradients are used nevertheless."""
        self._has_outer = True
        self._outer.update(leaves)
        return self._asked

    def use(self, tensor: Tensor) -> None:
        """Refuse what depends on a gradient that only the end of the call knows."""
        if not self._has_outer:
            return
        tensor = self.original(tensor)
        if tensor in self._outer:
            raise unknown_outer_gradient(tensor.shape)
        self._asked.append(weakref.ref(tensor))

    def read(self, tensor: Tensor) -> Tensor | None:
        self.use(tensor)
        tensor = self._owner(tensor)
        if tensor in self.written:
            return self.written[tensor]
        if tensor in self._arguments:
            position, argument = self._arguments[tensor]
            return self.argument_reads.setdefault(position, argument._grad)
        if tensor._trace is None:
            self.reads.setdefault(tensor, tensor._grad)
        return tensor._grad

    def owner(self, gradient: Tensor) -> Tensor | None:
        """Which captured tensor the function has read this gradient from."""
        return next((t for t, g in self.reads.items() if g is gradient), None)

    def write(self, tensor: Tensor, gradient: Tensor | None) -> None:
        self.use(tensor)
        self.written[self._owner(tensor)] = gradient

    def _owner(self, tensor: Tensor) -> Tensor:
        if tensor not in self._stand_ins:
            return tensor
        position, stand_in = self._stand_ins[tensor]
        self.named[position] = tensor
        return stand_in

    def forget(self) -> None:
        """Let go of the gradients that tensors had, when the check has been made."""
        self.reads.clear()
        self.argument_reads.clear()

    def release(self) -> None:
        """Let go of the tensors of the traced call."""
        self.written.clear()
        self._stand_ins.clear()
        self._arguments.clear()
        self._outer.clear()
        self.flags = {}  # who can undo the trace has the other
