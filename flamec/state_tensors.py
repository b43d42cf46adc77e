"""Tensors that a traced function finds in Python's state, as further arguments of its program.

In: places whose tensors vary (``varying_state.Lifted``) with what they hold when the trace begins.
Out: a tracer for each, which the place holds during the trace; leaves that follow those of the
arguments, so that all that is guarded of an argument (type, sizes, memory shared with others,
history) is guarded of them; and where a call reads them (``HeldTensors``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flamec.guarded_values import is_constant
from flamec.host_numbers import Place
from flamec.ir.shape import SymbolicDim
from flamec.ir.types import TensorType
from flamec.lifting import lift_argument
from flamec.roots import AliasDiscovered, overlaps_itself
from flamec.size_bounds import ANY_SIZE
from flamec.size_oracle import symbol_values
from flamec.structures import Structure, flatten, unflatten
from flamec.tensor import Tensor
from flamec.varying_state import SizesOfState, is_unchangeable

if TYPE_CHECKING:
    from flamec.trace import Trace


@dataclass(frozen=True, eq=False)
class HeldTensors:
    """A place that holds tensors in ``structure`` when a call begins."""

    place: Place
    structure: Structure


class StateTensors:
    """Of one trace: ``held``, and the tracers that stand for the leaves behind the arguments'.

    ``leaves`` and ``types`` of the call's arguments are extended. ``symbols``: of their sizes, by
    what those were at first and are now; sizes of which both are equal have one symbol.
    """

    def __init__(
        self,
        trace: Trace,
        leaves: list[Any],
        types: dict[int, TensorType],
        sizes: SizesOfState,
        symbols: Mapping[tuple[int, int], str],
    ) -> None:
        self.held: list[HeldTensors] = []
        self.met: list[Place] = []  # also the one where the trace failed
        self.proxies: list[Any] = []
        self._trace = trace
        self._leaves = leaves
        self._types = types
        self._sizes = sizes
        self._symbols = dict(symbols)

    def tracers(self, place: Place, value: Any) -> Any:
        """What is to stand for ``value``; None unless it is a tensor or a tuple of some."""
        leaves, structure = flatten(value)
        if not is_unchangeable(structure) or not any(type(v) is Tensor for v in leaves):
            return None
        if not all(is_constant(v) or _is_plain(v) for v in leaves):
            return None
        self.met.append(place)
        self.held.append(HeldTensors(place, structure))
        proxies = [
            self._proxy(place, number, leaf) if isinstance(leaf, Tensor) else self._constant(leaf)
            for number, leaf in enumerate(leaves)
        ]
        return unflatten(structure, iter(proxies))

    def _constant(self, leaf: Any) -> Any:
        self._leaves.append(leaf)
        self.proxies.append(leaf)
        return leaf

    def _proxy(self, place: Place, number: int, tensor: Tensor) -> Tensor:
        trace, position = self._trace, len(self._leaves)
        is_based = tensor._storage in trace.base_storages
        is_shared = tensor._storage in trace.roots or overlaps_itself(tensor)
        if is_shared and not is_based:
            raise AliasDiscovered(tensor._storage)
        self._leaves.append(tensor)
        type = tensor._type if is_based else self._type((place.identity, number), tensor)
        first = len(trace.sources)
        proxy = lift_argument(trace, tensor, position, type, place.name)
        for i in range(first, len(trace.sources)):  # in segments the place counts
            path = (place.key, number)
            trace.sources[i] = replace(trace.sources[i], container=place.owner, path=path)
        self.proxies.append(proxy)
        self._types[position] = proxy._type
        if trace.execution is not None:
            trace.execution.bind({position: proxy._type})
        return proxy

    def _type(self, key: Any, tensor: Tensor) -> TensorType:
        """The type with symbols for sizes that vary."""
        shape = list(tensor._type.shape)
        hints = self._trace.oracle.hints
        for axis, pair in self._sizes.varying(key, tensor).items():
            symbol = self._symbols.get(pair)
            if symbol is None:
                symbol = self._symbols[pair] = f"s{len(hints)}"
                dim = SymbolicDim.symbol(symbol)
                self._trace.oracle.declare(dim, symbol, pair[1], ANY_SIZE)
            shape[axis] = SymbolicDim.symbol(symbol)
        return tensor._type.with_shape(tuple(shape))

    def symbol_values(self) -> dict[str, int]:
        """The values of the symbols in the shapes of arguments and of tensors of the state."""
        return symbol_values(self._types, self._leaves)

    def release(self) -> None:
        """Let go of the tracers."""
        self.proxies.clear()


def _is_plain(value: Any) -> bool:
    return type(value) is Tensor and value._trace is None
