"""What leaves a traced function: where a call has each leaf of the results and of what it writes.

In: tensors and numbers of a trace that has ended. Out: a ``Result`` for each, and the values that
become the graph's outputs. Invariants: a value is one output, however many tensors have it; tensors
that share memory are views of one output; one tensor has one ``Result``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flamec.changed_arguments import CallersContainer, OwnContainer
from flamec.detached_histories import has_own_history
from flamec.errors import Uncompiled, unrepeatable, user_location
from flamec.freed_histories import FreedValues
from flamec.host_numbers import expression_of
from flamec.ir.graph import Value
from flamec.ir.shape import SymbolicDim, has_symbols
from flamec.roots import Root
from flamec.tensor import RuntimeNumber, Size, Tensor, ViewStep

if TYPE_CHECKING:
    from flamec.trace import Trace


@dataclass(frozen=True, eq=False)
class Result:
    """One leaf of what the function returned (or stored in a ``.grad``).

    ``kind``: ``"fresh"`` (graph output ``position``), ``"argument"`` (the argument leaf
    itself), ``"container"`` (the container at ``position`` behind these leaves), ``"tensor"`` (that
    very tensor), ``"base"`` (the base of a captured or, by
    position, an argument's storage), ``"constant"`` (a Python value), ``"size"`` (a symbolic
    size), ``"number"`` (graph output ``position`` as a Python number), ``"host"`` (the expression
    ``value``, number ``position`` of those). ``steps`` are view steps to apply to it.
    """

    kind: str
    position: int = -1
    value: Any = None
    steps: tuple[ViewStep, ...] = ()
    tracked: bool = False
    freed: bool = False


@dataclass(frozen=True, eq=False)
class GradEffect:
    """``target.grad = result`` after the call; ``target`` is a tensor or an argument position."""

    target: Tensor | int
    result: Result


class Outputs:
    """Assigns graph outputs to the tensors that leave the function.

    It is made when the function has returned: what is alive then may leave it, as a result, a
    gradient, or what it stored.
    """

    def __init__(self, trace: Trace, proxies: Sequence[Any]) -> None:
        self.trace = trace
        self.proxies = proxies
        self.values: list[Value] = []
        self._positions: dict[Value, int] = {}
        alive = Counter(tensor._storage for tensor in trace.escaped(set()))
        self._shared = {storage for storage, count in alive.items() if count > 1}
        self._known: dict[int, tuple[Tensor, Result]] = {}
        self._freed = FreedValues(trace)
        self.retained: dict[Value, int] = {}  # outputs whose gradients are kept, by their values

    def argument_position(self, tensor: Tensor) -> int | None:
        for position, proxy in enumerate(self.proxies):
            if proxy is tensor:
                return position
        return None

    def classify(self, leaf: Any) -> Result:
        """Where a call has ``leaf``; the same for the same tensor."""
        if isinstance(leaf, SymbolicDim) or (isinstance(leaf, Size) and has_symbols(leaf)):
            return Result("size", value=leaf)
        if isinstance(leaf, CallersContainer):
            return Result("container", leaf.position)
        if isinstance(leaf, OwnContainer):
            return Result("constant", value=leaf.container)
        if not isinstance(leaf, Tensor):
            return Result("constant", value=leaf)
        known = self._known.get(id(leaf))
        if known is None:
            known = self._known[id(leaf)] = (leaf, self._classify(leaf))
        return known[1]

    def leaves(self) -> Iterator[tuple[Tensor, Result]]:
        """The leaves that the function made and that leave it."""
        for leaf, result in self._known.values():
            if leaf._requires_grad and result.kind == "fresh":
                yield leaf, result

    @property
    def has_views_of_lost_leaves(self) -> bool:
        """Whether a view of a leaf leaves the function that made the leaf, without that."""
        inner = [(v, t) for v, t in self.trace.leaf_tensors.items() if v.node is not None]
        lost = {t._storage for _, t in inner} - {t._storage for t, _ in self.leaves()}
        known = self._known.values() if lost else ()
        return any(result.tracked and leaf._storage in lost for leaf, result in known)

    def is_freed(self, value: Value) -> bool:
        """Whether a pass in the function has freed a history."""
        return bool(self.trace.freed) and value in self._freed

    def forget(self) -> None:
        """Let go of the tensors."""
        for leaf, result in self._known.values():
            if leaf._retains_grad and result.kind == "fresh" and not result.freed:
                if result.steps:
                    raise unrepeatable("retain_grad of a view that is returned with its base")
                self.retained[self.values[result.position]] = result.position
        self._known.clear()

    def _classify(self, leaf: Tensor) -> Result:
        position = self.argument_position(leaf)
        if position is not None:
            self.trace.root_of(leaf).returned = True
            return Result("argument", position)
        if leaf._trace is None:
            return Result("tensor", value=leaf)
        trace = self.trace
        if isinstance(leaf, RuntimeNumber):  # the caller expects a Python number
            return self._number(leaf)
        tracked = trace.is_tracked(leaf) and not leaf._requires_grad
        root = trace.root_of(leaf)
        if root.input_position is not None:
            if tracked and has_own_history(trace, leaf):
                raise Uncompiled(
                    "the function returns what detach() gives of a tensor from outside, with the "
                    f"history of what was written to it (at {user_location()}); return a copy"
                )
            root.returned = True
            return self._view_of_input(leaf, root)
        freed = self.is_freed(trace.value_of(leaf))
        if leaf._storage in self._shared:
            steps = leaf._steps[len(root.steps) :]
            return Result("fresh", self.output(root.value), None, steps, tracked, freed)
        return Result("fresh", self.output(trace.value_of(leaf)), None, (), tracked, freed)

    def _number(self, leaf: RuntimeNumber) -> Result:
        expression = expression_of(leaf)
        if expression is not None:
            returned = expression.state.returned
            returned.append(expression)
            return Result("host", len(returned) - 1, expression)
        return Result("number", self.output(self.trace.value_of(leaf)))

    def _view_of_input(self, leaf: Tensor, root: Root) -> Result:
        assert root.input_position is not None
        source = self.trace.sources[root.input_position]
        steps = leaf._steps[len(root.steps) :]
        if source.kind == "argument":
            return Result("argument", source.position, None, steps)
        if source.kind == "captured":
            return Result("tensor", value=source.tensor, steps=steps)
        return Result("base", source.position, source.storage, leaf._steps)

    def output(self, value: Value) -> int:
        """The position of a value among the outputs."""
        if value not in self._positions:
            self._positions[value] = len(self.values)
            self.values.append(value)
        return self._positions[value]
