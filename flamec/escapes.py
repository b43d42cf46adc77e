"""Tensors and numbers of a trace that the function stored outside: they become real ones.

In: a traced call whose Python code is run each time. Tensors get the arrays that the program
computed; a number, and a tracer that stands for an argument, are replaced wherever lists,
dicts, attributes and closures refer to them. Invariant: after the call nothing of the trace
can be reached by the user.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Mapping, Sequence
from types import CellType, FrameType
from typing import Any

import numpy as np

from flamec.call_path import CHANGED
from flamec.capture import Captured
from flamec.differentiable import RETAINED_OUTPUTS, DifferentiableProgram
from flamec.errors import CompileError
from flamec.guard_code import TrustedCheck
from flamec.host_actions import Write
from flamec.ir.shape import SymbolicDim, evaluate_dim
from flamec.program import Program
from flamec.split_program import DIVERGED, Attempt, SplitProgram
from flamec.structures import is_namedtuple, map_leaves
from flamec.tensor import RuntimeNumber, Tensor


def become(tensor: Tensor, real: Tensor) -> None:
    """Make a tensor of a trace the same as a real one: its memory, its place in autograd."""
    tensor._array = real._array
    tensor._type = real._type
    tensor._storage = real._storage
    tensor._steps = real._steps
    tensor._value = real._value
    tensor._value_version = real._value_version
    tensor._trace = None
    tensor._cached = None


def replace_references(old: Any, new: Any, name: str, ours: Sequence[Any] = ()) -> None:
    """Let every container that refers to ``old`` refer to ``new``; ``ours`` are left alone.

    CompileError for a container whose elements cannot be replaced. No function within this one
    may use its variables: they would be in cells, which are containers.
    """
    kept = set(map(id, ours))
    referrers = gc.get_referrers(old)
    kept.add(id(referrers))
    for container in referrers:
        if id(container) in kept or isinstance(container, FrameType):
            continue
        if isinstance(container, (tuple, frozenset)):
            changed = _with_part(container, old, new)
            replace_references(container, changed, name, (*ours, referrers))
        elif not _replace(container, old, new):
            raise CompileError(
                f"{name}: a number or an argument of the compiled function was stored in a "
                f"{type(container).__name__}, where it cannot be given its value; store it in a "
                "list, a dict or an attribute, or return it"
            )


def replace_sizes(container: Any, bindings: Mapping[str, int]) -> None:
    """Give symbolic sizes in a list, dict or deque, and in such inside it, their values."""
    entries = container.items() if isinstance(container, dict) else enumerate(container)
    for key, item in list(entries) if not isinstance(container, (set, frozenset)) else ():
        if isinstance(item, SymbolicDim):
            container[key] = evaluate_dim(item, bindings)
        elif isinstance(item, (list, dict, deque)):
            replace_sizes(item, bindings)


def _with_part(container: Any, old: Any, new: Any) -> Any:
    """A tuple or frozenset with ``new`` in the place of ``old``."""
    parts = [new if item is old else item for item in container]
    return type(container)(*parts) if is_namedtuple(container) else type(container)(parts)


def _replace(container: Any, old: Any, new: Any) -> bool:
    if isinstance(container, (list, deque)):
        for position, item in enumerate(container):
            if item is old:
                container[position] = new
        return True
    if isinstance(container, dict):
        items = [(new if k is old else k, new if v is old else v) for k, v in container.items()]
        if any(key is old for key in container):
            container.clear()
        container.update(items)
        return True
    if isinstance(container, set):
        container.discard(old)
        container.add(new)
        return True
    if isinstance(container, CellType):
        container.cell_contents = new
        return True
    names = [*getattr(container, "__dict__", ())]
    names += [name for cls in type(container).__mro__ for name in vars(cls).get("__slots__", ())]
    found = [name for name in names if getattr(container, name, None) is old]
    for name in found:
        object.__setattr__(container, name, new)
    return bool(found)


def trust(program: Program | DifferentiableProgram | SplitProgram) -> None:
    """Let a program run without checking its captured tensors: those of the traced call."""
    if isinstance(program, SplitProgram):
        trust(program.final)
    elif isinstance(program, DifferentiableProgram):
        program.forward.check = TrustedCheck()
    else:
        program.check = TrustedCheck()


class OnceProgram:
    """A program for the call that was traced and no other: its Python code has effects.

    ``run`` also gives what the code stored outside its values.
    """

    def __init__(self, program: Any, captured: Captured, name: str) -> None:
        self.program = program
        self._captured = captured
        self._name = name
        self._changed = [
            g.owner for g in captured.guards if g.kind in ("length", "keys", "content")
        ]
        captured.guards.clear()  # what they compare with may hold what is to be replaced

    def run(self, leaves: tuple[Any, ...], sizes: tuple[int, ...], attempt: Attempt) -> Any:
        """As the program's ``run``."""
        captured = self._captured
        if isinstance(self.program, SplitProgram):
            found = self.program.run(leaves, sizes, attempt)
        else:
            found = self.program.run(leaves, sizes)
        if found is CHANGED or found is DIVERGED:
            return found
        result, *stored = found if captured.escapes else (found,)
        same: dict[int, Tensor] = {}
        for position, real in enumerate(stored):
            tensor = captured.escapes[position]
            if isinstance(tensor, RuntimeNumber):
                become(tensor, Tensor._from_array(np.array(real)))
                replace_references(tensor, real, self._name, (captured.escapes,))
            else:
                become(tensor, real)
                if tensor._retains_grad and tensor._value is not None:
                    RETAINED_OUTPUTS[tensor._value] = tensor
                same[id(real)] = tensor
        for reference, argument in captured.stored_arguments:
            tracer = reference()
            if tracer is not None:
                replace_references(tracer, argument, self._name)
                del tracer
        if captured.symbols:
            bindings = dict(zip(captured.symbols, sizes, strict=True))
            for container in self._changed:
                replace_sizes(container, bindings)
        _write_same(captured, same)
        for effect in captured.grads:
            target = effect.target if isinstance(effect.target, Tensor) else None
            if target is not None and id(target._grad) in same:
                target._grad = same[id(target._grad)]
        return map_leaves(lambda leaf: same.get(id(leaf), leaf), result) if same else result


def _write_same(captured: Captured, same: Mapping[int, Tensor]) -> None:
    """Let places that the program has written hold the tensors that the function stored."""
    for step in captured.host.steps if same else ():
        if isinstance(step, Write):
            step.place.put(map_leaves(lambda leaf: same.get(id(leaf), leaf), step.place.get()))
