"""Tensors and numbers of a trace that the function stored outside: they become real ones.

In: a traced call whose Python code is run each time. Tensors get the arrays that the program
computed; a number, and a tracer that stands for an argument, are replaced wherever lists,
dicts, attributes and closures refer to them. Invariant: after the call nothing of the trace
can be reached by the user.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from flamec.call_path import CHANGED
from flamec.capture import Captured, evaluate_size
from flamec.differentiable import RETAINED_OUTPUTS, DifferentiableProgram
from flamec.guard_code import TrustedCheck
from flamec.host_actions import Append, Write
from flamec.ir.shape import SymbolicDim, evaluate_dim, has_symbols
from flamec.program import Program
from flamec.references import replace_references
from flamec.split_program import DIVERGED, Attempt, SplitProgram
from flamec.structures import flatten, leaves_of, map_leaves, unflatten
from flamec.tensor import RuntimeNumber, Size, Tensor
from flamec.varying_state import place_of


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


def replace_sizes(container: Any, bindings: Mapping[str, int]) -> None:
    """Give symbolic sizes in a list, dict, set or deque, and in what is inside it, their values."""
    keys = list(container) if isinstance(container, (dict, set)) else []
    plain = [with_values(key, bindings) for key in keys]
    if any(one is not other for one, other in zip(keys, plain, strict=True)):
        if isinstance(container, set):
            container.clear()
            container.update(plain)
        else:
            values = list(container.values())
            container.clear()
            for key, value in zip(plain, values, strict=True):
                container[key] = value
    if isinstance(container, (set, frozenset)):
        return
    entries = container.items() if isinstance(container, dict) else enumerate(container)
    for key, item in list(entries):
        found = with_values(item, bindings)
        if found is not item:
            container[key] = found


def with_values(value: Any, bindings: Mapping[str, int]) -> Any:
    """A value of Python's state with the values of symbolic sizes: a container is changed, a tuple
    with sizes is another one."""
    if type(value) is SymbolicDim:
        return evaluate_dim(value, bindings)
    if isinstance(value, (list, dict, set, deque)):
        replace_sizes(value, bindings)
    elif isinstance(value, Size):
        return evaluate_size(value, bindings) if has_symbols(value) else value
    elif isinstance(value, tuple):
        parts = [with_values(part, bindings) for part in value]
        if any(part is not old for part, old in zip(parts, value, strict=True)):
            kind: Any = type(value)
            return kind(*parts) if hasattr(kind, "_fields") else kind(parts)
    return value


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
        self.captured = captured
        self._name = name
        self._changed = [
            g.owner for g in captured.guards if g.kind in ("length", "keys", "content")
        ]
        self._places = [
            (place, g.expected) for g in captured.guards if (place := place_of(g)) is not None
        ]
        captured.guards.clear()  # what they compare with may hold what is to be replaced

    def run(self, leaves: tuple[Any, ...], sizes: tuple[int, ...], attempt: Attempt) -> Any:
        """As the program's ``run``."""
        captured = self.captured
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
            bindings = dict(zip(captured.given_symbols, sizes, strict=True))
            bindings.update(captured.found_sizes)
            for container in self._changed:
                replace_sizes(container, bindings)
            for place, before in self._places:
                value = place.present()
                if value is not before:  # the function has put it there
                    found = with_values(value, bindings)
                    if found is not value:
                        place.put(found)
        _write_same(captured, same)
        for effect in captured.grads:
            target = effect.target if isinstance(effect.target, Tensor) else None
            if target is not None and id(target._grad) in same:
                target._grad = same[id(target._grad)]
        if not same:
            return result
        structure = captured.result_structure.children[0]  # before what escapes
        leaves = [same.get(id(leaf), leaf) for leaf in leaves_of(structure, result)]
        return unflatten(structure, iter(leaves))


def _write_same(captured: Captured, same: Mapping[int, Tensor]) -> None:
    """Let places that the program has written hold the tensors that the function stored."""
    for step in captured.host.steps if same else ():
        if isinstance(step, Write):
            step.place.put(map_leaves(lambda leaf: same.get(id(leaf), leaf), step.place.get()))
        elif isinstance(step, Append):
            held = step.place.get()
            for position, value in enumerate(list(held)):
                if any(id(leaf) in same for leaf in flatten(value)[0]):
                    held[position] = map_leaves(lambda leaf: same.get(id(leaf), leaf), value)
