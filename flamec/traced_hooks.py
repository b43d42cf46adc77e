"""What a trace knows of hooks: those on its own values, and those found on leaves made outside.

A backward in the traced function calls the hooks themselves, as eager backward does. For a
backward that may come after the program's call they are run on stand-ins when the function
has returned, and kept as rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.ir.custom import RecordedRule
from flamec.ir.graph import Value
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.guards import Recorder


@dataclass(frozen=True, eq=False)
class KeptHook:
    """What a hook makes of a gradient, and if it has effects, the hook, to be called again: of a
    list of one gradient."""

    rule: RecordedRule
    again: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None


Hooks = tuple[tuple[Callable[[Tensor], Any], ...], tuple[Callable[[Tensor], Any], ...]]


class TracedHooks:
    """``registered``: the hooks on values of the trace; ``rules``: what they compute, for a
    backward outside; ``late``: what else writes rules for one (hooks of modules). ``reads``: the
    hooks that captured leaves had when backward met them, ``argument_reads``: those of
    arguments, by position."""

    def __init__(self, leaves: dict[Value, Tensor], first_values: dict[Value, Value]) -> None:
        self.registered: dict[Value, dict[int, Callable[[Tensor], Any]]] = {}
        self.late: list[Callable[[Recorder], Any]] = []
        self.rules: dict[Value, dict[int, KeptHook]] = {}
        self.reads: dict[Tensor, Hooks] = {}
        self.argument_reads: dict[int, Hooks] = {}
        self._leaves = leaves
        self._first_values = first_values  # a leaf's hooks see its complete gradient
        self._arguments: dict[Value, tuple[int, Tensor]] = {}

    def argument(self, value: Value, position: int, tensor: Tensor) -> None:
        """``value`` stands for the leaf ``tensor``, an argument."""
        self._arguments[value] = position, tensor

    def read(self, value: Value, hooks_of_leaf: Callable[[Tensor], Hooks]) -> Hooks:
        """The hooks on the gradient of a leaf made outside, and those after accumulation."""
        if value in self._arguments:
            position, tensor = self._arguments[value]
            found = self.argument_reads[position] = hooks_of_leaf(tensor)
            return found
        leaf = self._leaves.get(value)
        if leaf is None or leaf._trace is not None or value in self._first_values:
            return (), ()
        found = self.reads[leaf] = hooks_of_leaf(leaf)
        return found

    def release(self) -> None:
        """Let go of the arguments of the traced call, and of Python's functions."""
        self._arguments.clear()
        self.registered.clear()
        self.late.clear()
