"""Which sizes and numbers among the arguments of a compiled function vary from call to call.

In: the leaves of the arguments of each call that is traced. Out: what the trace is to take for
symbols and for numbers that the program is given (``Dynamic``).
"""

from __future__ import annotations

from typing import Any

from flamec.capture import Captured, actual_sizes
from flamec.companion_sizes import companions, settled
from flamec.numpy_numbers import is_scalar
from flamec.size_bounds import ANY_SIZE, SizeBounds, declared_bounds
from flamec.structures import Structure
from flamec.tensor import Tensor
from flamec.traced_arguments import Dynamic


class VaryingArguments:
    """What one function was called with, by ``call_key``."""

    def __init__(self) -> None:
        self._first_sizes: dict[Any, dict[tuple[int, int], int]] = {}
        self._varying: dict[Any, set[tuple[int, int]]] = {}
        self._fixed: dict[Any, set[tuple[int, int]]] = {}
        self._numbers: dict[Any, dict[int, Any]] = {}
        self._varying_numbers: dict[Any, set[int]] = {}
        self._static_numbers: set[Any] = set()

    def keep_numbers(self, key: Any) -> None:
        """Take the numbers of such calls for constants from now on: Python asks for them."""
        self._static_numbers.add(key)

    def settled(self, key: Any, dynamic: Dynamic, captured: Captured) -> Dynamic:
        """What to take for symbols instead, as a trace tells: the same ``dynamic`` if all is well,
        and if the function did what must not happen twice."""
        if captured.happened:
            return dynamic
        dynamic, fixed = settled(dynamic, captured.shape_guards)
        self._fixed.setdefault(key, set()).update(fixed)
        return dynamic

    def clear(self) -> None:
        for known in (
            self._first_sizes,
            self._varying,
            self._fixed,
            self._numbers,
            self._varying_numbers,
            self._static_numbers,
        ):
            known.clear()

    def dynamic(self, key: Any, leaves: list[Any], vary: bool | None) -> Dynamic:
        """What differs from earlier calls. ``vary``: the ``dynamic`` of ``compile``."""
        sizes: dict[tuple[int, int], int] = {
            (position, axis): size
            for position, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
            for axis, size in enumerate(leaf._type.shape)
            if isinstance(size, int)
        }
        marked = {
            (position, axis): bounds
            for position, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor)
            for axis, bounds in declared_bounds(leaf).items()
        }
        first = self._first_sizes.setdefault(key, sizes)
        varying = self._varying.setdefault(key, set())
        if vary is not False:
            varying |= {k for k, size in sizes.items() if first[k] != size}
        if vary:
            varying |= {k for k, size in sizes.items() if size > 1}
        others = companions(leaves, sizes, varying) if varying and vary is None else set()
        others -= self._fixed.get(key, set()) | marked.keys()
        varying |= marked.keys()
        names: dict[Any, str] = {}
        bounds: dict[str, SizeBounds] = {}
        declared_pairs = {(first[p], sizes[p]): declared for p, declared in marked.items()}
        symbols: dict[tuple[int, int], tuple[str, int]] = {}
        positions = {id(leaf): p for p, leaf in reversed(list(enumerate(leaves)))}
        for place in sorted(varying):
            if positions[id(leaves[place[0]])] != place[0]:
                continue  # a tensor that is given twice is one input
            pair = (first[place], sizes[place])
            declared = marked.get(place, declared_pairs.get(pair, ANY_SIZE))
            name = names.setdefault((pair, declared), f"s{len(names)}")
            example = next((s for s in pair if s > 1), 2 + len(names))
            if declared != ANY_SIZE:
                bounds[name] = declared
                example = sizes[place]
            symbols[place] = (name, example)
        given = [p for p in sorted(others) if positions[id(leaves[p[0]])] == p[0]]
        companion = {p: f"s{number}" for number, p in enumerate(given, len(names))}
        symbols |= {p: (s, sizes[p]) for p, s in companion.items()}
        numbers = {
            position: leaf
            for position, leaf in enumerate(leaves)
            if (isinstance(leaf, (int, float)) and not isinstance(leaf, bool)) or is_scalar(leaf)
        }
        first_numbers = self._numbers.setdefault(key, numbers)
        varied = self._varying_numbers.setdefault(key, set())
        varied |= {p for p, v in numbers.items() if first_numbers[p] != v}
        constant = key in self._static_numbers
        pairs = {pair: name for (pair, declared), name in names.items() if declared == ANY_SIZE}
        return Dynamic(
            symbols,
            frozenset(() if constant else varied),
            bounds,
            pairs,
            companions=frozenset(companion.values()),
        )


def call_key(leaves: list[Any], structure: Structure) -> Any:
    """Calls with equal keys differ in sizes and values alone."""
    return structure, tuple(_leaf_kind(leaf) for leaf in leaves)


def guards_hold(captured: Captured, leaves: list[Any]) -> bool:
    """Whether what a trace decided by sizes, of which it takes small ones for larger, is so for the
    sizes of the call."""
    sizes = {
        **captured.trace.oracle.hints,
        **actual_sizes(captured, [*leaves, *captured.found]),
        **captured.found_sizes,
    }
    return all(guard.check(sizes) for guard in captured.shape_guards)


def exact_sizes(dynamic: Dynamic, leaves: list[Any]) -> dict[tuple[int, int], tuple[str, int]]:
    """The symbolic sizes with those of the call for examples."""
    return {
        (leaf, axis): (symbol, leaves[leaf]._type.shape[axis])
        for (leaf, axis), (symbol, _) in dynamic.sizes.items()
    }


def _leaf_kind(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (leaf.dtype.name, leaf.ndim)
    return type(leaf).__name__
