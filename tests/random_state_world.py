"""The state and the function of a random program, and what is compared after each call.

``World`` executes the source of a ``StateProgram``; two worlds of one program are equal, so that
one can run the function compiled.
"""

from __future__ import annotations

import dataclasses
import linecache
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import flamec
from tests.random_state_programs import STATE, StateProgram

_NUMBERS = (bool, int, float, str)
_numbers = count()


class World:
    """The program's state and function; ``wrap`` is applied to the function once."""

    def __init__(self, program: StateProgram, wrap: Callable[[Any], Any]) -> None:
        self._module = ModuleType("random_state")
        self._module.__file__ = "<random program>"
        self.names: dict[str, Any] = vars(self._module)
        sys.modules["random_state"] = self._module  # dataclasses look for it
        name = f"<random program {next(_numbers)}>"
        lines = program.source.splitlines(keepends=True)
        linecache.cache[name] = len(program.source), None, lines, name  # for inspect.getsource
        exec(compile(program.source, name, "exec"), self.names)
        self.function = wrap(self.names["step"])
        self._seed = 0
        self.error: Exception | None = None

    def change(self, text: str) -> None:
        """Execute a statement, with random numbers that depend on its text alone."""
        self.error = None
        state = flamec.get_rng_state()
        exec(text, self.names)
        if "manual_seed" not in text:
            flamec.set_rng_state(state)

    def call(self, text: str, backward: bool) -> Any:
        """Call the function; what can be compared afterwards, with ``error``, which it raised.
        ``backward``: through its results, one after the other, as far as what they need is not
        freed."""
        names: dict[str, Any] = {}
        scope = {**self.names, "data": self._data}
        self._seed = int(text.rsplit("=", 1)[1])
        exec(text, scope, names)
        box = names["box"]
        items = box["a"]
        self.error = None
        try:
            result = self.function(names["x"], names["y"], names["n"], box)
        except Exception as error:
            result, self.error = [], error
        several = result if isinstance(result, (tuple, list)) else [result]
        tracked = [t.requires_grad for t in several]
        if backward and any(tracked[:1]):
            several[0].sum().backward()
            tracked += [_is_refused(t) for t in several[1:] if t.requires_grad]
        state = [plain(self.names[name]) for name in STATE]
        given = [plain(names["x"]), plain(names["y"]), plain(box), plain(items)]
        return [plain(result), tracked, given, state, self._identities(result, names)]

    def _identities(self, result: Any, names: dict[str, Any]) -> list[Any]:
        """Which tensors of the state, the arguments and the results are one, or share memory."""
        net, slots, kept = self.names["net"], self.names["slots"], self.names["get_kept"]()
        found = [names["x"], names["y"], self.names["captured"], self.names["view"], net.mean]
        found += [net.hidden, net.last, *net.pair, slots.a, slots.b, self.names["MEMORY"], kept]
        found += [*self.names["CACHE"].values(), *self.names["VALUES"]]
        found += result if isinstance(result, (list, tuple)) else [result]
        found = [t for t in found if isinstance(t, flamec.Tensor)]
        storages = [t._storage for t in found]
        return [
            [next(i for i, u in enumerate(found) if u is t) for t in found],
            [storages.index(s) for s in storages],
        ]

    def _data(self, *shape: int) -> flamec.Tensor:
        self._seed += 1
        return flamec.tensor(np.random.default_rng(self._seed).normal(size=shape))


def _is_refused(result: flamec.Tensor) -> bool:
    try:
        result.sum().backward()
    except RuntimeError as error:
        if "second time" not in str(error):
            raise
        return True
    return False


def plain(value: Any) -> Any:
    """A value as nested lists, with NumPy arrays for tensors."""
    if isinstance(value, flamec.Tensor):
        gradient = value.grad if value.is_leaf else None
        found = [value.detach().numpy().copy(), value.dtype.name, value.requires_grad]
        return [*found, None if gradient is None else gradient.numpy().copy()]
    if isinstance(value, flamec.nn.Module):
        tensors = {**dict(value.named_parameters()), **dict(value.named_buffers())}
        parts = [
            [plain(v) for k, v in sorted(vars(m).items()) if k[0] != "_" and type(v) in _NUMBERS]
            for m in value.modules()
        ]
        held = ("last", "hidden", "pair", "stats", "rows", "shape", "stage")
        return [plain(tensors), parts, [plain(getattr(value, name, None)) for name in held]]
    if isinstance(value, flamec.optim.Optimizer):
        groups = [{k: v for k, v in g.items() if k != "params"} for g in value.param_groups]
        return [[plain(s) for s in value.state.values()], plain(groups)]
    if isinstance(value, flamec.optim.lr_scheduler.LRScheduler):
        return [value.last_epoch, value.get_last_lr()]
    if type(value).__name__ == "Counter" and not isinstance(value, dict):
        best = plain(getattr(type(value), "best", None))
        return [value.t, value.rate, type(value).seen, type(value.t).__name__, best]
    if type(value).__name__ == "Slots":
        return [plain(value.a), plain(value.b)]
    if type(value).__name__ in ("Thing", "Another"):
        held = [plain(v) for k, v in sorted(vars(value).items()) if k not in ("held", "access")]
        return [held, type(value).rate, repr(vars(value).get("access"))]
    if type(value).__name__ in ("Horse", "Bird", "Stone"):
        own = [[k, v] for k, v in sorted(vars(value).items()) if not callable(v)]
        return [type(value).__name__, own, getattr(value, "legs", None)]
    if type(value).__name__ == "Meter":
        return [value.total, value.count, plain(value.history), type(value).made]
    if dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace):
        return plain(vars(value))
    if isinstance(value, ChainMap):
        return plain(value.maps)
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if type(value).__name__ == "function":  # what the closure holds
        return plain(value())
    if isinstance(value, Mapping):
        return [[str(key), plain(item)] for key, item in value.items()]
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        return [plain(item) for item in value]
    return [type(value).__name__, value]


def difference(a: Any, b: Any, path: str = "") -> str | None:
    """Where two such values differ, or None."""
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{path}: {len(a)} against {len(b)} parts"
        found = (difference(x, y, f"{path}/{i}") for i, (x, y) in enumerate(zip(a, b, strict=True)))
        return next((f for f in found if f is not None), None)
    if isinstance(a, (np.ndarray, float)) and type(a) is type(b):
        if np.shape(a) != np.shape(b) or not np.allclose(a, b, 1e-9, 1e-9, equal_nan=True):
            return f"{path}: {a} against {b}"
        return None
    return None if type(a) is type(b) and a == b else f"{path}: {a!r} against {b!r}"
