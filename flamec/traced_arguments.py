"""The arguments of a traced call: the names of their leaves, what of them varies, and tracers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flamec.errors import CompileError
from flamec.guarded_values import is_constant
from flamec.ir.shape import Dim, SymbolicDim
from flamec.lifting import lift_argument
from flamec.size_bounds import ANY_SIZE, SizeBounds
from flamec.structures import Structure
from flamec.tensor import Tensor

if TYPE_CHECKING:
    from flamec.guards import Recorder
    from flamec.trace import Trace


@dataclass
class Dynamic:
    """Which parts of the arguments vary: sizes by (leaf position, axis), and numbers.

    ``sizes[(leaf, axis)]`` is (symbol name, example size); ``bounds``: what is declared of
    sizes, by symbol; a size that is declared a multiple of a number is that times its symbol.
    ``pairs``: the other symbols by what the sizes were at first and are now. ``found``: what sizes
    are that values decide (``segments.Execution``). ``exact``: sizes that numbers decide on have
    the call's for examples. ``number_sizes``: whether numbers may be sizes that vary.
    ``one_program``: whether there will be no other program for sizes that this one does not serve.
    ``equal``: pairs of sizes that are equal in each call. ``companions``: symbols of sizes that are
    to vary because others do (``companion_sizes.py``).
    """

    sizes: Mapping[tuple[int, int], tuple[str, int]] = field(default_factory=dict)
    numbers: frozenset[int] = frozenset()
    bounds: Mapping[str, SizeBounds] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], str] = field(default_factory=dict)
    found: str = "constant"
    exact: bool = False
    number_sizes: bool = True
    one_program: bool = False
    equal: tuple[tuple[Dim, Dim], ...] = ()
    companions: frozenset[str] = frozenset()

    def size(self, symbol: str) -> Dim:
        """The size that a symbol stands for."""
        return SymbolicDim.symbol(symbol) * self.bounds.get(symbol, ANY_SIZE).multiple_of


def argument_labels(function: Callable[..., Any], structure: Structure) -> Iterator[str]:
    """A readable name for each argument leaf."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if hasattr(function, "__func__"):
        names = names[1:]
    positional, keyword = structure.children
    for position, child in enumerate(positional.children):
        label = names[position] if position < len(names) else f"arg{position}"
        yield from _child_labels(child, label)
    for key, child in zip(keyword.keys, keyword.children, strict=True):
        yield from _child_labels(child, str(key))


def _child_labels(structure: Structure, label: str) -> Iterator[str]:
    if structure.kind is None:
        yield label
        return
    keys = structure.keys or range(len(structure.children))
    for key, child in zip(keys, structure.children, strict=True):
        yield from _child_labels(child, f"{label}_{key}")


def argument_tracer(
    trace: Trace, recorder: Recorder, leaf: Any, position: int, dynamic: Dynamic, label: str
) -> Any:
    """What stands for a leaf of the arguments while the function is traced; ``label``: its name.

    CompileError for what no program can take.
    """
    if isinstance(leaf, Tensor):
        if leaf._trace is not None:
            raise CompileError(f"argument {label} is a tensor of another compiled function")
        shape: list[Dim] = list(leaf._type.shape)
        for axis in range(len(shape)):
            if (position, axis) in dynamic.sizes:
                shape[axis] = dynamic.size(dynamic.sizes[position, axis][0])
        return lift_argument(trace, leaf, position, leaf._type.with_shape(tuple(shape)), label)
    if position in dynamic.numbers:
        return recorder.host.argument(position, leaf, label)
    if isinstance(leaf, np.ndarray):
        raise CompileError(
            f"argument {label} of a compiled function is a NumPy {type(leaf).__name__}; pass "
            "flamec.from_numpy(array) instead"
        )
    if isinstance(leaf, Iterator):
        raise CompileError(
            f"argument {label} of a compiled function is a {type(leaf).__name__}: an iterator "
            "would be used up by tracing; pass a list or tuple instead"
        )
    if not is_constant(leaf):
        recorder.visit(leaf, label)
    return leaf
