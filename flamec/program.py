"""A compiled variant of a function: its check, its runnable, and the call itself.

The call itself is generated (``call_path.py``); here are its parts that need no speed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from flamec.assumptions import build_check
from flamec.call_path import Binding, CallPath
from flamec.capture import Captured, evaluate_size
from flamec.collection_pause import collector_rests
from flamec.dispatch import apply
from flamec.guard_code import Check
from flamec.ir.graph import Value
from flamec.ir.op import lookup
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.ir.types import TensorType
from flamec.prepared import Prepared
from flamec.stages import Stages
from flamec.structures import Structure, rebuild, unflatten
from flamec.tape import Leaf, TapeNode
from flamec.tensor import Tensor, ViewStep
from flamec.traced_results import Result

MAX_BOUND_SIZES = 64


class Program:
    """One traced and compiled variant.

    ``check(args, kwargs)`` gives ``(leaves, sizes)`` if every assumption holds, else
    False; ``run(leaves, sizes)`` executes. ``prepared`` has the stages for inspection.
    ``splits``: where the function was split; a program in one piece has none.
    """

    splits: tuple[Any, ...] = ()

    def __init__(
        self,
        captured: Captured,
        prepared: Prepared,
        outputs_only: bool = False,
        check: Check | None = None,
    ) -> None:
        self.captured = captured
        self.prepared = prepared
        self.check: Check = self.checked(captured) if check is None else check
        self.freed = _freed_value(captured)
        self.gradient_owner: Callable[[], None] | None = None
        self.path = CallPath(self, outputs_only)
        self._local = _ThreadLocal()

    @staticmethod
    def checked(captured: Captured) -> Check:
        """The check of a traced call; the record lets go of the call's tensors."""
        check = build_check(captured)
        captured.trace.gradients.forget()
        captured.arguments = [None if isinstance(a, Tensor) else a for a in captured.arguments]
        return check

    @property
    def parts(self) -> list[tuple[str, Prepared]]:
        """The compiled programs, each with a title."""
        return [("", self.prepared)]

    @property
    def stages(self) -> Stages:
        """The program's stages as text, by name."""
        return Stages(self.prepared)

    # running ------------------------------------------------------------------
    def run(self, leaves: tuple[Any, ...], sizes: tuple[int, ...]) -> Any:
        """The function's result, or with ``outputs_only`` the graph's outputs as a tuple.

        CHANGED, and nothing has run, if captured tensors have other arrays than the check saw.
        """
        call = self._local.calls.get(sizes)
        if call is None:
            call = self._bind(sizes)
        return call(leaves)

    def _bind(self, sizes: tuple[int, ...]) -> Callable[[tuple[Any, ...]], Any]:
        with collector_rests():
            call = self.path.bind(Binding(self, sizes), sizes)
        known = self._local.calls
        known[sizes] = call
        if len(known) > MAX_BOUND_SIZES:
            known.popitem(last=False)
        return call

    def own(self, forget: Callable[[], None]) -> None:
        """From now on the call path that ``forget`` belongs to keeps gradients for reuse."""
        previous, self.gradient_owner = self.gradient_owner, forget
        if previous is not None:
            previous()

    def shape(self, type: TensorType, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The concrete shape of an output for given symbol values."""
        if not self.captured.symbols:
            return type.shape  # type: ignore[return-value]  # no symbols
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        return tuple(evaluate_dim(d, bindings) for d in type.shape)

    def size(self, dim: SymbolicDim, sizes: tuple[int, ...]) -> int:
        """A size for given symbol values."""
        return evaluate_dim(dim, dict(zip(self.captured.symbols, sizes, strict=True)))

    # results ------------------------------------------------------------------
    def rebuild(self, structure: Structure, leaves: Sequence[Any]) -> Any:
        """A container of the result, from its parts."""
        return rebuild(structure, list(leaves))

    def assemble(
        self, leaves: tuple[Any, ...], sizes: tuple[int, ...], tensors: Sequence[Tensor]
    ) -> Any:
        made = self.path.made
        results = [
            tensors[made[id(r)]] if id(r) in made else self.result(r, leaves, sizes, tensors)
            for r in self.captured.results
        ]
        return unflatten(self.captured.result_structure, iter(results))

    def result(
        self,
        result: Result,
        leaves: tuple[Any, ...],
        sizes: tuple[int, ...],
        tensors: Sequence[Tensor],
    ) -> Any:
        """The Python value of one leaf of the result."""
        kind = result.kind
        if kind == "container":
            return leaves[result.position]
        if kind == "fresh":
            tensor = self._fresh(result, tensors)
        elif kind == "argument":
            tensor = leaves[result.position]
        elif kind == "tensor":
            tensor = result.value
        elif kind == "base":
            storage = leaves[result.position]._storage if result.value is None else result.value
            tensor = Tensor._from_array(storage.base, storage.base_type, storage)
        elif kind == "number":
            return tensors[result.position].item()
        elif kind == "host":  # of ``outputs_only``
            return tensors[len(self.captured.graph.outputs) + result.position]
        elif kind == "size":
            return evaluate_size(result.value, dict(zip(self.captured.symbols, sizes, strict=True)))
        else:
            return result.value
        return self._replay(tensor, result.steps, sizes)

    def _fresh(self, result: Result, tensors: Sequence[Tensor]) -> Tensor:
        tensor = tensors[result.position]
        if result.freed and self.freed is not None:
            tensor._value = tensor._storage.value = self.freed
            tensor._value_version = 0
        return tensor

    def _replay(
        self, tensor: Tensor, steps: tuple[ViewStep, ...], sizes: tuple[int, ...]
    ) -> Tensor:
        if not steps:
            return tensor
        bindings = dict(zip(self.captured.symbols, sizes, strict=True))
        for op, attributes in steps:
            concrete = {k: _concrete(v, bindings) for k, v in attributes.items()}
            tensor = apply(op, (tensor,), concrete)
        return tensor


class _ThreadLocal(threading.local):
    """Call functions by sizes; each thread has its own, since they hold addresses."""

    def __init__(self) -> None:
        self.calls: OrderedDict[tuple[int, ...], Callable[[tuple[Any, ...]], Any]] = OrderedDict()


def _concrete(value: Any, bindings: Mapping[str, int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_concrete(v, bindings) for v in value)
    return evaluate_dim(value, bindings) if isinstance(value, SymbolicDim) else value


def _freed_value(captured: Captured) -> Value | None:
    """An autograd value whose history was consumed by a backward() inside the program."""
    stored = (o for step in captured.host.steps for o in step.operands if isinstance(o, Result))
    if not any(r.freed for r in (*captured.results, *stored)):
        return None
    type = captured.graph.outputs[0].type
    source = Leaf(Tensor._from_array(np.zeros((), type.dtype.numpy)))
    node = TapeNode(lookup("mul"), (source, source), {}, None, (type,))
    (value,) = node.seal()
    node.saved = None
    return value
