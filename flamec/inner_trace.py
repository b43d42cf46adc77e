"""A trace inside of eager code or of another trace: what a function does with stand-ins.

Tensors from outside are captured, each as an input of its own, even where several are views of one
memory; to change such memory is refused. The graph is for whoever made the trace to emit again.
"""

from __future__ import annotations

from typing import Any

from flamec.errors import CompileError, user_location
from flamec.ir.graph import Value
from flamec.ir.types import TensorType
from flamec.roots import Root
from flamec.sources import InputSource
from flamec.state import thread
from flamec.tensor import Storage, Tensor
from flamec.trace import Trace


class InnerTrace(Trace):
    """See the module's docstring. ``outer``: the trace around it, or None; ``batch_randomness``:
    how ``vmap`` draws for the elements of a batch, None where the trace is not of one."""

    gives_numbers = False

    def __init__(self, batch_randomness: str | None = None) -> None:
        super().__init__()
        self.batch_randomness = batch_randomness
        self.is_batch = batch_randomness is not None
        self.outer = thread.trace
        self._captured: dict[Storage, list[Root]] = {}
        self._values: dict[Tensor, tuple[int, int, Value]] = {}  # of tensors from outside
        if self.outer is not None:
            self.oracle = self.outer.oracle

    def stand_in(self, type: TensorType, tracked: bool, storage: Storage | None = None) -> Tensor:
        """A tensor that stands for an argument, the next input of the graph."""
        value = self.add_input(type, InputSource("argument"))
        if tracked:
            self.tracked.add(value)
        return self.wrap(value, storage)

    def root_of(self, tensor: Tensor) -> Root:
        """Of several captured views of one memory, the one that the tensor is a view of."""
        captured = self._captured.get(tensor._storage)
        if captured is None:
            return super().root_of(tensor)
        fitting = [r for r in captured if tensor._steps[: len(r.steps)] == r.steps]
        if fitting:
            return max(fitting, key=lambda r: len(r.steps))
        if any(r.written for r in captured):
            raise _shared_memory("reading a tensor")
        return self._lift(tensor)

    def known(self, tensor: Tensor) -> tuple[int, int, Value] | None:
        """As in a trace; what a tensor from outside is around this one stays noted there."""
        return tensor._cached if tensor._trace is self else self._values.get(tensor)

    def remember(self, tensor: Tensor, root: Root, value: Value) -> None:
        if tensor._trace is self:
            super().remember(tensor, root, value)
            return
        self._values[tensor] = (self.serial, root.version, value)
        self.value_tensors[value] = tensor

    def _lift(self, tensor: Tensor) -> Root:
        source = InputSource("captured", held=tensor)
        value = self.add_input(tensor._type, source)
        root = Root(tensor._steps, value, tensor._type, input_position=len(self.sources) - 1)
        self._captured.setdefault(tensor._storage, []).append(root)
        self.roots.setdefault(tensor._storage, root)
        if tensor._trace is None and tensor._requires_grad:
            self.leaf_tensors[value] = tensor
        if self.is_outer_tracked(tensor):
            self.tracked.add(value)
        return root

    def write(self, target: Tensor, source: Tensor, name: str) -> Tensor:
        if len(self._captured.get(target._storage, ())) > 1:
            raise _shared_memory(name)
        return super().write(target, source, name)

    def is_outer_tracked(self, tensor: Tensor) -> bool:
        """Whether the tensor requires grad around the trace."""
        thread.trace = self.outer
        try:
            return tensor.requires_grad
        finally:
            thread.trace = self

    def number(self, container: Any, path: tuple[Any, ...], name: str) -> Tensor:
        """A number that a program reads at each call is an input of the trace around."""
        if self.outer is None:
            return super().number(container, path, name)
        return self.outer.number(container, path, name)

    def close(self) -> None:
        """Let go of all tensors: captured ones that live on remember this trace."""
        self.release()
        self._captured.clear()
        self._values.clear()
        self.sources.clear()
        self.requires_grad_reads.clear()
        self.gradients.reads.clear()


def _shared_memory(name: str) -> CompileError:
    return CompileError(
        f"{name}: several views of one memory are used in a function that changes it; "
        f"clone() one of them before (at {user_location()})"
    )
